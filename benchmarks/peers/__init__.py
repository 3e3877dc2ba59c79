"""Key-value engines behind one small interface, one module each; each is imported only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

__all__ = ["NAMES", "Peer", "disk_bytes", "make"]

NAMES = ("mmstore", "lmdb", "rocksdb", "sqlite", "dict", "bare")


class Peer(Protocol):
    """One engine on one folder.  Each method does the whole loop, so that the callers' cost is the same for all."""

    name: str
    skips: frozenset[str]
    """Rows of the table that mean nothing for it."""

    def open(self, durable: bool) -> None:
        """Open (and make) the store; `durable`: each commit waits for the disk."""

    def close(self) -> None: ...
    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """All in one transaction, one put call each where the engine has no call for many."""

    def get(self, keys: Sequence[bytes]) -> int:
        """One call each; returns how many there were."""

    def get_many(self, keys: Sequence[bytes]) -> int:
        """The engine's best way to get many at once."""

    def scan(self) -> int:
        """All items; returns their number."""

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """One commit each."""

    def disk_bytes(self) -> int:
        """Bytes allocated on the disk."""


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below `folder` take on the disk."""
    return sum(os.stat(path).st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def make(name: str, folder: Path) -> Peer:
    """The engine `name`, its files in `folder`."""
    folder.mkdir(parents=True)
    peer: Peer = import_module(f"peers.{name}_").Engine(folder)
    return peer
