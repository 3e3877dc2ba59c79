"""mmstore: `db[key]` each, without a transaction object for reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmstore
from mmstore.database import Database
from peers import disk_bytes


class Engine:
    name = "mmstore"
    skips: frozenset[str] = frozenset()
    db: Database

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, durable: bool) -> None:
        self.db = mmstore.open(self.folder / "data.mms", durability="full" if durable else "relaxed")

    def close(self) -> None:
        self.db.close()

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with self.db.transaction() as txn:
            put = txn.put
            for key, value in zip(keys, values, strict=True):
                put(key, value)

    def load_many(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.db.put_many(keys, values)

    def get(self, keys: Sequence[bytes]) -> int:
        get, found = self.db.get, 0
        for key in keys:
            found += get(key) is not None
        return found

    def get_many(self, keys: Sequence[bytes]) -> int:
        return len(keys) - self.db.get_many(keys).count(None)

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
