"""Rows on their way into a table: for each column the arrays that its sequences get, and how the log keeps them.

The *parts* of a column are arrays by name, as its type's layout has them (see `types`)::

    validity       bool, a row; left out while each row has a value
    values         fixed: (rows, *shape); category: i4 codes into `words`; list: the elements, one after the other
    offsets        i64, rows + 1, from 0 up: where a row's text or elements begin and end
    data           u8: the text
    word_offsets   i64, words + 1
    words          u8: the categories that the codes mean, those of this batch alone

In the log a batch is a u64 with the size of each part, then the parts' bytes, columns and parts in order; validity as
bits, of size 0 when left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from mmstore.columns import bitmap
from mmstore.columns.schema import Column
from mmstore.columns.together import in_parts
from mmstore.columns.types import CATEGORY, FIXED, LIST, Kind
from mmstore.errors import CorruptError
from mmstore.kernels.strings import copy_slices

__all__ = ["Array", "Batch", "Parts", "cut", "decode", "empty", "encode", "gather", "joined", "pick", "raw", "valid"]

Array: TypeAlias = np.ndarray[Any, Any]
Parts: TypeAlias = Mapping[str, Array]

_SIZE: Final = np.dtype("<u8")
_OFFSET: Final = np.dtype("<i8")
_BYTE: Final = np.dtype("u1")


class Batch(NamedTuple):
    """Rows for some columns."""

    rows: int
    columns: Sequence[Parts]
    """Of each column, in the order that the batch was made for."""


def raw(array: Array) -> memoryview:
    """The bytes of a contiguous array; datetimes have no buffer of their own kind."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def valid(parts: Parts) -> Array | None:
    """Which rows have a value; None if all have."""
    found = parts.get("validity")
    return None if found is None or found.all() else found


def cut(kind: Kind, parts: Parts, start: int, stop: int) -> Parts:
    """The rows [start, stop), as views; a category keeps all its words."""
    some = {}
    if "validity" in parts:
        some["validity"] = parts["validity"][start:stop]
    if "offsets" in parts:
        offsets = parts["offsets"][start : stop + 1]
        low, high = int(offsets[0]), int(offsets[-1])
        some["offsets"] = offsets - low if low else offsets
        name = "values" if kind.layout == LIST else "data"
        some[name] = parts[name][low:high]
        return some
    some["values"] = parts["values"][start:stop]
    if kind.layout == CATEGORY:
        some |= {name: parts[name] for name in ("word_offsets", "words")}
    return some


def gather(data: Array, starts: Array, offsets: Array) -> Array:
    """Slices of `data`, from each of `starts` on, one behind the other; `offsets` (one more) says where they begin.

    Raises `CorruptError` for a slice outside of `data`.
    """
    size = data.dtype.itemsize
    out = np.empty(int(offsets[-1]), data.dtype)
    wrong = copy_slices(
        raw(data), np.ascontiguousarray(starts * size), np.ascontiguousarray(offsets * size), _writable(out)
    )
    if wrong >= 0:
        raise CorruptError(f"row {wrong} leads outside {len(data)} elements of its column; run check()")
    return out


def _writable(array: Array) -> memoryview:
    return array.view(np.uint8).data if array.size else memoryview(bytearray())


def pick(kind: Kind, parts: Parts, rows: Array) -> Parts:
    """The rows with the numbers `rows`, in that order, as a copy; a category keeps all its words."""
    some: dict[str, Array] = {}
    if "validity" in parts:
        some["validity"] = parts["validity"][rows]
    if "offsets" not in parts:
        some["values"] = _taken(parts["values"], rows)
        return some | {name: parts[name] for name in ("word_offsets", "words") if name in parts}
    name = "values" if kind.layout == LIST else "data"
    starts = parts["offsets"][:-1][rows]
    offsets = np.zeros(len(rows) + 1, "<i8")
    np.cumsum(parts["offsets"][1:][rows] - starts, out=offsets[1:])
    return {**some, "offsets": offsets, name: gather(parts[name], starts, offsets)}


def _taken(values: Array, rows: Array) -> Array:
    """`values[rows]`, in half the time: the bounds are looked at once, and not again for each row."""
    if rows.dtype != np.int64 or int(rows.view(np.uint64).max(initial=0)) >= len(values):  # or it says what is wrong
        return values.take(rows, axis=0)
    out = np.empty((len(rows), *values.shape[1:]), values.dtype)

    def take(start: int, stop: int) -> None:
        values.take(rows[start:stop], axis=0, out=out[start:stop], mode="clip")

    in_parts(len(rows), take)
    return out


def joined(kind: Kind, pieces: Sequence[Parts]) -> Parts:
    """The rows of several batches, one behind the other.  Categories must have the same words."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return empty(kind)
    found: dict[str, Array] = {}
    if any("validity" in piece for piece in pieces):
        rows = [len(piece["offsets"]) - 1 if "offsets" in piece else len(piece["values"]) for piece in pieces]
        found["validity"] = np.concatenate(
            [piece.get("validity", np.ones(n, np.bool_)) for n, piece in zip(rows, pieces, strict=True)]
        )
    for name in pieces[0].keys() - {"validity", "offsets", "word_offsets", "words"}:
        found[name] = np.concatenate([piece[name] for piece in pieces])
    if "offsets" in pieces[0]:
        base, ends = 0, [np.zeros(1, "<i8")]
        for piece in pieces:
            ends.append(piece["offsets"][1:] + base)
            base += int(piece["offsets"][-1])
        found["offsets"] = np.concatenate(ends)
    return found | {name: pieces[0][name] for name in ("word_offsets", "words") if name in pieces[0]}


def empty(kind: Kind) -> Parts:
    """No rows."""
    found: dict[str, Array] = {}
    for name in kind.parts:
        if name in ("offsets", "word_offsets"):
            found[name] = np.zeros(1, "<i8")
        elif name != "validity":
            found[name] = np.empty((0, *kind.shape), kind.dtype if name == "values" else "u1")
    return found


# --- the log -----------------------------------------------------------------------------------------


def encode(columns: Sequence[Column], batch: Batch) -> list[Any]:
    """Buffers whose concatenation is the log's encoding of the batch."""
    bodies = []
    for column, parts in zip(columns, batch.columns, strict=True):
        for name in column.kind.parts:
            if name == "validity":
                bits = valid(parts)
                bodies.append(memoryview(b"") if bits is None else raw(bitmap.pack(bits)))
            else:
                bodies.append(raw(parts[name]))
    return [np.array([len(body) for body in bodies], _SIZE).tobytes(), *bodies]


def decode(columns: Sequence[Column], rows: int, payload: Any) -> Batch:
    """The batch that `encode` made.  Raises `CorruptError` for what can't have been made by it."""
    data = np.frombuffer(payload, _BYTE)
    names = [(column.kind, name) for column in columns for name in column.kind.parts]
    head = len(names) * _SIZE.itemsize
    if len(data) < head:
        raise CorruptError(f"a batch of {len(columns)} columns in the log has {len(data)} bytes; restore a backup")
    sizes = data[:head].view(_SIZE).tolist()
    if sum(sizes) != len(data) - head:
        raise CorruptError(f"a batch in the log has parts of {sum(sizes)} bytes in {len(data) - head}")
    bodies = _bodies(data[head:], sizes)
    return Batch(rows, [_column(column.kind, rows, bodies) for column in columns])


def _bodies(data: Array, sizes: list[int]) -> Iterator[Array]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size


def _column(kind: Kind, rows: int, bodies: Iterator[Array]) -> Parts:
    found = {name: next(bodies) for name in kind.parts}
    parts: dict[str, Array] = {}
    if "validity" in found and len(found["validity"]):
        bits = found["validity"]
        _expect(len(bits) == -(-rows // 8), kind, "its validity")
        parts["validity"] = bitmap.unpack(bits, rows)
    for name, body in found.items():
        if name in ("offsets", "word_offsets"):
            _expect(len(body) % _OFFSET.itemsize == 0, kind, "its offsets")
            parts[name] = body.view(_OFFSET)
        elif name == "values":
            _expect(len(body) % kind.item_size == 0, kind, "its values")
            parts[name] = body.view(kind.dtype).reshape(-1, *kind.shape)
        elif name != "validity":
            parts[name] = body
    if kind.layout in (FIXED, CATEGORY):
        _expect(len(parts["values"]) == rows, kind, "its values")
    if "offsets" in parts:
        _expect(len(parts["offsets"]) == rows + 1, kind, "its offsets")
        _runs_up(kind, parts["offsets"], len(parts["values" if kind.layout == LIST else "data"]))
    if kind.layout == CATEGORY:
        _runs_up(kind, parts["word_offsets"], len(parts["words"]))
        codes, words = parts["values"], len(parts["word_offsets"]) - 1
        _expect(not len(codes) or (int(codes.min()) >= 0 and int(codes.max()) < max(words, 1)), kind, "its codes")
    return parts


def _runs_up(kind: Kind, offsets: Array, end: int) -> None:
    right = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == end and not (offsets[1:] < offsets[:-1]).any()
    _expect(bool(right), kind, "its offsets")


def _expect(right: bool, kind: Kind, what: str) -> None:
    if not right:
        raise CorruptError(f"a batch in the log has a {kind} column that contradicts {what}; restore a backup")
