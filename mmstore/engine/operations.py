"""The logical operations of a transaction, as the log keeps them.

A log record's payload is a sequence of operations; replaying them on the root before gives the
transaction's state again, on whatever pages are free then.  An ``Operations`` collects them while the
transaction runs and gives up when they outgrow the log's limit: such a transaction is committed by a
checkpoint, and needs no log.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from mmstore import format as fmt
from mmstore.errors import CorruptError

__all__ = ["Operation", "Operations", "decode"]

_OP = fmt.OP.struct
_ROWS = 8


class Operation(NamedTuple):
    """One decoded operation; ``name`` b"" is the store's own keyspace."""

    code: int
    name: bytes
    key: bytes
    value: bytes


class Operations:
    """Operations of a running transaction, at most ``limit`` bytes; beyond, ``complete`` is False.

    ``count``: how many were added, kept or not.
    """

    __slots__ = ("_parts", "complete", "count", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.count = 0
        self.complete = limit > 0
        self._parts: list[bytes] = []

    def add(self, code: int, name: bytes, key: Any = b"", value: Any = b"") -> None:
        self.count += 1
        if not self.complete:
            return
        key_size, value_size = len(key), len(value)
        size = _OP.size + len(name) + key_size + value_size
        if self.size + size > self.limit:
            self._give_up()
            return
        self.size += size
        self._parts.append(b"".join((_OP.pack(code, 0, len(name), key_size, value_size), name, key, value)))

    def add_slices(self, code: int, name: bytes, keys: tuple[Any, Any], values: tuple[Any, Any]) -> None:
        """Add an operation for each of the keys and values, which are (bytes, n + 1 offsets), if all can be kept."""
        size = sum(ends[-1] - ends[0] for _, ends in (keys, values))
        if not self.complete or self.size + size > self.limit:
            self.outgrow()
            return
        key_ends, value_ends = keys[1].tolist(), values[1].tolist()
        key_bytes, value_bytes = memoryview(keys[0]), memoryview(values[0])
        for (a, b), (c, d) in zip(pairwise(key_ends), pairwise(value_ends), strict=True):
            self.add(code, name, key_bytes[a:b], value_bytes[c:d])

    def outgrow(self) -> None:
        """Add an operation that is larger than the limit, or comes after one that was."""
        self.count += 1
        self._give_up()

    def _give_up(self) -> None:
        self.complete = False
        self._parts.clear()

    def __len__(self) -> int:
        return len(self._parts)

    def payload(self) -> list[bytes]:
        """The record's payload, in parts."""
        return self._parts

    def mark(self) -> tuple[int, int]:
        return self.count, self.size

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forget what was added since ``mark``; what outgrew the limit once stays incomplete."""
        self.count, size = mark
        if self.complete:
            self.size = size
            del self._parts[self.count :]


def decode(payload: bytes) -> Iterator[Operation]:
    """The operations of one record; CorruptError where they do not fit its length."""
    at, end = 0, len(payload)
    while at < end:
        if at + _OP.size > end:
            raise CorruptError("a log record ends inside an operation; restore a backup")
        code, _, name_size, key_size, value_size = _OP.unpack_from(payload, at)
        at += _OP.size
        stop = at + name_size + key_size + value_size
        if stop > end or code not in fmt.OPERATIONS:
            raise CorruptError(f"a log record has an impossible operation (code {code}); restore a backup")
        key_at = at + name_size
        value_at = key_at + key_size
        yield Operation(code, payload[at:key_at], payload[key_at:value_at], payload[value_at:stop])
        at = stop
