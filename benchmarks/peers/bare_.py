"""No engine: a pwrite of 200 bytes and an fdatasync in a preallocated file, the least that a durable put can cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

ROOM = 4 << 20
RECORD = 200


class Engine:
    name = "bare"
    skips = frozenset({"load", "get hit", "get miss", "get_many", "scan", "bytes on disk per item"})
    file: int

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data"

    def open(self, durable: bool) -> None:
        self.durable = durable
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        for at in range(0, ROOM, 1 << 16):
            os.pwrite(self.file, bytes(1 << 16), at)
        os.fsync(self.file)

    def close(self) -> None:
        os.close(self.file)

    def load(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        raise NotImplementedError

    def get(self, keys: Sequence[bytes]) -> int:
        raise NotImplementedError

    def get_many(self, keys: Sequence[bytes]) -> int:
        raise NotImplementedError

    def scan(self) -> int:
        raise NotImplementedError

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        record, at = os.urandom(RECORD), 0
        for _ in keys:
            os.pwrite(self.file, record, at)
            if self.durable:
                os.fdatasync(self.file)
            at = (at + RECORD) % (ROOM - RECORD)

    def disk_bytes(self) -> int:
        return 0
