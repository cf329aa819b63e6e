"""Recipes, artifacts, the console and running a stage; knows nothing of language models."""
