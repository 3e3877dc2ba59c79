"""Keys of tables: the bytes by which a row is found in its table's key index.

A key of one column is that column's value: 8 bytes for integers, whatever their width, as many as it has for other
types of a fixed width, S without the zeros at its end, text and bytes as they are.  A key of several columns is their
keys, one behind the other, each of variable length with its length (u32) in front.  So different rows have different
keys, and equal ones the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mmstore.columns.batch import Array, Parts, gather
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import FIXED
from mmstore.errors import SchemaError

__all__ = ["MAX_KEY", "key_columns", "pack"]

MAX_KEY: Final = 65535


def key_columns(schema: Schema) -> list[int]:
    """Positions of the columns that make the key, in its order."""
    return [schema.position(name) for name in schema.key or ()]


def pack(columns: Sequence[Column], batch: Sequence[Parts], numbers: Array | None = None) -> tuple[Array, Array]:
    """(bytes of the keys one behind the other, where they begin and end: int64, rows + 1).

    numbers: of the rows in their table, for messages.

    Raises `SchemaError` where a key is longer than 65,535 bytes.
    """
    if len(columns) == 1 and columns[0].kind.layout == FIXED and columns[0].dtype.kind != "S":
        values = _values(columns[0], batch[0])  # all of one length, and they lie so already
        width = values.dtype.itemsize
        offsets = np.arange(0, (len(values) + 1) * width, width, dtype=np.int64)
        if width > MAX_KEY and len(values):
            raise _too_long(columns, offsets, numbers)
        return values.view(np.uint8), offsets
    pieces = [_one(column, parts) for column, parts in zip(columns, batch, strict=True)]
    if len(pieces) == 1:
        data, starts, lengths = pieces[0]
        offsets = _ends(lengths)
        if not np.array_equal(starts, offsets[:-1]) or offsets[-1] != len(data):  # else they lie so already
            data = gather(data, starts, offsets)
    else:
        data, offsets = _combined(columns, pieces)
    if int(np.diff(offsets).max(initial=0)) > MAX_KEY:
        raise _too_long(columns, offsets, numbers)
    return data, offsets


def _too_long(columns: Sequence[Column], offsets: Array, numbers: Array | None) -> SchemaError:
    lengths = np.diff(offsets)
    at = int(np.flatnonzero(lengths > MAX_KEY)[0])
    names = ", ".join(repr(column.name) for column in columns)
    where = f"position {at:,} of the data" if numbers is None else f"row {int(numbers[at]):,}"
    return SchemaError(
        f"the key of column{'s' * (len(columns) > 1)} {names} has {int(lengths[at]):,} bytes at {where}; a key has at "
        f"most {MAX_KEY:,}, use a hash of it as key"
    )


def _values(column: Column, parts: Parts) -> Array:
    """Values of a fixed layout as keys have them: integers in 8 bytes."""
    values = np.ascontiguousarray(parts["values"])
    if column.dtype.kind in "iu":
        values = values.astype("<u8" if column.dtype.kind == "u" else "<i8", copy=False)
    return values


def _one(column: Column, parts: Parts) -> tuple[Array, Array, Array]:
    """(bytes, where in them each row's key starts, its length)."""
    kind = column.kind
    if kind.layout != FIXED:
        offsets = parts["offsets"]
        return parts["data"], offsets[:-1], np.diff(offsets)
    values = _values(column, parts)
    width = values.dtype.itemsize
    starts = np.arange(len(values), dtype=np.int64) * width
    lengths = np.strings.str_len(values) if kind.dtype.kind == "S" else np.full(len(values), width)
    return values.view(np.uint8), starts, lengths.astype(np.int64)


def _ends(lengths: Array) -> Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _combined(columns: Sequence[Column], pieces: Sequence[tuple[Array, Array, Array]]) -> tuple[Array, Array]:
    """Keys of several columns: each row's pieces are gathered from all columns' bytes, laid one behind the other."""
    all_data: list[Array] = []
    all_starts: list[Array] = []
    all_lengths: list[Array] = []
    base = 0
    for column, (data, starts, lengths) in zip(columns, pieces, strict=True):
        if column.kind.layout != FIXED or column.kind.dtype.kind == "S":
            head = lengths.astype("<u4")
            all_data.append(head.view(np.uint8))
            all_starts.append(base + np.arange(len(head), dtype=np.int64) * 4)
            all_lengths.append(np.full(len(head), 4, np.int64))
            base += head.nbytes
        all_data.append(data)
        all_starts.append(base + starts)
        all_lengths.append(lengths)
        base += len(data)
    starts = np.stack(all_starts, axis=1).reshape(-1)
    offsets = _ends(np.stack(all_lengths, axis=1).reshape(-1))
    return gather(np.concatenate(all_data), starts, offsets), np.ascontiguousarray(offsets[:: len(all_starts)])
