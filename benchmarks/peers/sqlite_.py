"""SQLite through apsw: one table WITHOUT ROWID in WAL mode; synchronous FULL when durable, else OFF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from peers import disk_bytes


class Engine:
    name = "sqlite"
    skips: frozenset[str] = frozenset()
    db: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, durable: bool) -> None:
        self.db = apsw.Connection(str(self.folder / "data.sqlite"))
        self.db.execute("pragma journal_mode = wal")
        self.db.execute(f"pragma synchronous = {'full' if durable else 'off'}")
        self.db.execute("pragma mmap_size = 17179869184")
        self.db.execute("create table if not exists kv (k blob primary key, v blob) without rowid")

    def close(self) -> None:
        self.db.close()

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with self.db:
            self.db.executemany("insert or replace into kv values (?, ?)", zip(keys, values, strict=True))

    def get(self, keys: Sequence[bytes]) -> int:
        execute, found = self.db.execute, 0
        for key in keys:
            found += execute("select v from kv where k = ?", (key,)).fetchone() is not None
        return found

    def get_many(self, keys: Sequence[bytes]) -> int:
        return sum(1 for _ in self.db.executemany("select v from kv where k = ?", ((key,) for key in keys)))

    def scan(self) -> int:
        found = 0
        for _ in self.db.execute("select k, v from kv"):
            found += 1
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        execute = self.db.execute
        for pair in zip(keys, values, strict=True):
            execute("insert or replace into kv values (?, ?)", pair)

    def disk_bytes(self) -> int:
        return disk_bytes(self.folder)
