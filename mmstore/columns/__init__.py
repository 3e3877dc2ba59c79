"""Columns: growable sequences of bytes in runs of pages, read as contiguous numpy arrays."""
