"""Keyspaces: the hash index from bytes to bytes, its descriptor, its large values, and how it is checked."""
