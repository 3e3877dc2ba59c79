"""Loads, stores and moves on raw buffers, for uncompiled runs; ``native.pxd`` has the same in C.

A kernel says ``raw.load32(page, at)``.  Uncompiled, ``page`` is a memoryview and this module does it;
compiled, ``page`` is a pointer and the call is one instruction.  So a function here never checks
anything: whoever calls it has checked the offset against the page (I6), and the uncompiled run, where
a bad offset is an exception, is what finds out about a caller that has not.

``load*`` reads memory that others may change meanwhile, exactly once; ``peek*`` our own memory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from struct import Struct
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

__all__ = [
    "COMPILED",
    "WINDOW",
    "address",
    "addresses",
    "below",
    "below_window",
    "check_codes",
    "check_offsets",
    "check_utf8",
    "clear",
    "come_back",
    "content",
    "copy_slices",
    "copy_views",
    "equal",
    "extremes",
    "fold64",
    "halves",
    "ints",
    "let_go",
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
    "text_extremes",
    "words",
    "writable",
    "writable_part",
    "xxh3_long",
]

Buffer = Any  # memoryview or bytes; a pointer in the compiled run

COMPILED = False  # what native.pxd says True to
WINDOW = 32
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


def ints(numbers: memoryview[int]) -> Buffer:
    """A read-only buffer of int32 as something to index."""
    return numbers


def addresses(buffers: list[Any], room: array[int]) -> Any:
    """Where these buffers are, an array("Q") with room for as many; the caller keeps them alive."""
    return buffers


def part(buffer: Buffer, at: int, n: int) -> Buffer:
    """The bytes [at, at + n) in place: a page of a mapping."""
    return buffer[at : at + n]


writable_part = part


def below(page: Buffer, at: int, n: int, bound: int) -> int:
    """How many of the n numbers of 32 bits from ``at`` on are below ``bound``; they should be ascending."""
    return bisect_left(range(n), bound, key=lambda i: load32(page, at + 4 * i))


def below_window(page: Buffer, at: int, bound: int) -> int:
    """The same of ``WINDOW`` numbers."""
    return below(page, at, WINDOW, bound)


def fold64(a: int, b: int) -> int:
    """The two halves of a * b, one xored onto the other."""
    product = a * b
    return (product ^ (product >> 64)) & MASK64


def xxh3_long(page: Buffer, at: int, n: int, seed: int, secret: Buffer) -> int:
    """xxh3_64 of the bytes [at, at + n), more than 240, where ``secret`` holds the algorithm's constants."""
    return xxh3_64_intdigest(page[at : at + n], seed)


def prefetch(page: Buffer, at: int) -> None:
    """Only the compiled run can do that."""


def let_go() -> Any:
    """Let other threads of Python run; what is done until ``come_back(its result)`` touches no object."""


def come_back(held: Any) -> None:
    """The end of that."""


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
    return _first(bad)


def check_codes(codes: Buffer, n: int, count: int) -> int:
    """The first of n codes that is not in [0, count); -1 if all are."""
    numbers = np.frombuffer(codes, np.int32, n)
    return _first((numbers < 0) | (numbers >= count))


def check_utf8(data: Buffer, offsets: Buffer, n: int) -> int:
    """The first of n rows that is not UTF-8 by itself, -1 if all are; the offsets have been checked."""
    first, last = offsets[0], offsets[n]
    at = last
    text = bytes(data[first:last])
    if text.isascii():
        return -1
    try:
        text.decode()
    except UnicodeDecodeError as error:
        at = first + error.start
    starts = np.frombuffer(offsets, np.int64, n)
    starts = starts[(starts > first) & (starts < at)]
    cut = np.frombuffer(text, np.uint8)[starts - first] & 0xC0 == 0x80
    if cut.any():  # a row begins inside a code point: the row of the byte before ends too soon
        at = int(starts[cut.argmax()]) - 1
    elif at == last:
        return -1
    return int(np.searchsorted(np.frombuffer(offsets, np.int64, n + 1), at, "right")) - 1


def text_extremes(data: Buffer, size: int, starts: Buffer, stops: Buffer, n: int, ends: Buffer) -> int:
    """The first of n rows that is smallest, and the first that is largest, by 16 bytes, into ends (int64).

    Returns -1, or the first row that leaves data.
    """
    first, last = np.frombuffer(starts, np.int64, n), np.frombuffer(stops, np.int64, n)
    wrong = _first((first < 0) | (last < first) | (last > size))
    if wrong >= 0:
        return wrong
    padded = np.zeros(size + 24, np.uint8)
    padded[:size] = np.frombuffer(data, np.uint8, size)
    everywhere = np.ndarray(size + 17, ">u8", padded.data, strides=(1,))

    def words(rows: Any, skip: int) -> Any:
        """8 bytes of each row as a number that compares like them; what is missing counts as zeros."""
        missing = 8 * (8 - np.clip(last[rows] - first[rows] - skip, 0, 8)).astype(np.uint64)
        cut = missing % np.uint64(64)
        found = everywhere[np.minimum(first[rows] + skip, size)].astype(np.uint64)
        return np.where(missing < 64, found >> cut << cut, np.uint64(0))

    places = np.frombuffer(ends, np.int64)
    places[:] = -1
    word = words(slice(None), 0)
    for i, pick in enumerate((np.min, np.max) if n else ()):
        rows = np.flatnonzero(word == pick(word))
        more = words(rows, 8)
        places[i] = rows[np.flatnonzero(more == pick(more))[0]]
    return -1


def copy_slices(source: Buffer, size: int, starts: Buffer, offsets: Buffer, n: int, out: Buffer, room: int) -> int:
    """Copies n slices of source to where offsets say; returns -1, or the first that is out of bounds."""
    place, length = _places(offsets, n)
    begin = np.frombuffer(starts, np.int64, n)
    bad = (place < 0) | (length < 0) | (place + length > room)
    bad |= (length > 0) & ((begin < 0) | (length > size) | (begin > size - length))
    wrong = _first(bad)
    good = slice(n if wrong < 0 else wrong)
    _scatter(source, begin[good], out, place[good], length[good])
    return wrong


def copy_views(
    views: Buffer, buffers: list[Any], sizes: Buffer, n_buffers: int, offsets: Buffer, n: int, out: Buffer, room: int
) -> int:
    """The same of n Arrow string views."""
    place, length = _places(offsets, n)
    view = np.frombuffer(views, np.int32, 4 * n).reshape(n, 4).astype(np.int64)
    limits = np.array([*sizes[:n_buffers], 0], np.int64)
    long = (length > 12) & (view[:, 0] == length)
    known = (view[:, 2] >= 0) & (view[:, 2] < n_buffers)
    limit = limits[np.where(known, view[:, 2], n_buffers)]
    bad = (place < 0) | (length < 0) | (place + length > room)
    bad |= (length > 0) & (view[:, 0] != length)
    bad |= long & (~known | (view[:, 3] < 0) | (view[:, 3] + length > limit))
    wrong = _first(bad)
    rows = np.arange(n if wrong < 0 else wrong)
    short = rows[~long[rows]]
    _scatter(views, 16 * short + 4, out, place[short], length[short])
    for number in range(n_buffers):
        here = rows[long[rows] & (view[rows, 2] == number)]
        _scatter(buffers[number], view[here, 3], out, place[here], length[here])
    return wrong


def extremes(values: Buffer, n: int, kind: int, ends: Buffer) -> int:
    """-1: uncompiled, there is no loop of our own over this type."""
    return -1


def _first(bad: Any) -> int:
    return int(bad.argmax()) if bad.any() else -1


def _places(offsets: Buffer, n: int) -> tuple[Any, Any]:
    """Where each of n slices goes, and its length; one that would wrap is of length -1."""
    place = np.frombuffer(offsets, np.int64, n + 1)
    falls = (place[:-1] < 0) | (place[1:] < place[:-1])
    return place[:-1], np.where(falls, -1, place[1:] - place[:-1])


def _scatter(source: Buffer, starts: Any, out: Buffer, places: Any, lengths: Any) -> None:
    """Copy slices, all of them in bounds."""
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    to = np.frombuffer(out, np.uint8)
    to[np.repeat(places, lengths) + step] = np.frombuffer(source, np.uint8)[np.repeat(starts, lengths) + step]
