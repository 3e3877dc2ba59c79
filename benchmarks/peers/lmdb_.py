"""py-lmdb: all gets inside one read transaction, which is the quickest way that it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from peers import disk_bytes


class Engine:
    name = "lmdb"
    skips: frozenset[str] = frozenset()
    env: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, durable: bool) -> None:
        self.env = lmdb.open(str(self.folder / "data"), map_size=64 << 30, subdir=False, sync=durable)

    def close(self) -> None:
        self.env.close()

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        with self.env.begin(write=True) as txn:
            put = txn.put
            for key, value in zip(keys, values, strict=True):
                put(key, value)

    def get(self, keys: Sequence[bytes]) -> int:
        found = 0
        with self.env.begin() as txn:
            get = txn.get
            for key in keys:
                found += get(key) is not None
        return found

    def get_many(self, keys: Sequence[bytes]) -> int:
        with self.env.begin() as txn, txn.cursor() as cursor:
            return len(cursor.getmulti(keys))

    def scan(self) -> int:
        found = 0
        with self.env.begin() as txn, txn.cursor() as cursor:
            for _ in cursor.iternext():
                found += 1
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        begin = self.env.begin
        for key, value in zip(keys, values, strict=True):
            with begin(write=True) as txn:
                txn.put(key, value)

    def disk_bytes(self) -> int:
        return disk_bytes(self.folder)
