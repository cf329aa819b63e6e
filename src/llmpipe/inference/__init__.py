"""Ids in, ids out: sampling, the key-value cache, and the engine that serves many requests."""
