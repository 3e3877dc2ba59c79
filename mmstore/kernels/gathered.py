"""Puts of a transaction that wait to be entered into their index together, in one compiled call each.

A put is a few hundred nanoseconds of finding its bucket, most of them waiting for memory.  Many of them sorted by
their hashes find each bucket once; so whoever puts one by one need not pay for it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Gathered"]

SMALL = 1024  # bytes of key and value: larger ones are not gathered
OVERHEAD = 128  # bytes that the objects of a record take themselves


class Gathered:
    """``records``: key, value, key, value, ... for the keyspace ``name``, all bytes."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.records: list[Any] = []
        self.room = 0

    def start(self, name: bytes | None, room: int) -> None:
        """Take records for ``name`` from now on (None: for nobody), as far as ``room`` bytes of memory go."""
        self.name = name
        self.records = []
        self.room = room

    def take(self, name: bytes, key: Any, value: Any) -> bool:
        """Keep the record, if it is one of ``name``'s that is small, of bytes, and there is room."""
        if self.name is None or type(key) is not bytes or type(value) is not bytes:
            return False
        size = len(key) + len(value)
        if size > SMALL or self.room < size + OVERHEAD or name != self.name:
            return False
        self.room -= size + OVERHEAD
        self.records += (key, value)  # in one step, whatever strikes
        return True
