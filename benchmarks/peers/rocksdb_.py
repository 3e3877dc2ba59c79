"""RocksDB through rocksdict, in raw mode (bytes to bytes), with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from peers import disk_bytes


class Engine:
    name = "rocksdb"
    skips: frozenset[str] = frozenset()
    db: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, durable: bool) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self.db = Rdict(str(self.folder / "data"), options)
        writing = WriteOptions()
        writing.sync = durable
        self.db.set_write_options(writing)

    def close(self) -> None:
        self.db.close()

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in zip(keys, values, strict=True):
            batch.put(key, value)
        self.db.write(batch)

    def get(self, keys: Sequence[bytes]) -> int:
        get, found = self.db.get, 0
        for key in keys:
            found += get(key) is not None
        return found

    def get_many(self, keys: Sequence[bytes]) -> int:
        found: list[bytes | None] = self.db.get(list(keys))
        return len(keys) - found.count(None)

    def scan(self) -> int:
        found = 0
        for _ in self.db.items():
            found += 1
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        db = self.db
        for key, value in zip(keys, values, strict=True):
            db[key] = value

    def disk_bytes(self) -> int:
        return disk_bytes(self.folder)
