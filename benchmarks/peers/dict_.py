"""Python's own dict: what a lookup costs without any store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Engine:
    name = "dict"
    skips = frozenset({"put durable", "put relaxed", "bytes on disk per item"})

    def __init__(self, folder: Path) -> None:
        self.data: dict[bytes, bytes] = {}

    def open(self, durable: bool) -> None:
        pass

    def close(self) -> None:
        pass

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        data = self.data
        for key, value in zip(keys, values, strict=True):
            data[key] = value

    def get(self, keys: Sequence[bytes]) -> int:
        get, found = self.data.get, 0
        for key in keys:
            found += get(key) is not None
        return found

    def get_many(self, keys: Sequence[bytes]) -> int:
        return len(keys) - list(map(self.data.get, keys)).count(None)

    def scan(self) -> int:
        found = 0
        for _ in self.data.items():
            found += 1
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        raise NotImplementedError

    def disk_bytes(self) -> int:
        return 0
