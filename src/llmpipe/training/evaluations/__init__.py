"""Evaluations of a model while it is trained: the hook, two of our own, and the way to add yours."""
