"""Text to ids and back: byte-level BPE, its files, and the token shards. Loads without torch."""
