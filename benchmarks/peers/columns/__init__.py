"""Stores of columns behind one small interface, one module each; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

__all__ = ["NAMES", "Batch", "Peer", "make"]

NAMES = ("mmstore", "memmap", "feather", "h5py", "zarr", "parquet", "duckdb")

Batch: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


class Peer(Protocol):
    """One store of one table in one folder.  Each method does the whole of what is timed, in the store's best way."""

    name: str
    skips: frozenset[str]
    """Rows of the table that mean nothing for it."""

    def write(self, batches: Sequence[Batch]) -> None:
        """Make the store and write all batches, one call each; durable when this returns.  It is closed then."""

    def open(self) -> None:
        """A new handle, ready to read any column."""

    def close(self) -> None: ...
    def sum(self, column: str) -> float:
        """The sum of a whole column."""

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> Batch:
        """Rows by number, in that order."""

    def start_appending(self) -> None:
        """A handle to write with; not timed."""

    def append(self, batch: Batch) -> None:
        """Durable when this returns."""


def make(name: str, folder: Path) -> Peer:
    """The store `name`, its files in `folder`."""
    folder.mkdir(parents=True)
    peer: Peer = import_module(f"peers.columns.{name}_").Store(folder)
    return peer
