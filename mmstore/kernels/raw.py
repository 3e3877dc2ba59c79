"""Loads, stores and moves on raw buffers, for uncompiled runs; ``native.pxd`` has the same in C.

A kernel says ``raw.load32(page, at)``.  Uncompiled, ``page`` is a memoryview and this module does it;
compiled, ``page`` is a pointer and the call is one instruction.  So a function here never checks
anything: whoever calls it has checked the offset against the page (I6), and the uncompiled run, where
a bad offset is an exception, is what finds out about a caller that has not.

``load*`` reads memory that others may change meanwhile, exactly once; ``peek*`` our own memory.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

__all__ = [
    "COMPILED",
    "address",
    "check_offsets",
    "clear",
    "content",
    "equal",
    "fold64",
    "halves",
    "load16",
    "load32",
    "load64",
    "load8",
    "longs",
    "move",
    "part",
    "peek32",
    "peek64",
    "peek8",
    "prefetch",
    "prefetch_item",
    "prefetch_slot",
    "sort64",
    "store16",
    "store32",
    "store64",
    "store8",
    "take",
    "words",
    "writable",
    "writable_part",
    "xxh3_long",
]

Buffer = Any  # memoryview or bytes; a pointer in the compiled run

COMPILED = False  # what native.pxd says True to
MASK64 = (1 << 64) - 1
_16 = Struct("<H")
_32 = Struct("<I")
_64 = Struct("<Q")


def load8(page: Buffer, at: int) -> int:
    return page[at]  # type: ignore[no-any-return]


def load16(page: Buffer, at: int) -> int:
    return _16.unpack_from(page, at)[0]  # type: ignore[no-any-return]


def load32(page: Buffer, at: int) -> int:
    return _32.unpack_from(page, at)[0]  # type: ignore[no-any-return]


def load64(page: Buffer, at: int) -> int:
    return _64.unpack_from(page, at)[0]  # type: ignore[no-any-return]


peek8 = load8
peek32 = load32
peek64 = load64


def store8(page: Buffer, at: int, value: int) -> None:
    page[at] = value


def store16(page: Buffer, at: int, value: int) -> None:
    _16.pack_into(page, at, value)


def store32(page: Buffer, at: int, value: int) -> None:
    _32.pack_into(page, at, value)


def store64(page: Buffer, at: int, value: int) -> None:
    _64.pack_into(page, at, value)


def move(to: Buffer, to_at: int, source: Buffer, at: int, n: int) -> None:
    """memmove: the two may overlap."""
    to[to_at : to_at + n] = source[at : at + n]


def clear(page: Buffer, at: int, n: int) -> None:
    page[at : at + n] = bytes(n)


def equal(a: Buffer, a_at: int, b: Buffer, b_at: int, n: int) -> bool:
    return a[a_at : a_at + n] == b[b_at : b_at + n]  # type: ignore[no-any-return]


def take(page: Buffer, at: int, n: int) -> bytes:
    """A copy of the bytes [at, at + n)."""
    return bytes(page[at : at + n])


def address(view: Buffer) -> Buffer:
    """The first byte of a read-only buffer; the caller keeps the buffer alive."""
    return view


def writable(view: Buffer) -> Buffer:
    """The first byte of a writable buffer; the caller keeps the buffer alive."""
    return view


def content(data: bytes) -> Buffer:
    """The first byte of a bytes object."""
    return data


def words(numbers: array[int] | memoryview[int]) -> Buffer:
    """An array("Q"), or a part of one, as something to index."""
    return numbers


def halves(numbers: array[int]) -> Buffer:
    """An array("I") as something to index."""
    return numbers


def longs(numbers: array[int] | memoryview[int]) -> Buffer:
    """An array("q"), or a read-only buffer of int64, as something to index."""
    return memoryview(numbers)


def part(buffer: Buffer, at: int, n: int) -> Buffer:
    """The bytes [at, at + n) in place: a page of a mapping."""
    return buffer[at : at + n]


writable_part = part


def fold64(a: int, b: int) -> int:
    """The two halves of a * b, one xored onto the other."""
    product = a * b
    return (product ^ (product >> 64)) & MASK64


def xxh3_long(page: Buffer, at: int, n: int, seed: int, secret: Buffer) -> int:
    """xxh3_64 of the bytes [at, at + n), more than 240, where ``secret`` holds the algorithm's constants."""
    return xxh3_64_intdigest(page[at : at + n], seed)


def prefetch(page: Buffer, at: int) -> None:
    """Only the compiled run can do that."""


def prefetch_slot(items: list[Any], i: int) -> None:
    """Have the place ``items[i]`` of a list on its way."""


def prefetch_item(items: list[Any], i: int) -> None:
    """Have the object at ``items[i]`` on its way."""


def sort64(numbers: Buffer, scratch: Buffer, n: int, low: int) -> None:
    """Sorts the first n by their bits [low, 64); equal ones keep their order."""
    numbers[:n] = array("Q", sorted(numbers[:n], key=lambda number: number >> low))


# --- loops over columns: columns.h ------------------------------------------------------------------


def check_offsets(offsets: Buffer, n: int, limit: int) -> int:
    """The first of n offsets that is below 0, beyond limit or below its predecessor; -1 if none is."""
    numbers = np.frombuffer(offsets, np.int64, n)
    bad = (numbers < 0) | (numbers > limit)
    bad[1:] |= numbers[1:] < numbers[:-1]
    return int(bad.argmax()) if bad.any() else -1
