"""Arrow data made into batches of rows: no copy where the bytes are what the column holds.

Types of the same sort are converted as `rows` does it for numpy's: each value survives, or it is a `SchemaError`.
What a producer calls null must go into a nullable column; text must be UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mmstore.columns import bitmap, types
from mmstore.columns.batch import Array, Batch, Parts, gather, joined, pick
from mmstore.columns.schema import Column, Schema
from mmstore.columns.types import BINARY, CATEGORY, FIXED, LIST, UTF8, Kind
from mmstore.columns.words import split
from mmstore.errors import SchemaError
from mmstore.exchange import arrow_types, cdata
from mmstore.exchange.arrow_text import closed, slices
from mmstore.exchange.arrow_text import present as present_rows
from mmstore.exchange.arrow_types import NAT_KEY
from mmstore.exchange.cdata import Data, Field
from mmstore.exchange.decimals import scaled, unscaled
from mmstore.exchange.rows import fixed, misfit
from mmstore.exchange.schemas import check_names
from mmstore.exchange.times import has_nat, small_times, whole_days
from mmstore.exchange.values import offered
from mmstore.kernels.strings import check_codes, check_offsets, check_utf8

__all__ = ["batches", "column"]

_STRINGS: Final = ("u", "U", "vu")
_BYTES: Final = ("z", "Z", "vz")


def batches(schema: Schema, data: Any) -> Iterator[Batch]:
    """The record batches of a stream (`__arrow_c_stream__`), or of one array (`__arrow_c_array__`).

    Raises `SchemaError` naming the column that doesn't fit.
    """
    field, pieces = _pieces(data)
    if field.format != "+s":
        raise SchemaError(f"expected Arrow data with named columns, found the type {field.format!r}; pass a dict")
    names = [child.name for child in field.children]
    if len(set(names)) != len(names):
        raise SchemaError(f"two columns of the data have the same name: {', '.join(names)}")
    check_names(schema, names)
    places = [(column, names.index(column.name)) for column in schema]
    for piece in pieces:
        if piece.null_count > 0 and piece.buffers and piece.buffers[0] is not None:
            raise SchemaError("whole rows of the data are null; drop them, or make their columns null")
        yield Batch(
            piece.length,
            [
                parts_of(column, field.children[at], piece.children[at], piece.offset, piece.length)
                for column, at in places
            ],
        )


def _pieces(data: Any) -> tuple[Field, Iterator[Data]]:
    if hasattr(data, "__arrow_c_stream__"):
        return cdata.import_stream(data)
    field, piece = cdata.import_array(data)
    return field, iter([piece])


def column(column: Column, data: Any) -> tuple[int, Parts]:
    """(rows, parts) of one Arrow array, or of a chunked one."""
    field, pieces = _pieces(data)
    found = []
    total = 0
    for piece in pieces:
        found.append(parts_of(column, field, piece, 0, piece.length))
        total += piece.length
    if column.kind.layout == CATEGORY and len(found) > 1:
        return total, _joined_categories(column.kind, found)
    return total, joined(column.kind, found)


def _joined_categories(kind: Kind, pieces: list[Parts]) -> Parts:
    """Rows whose pieces have words of their own: all words one after the other, some maybe twice."""
    base = 0
    shifted, ends, words = [], [np.zeros(1, "<i8")], []
    size = 0
    for piece in pieces:
        shifted.append({**piece, "values": piece["values"] + np.int32(base)})
        ends.append(piece["word_offsets"][1:] + size)
        words.append(piece["words"])
        base += len(piece["word_offsets"]) - 1
        size += len(piece["words"])
    return {**joined(kind, shifted), "word_offsets": np.concatenate(ends), "words": np.concatenate(words)}


# --- one column --------------------------------------------------------------------------------------


def parts_of(column: Column, field: Field, data: Data, start: int, n: int, elements: bool = False) -> Parts:
    """The rows [start, start + n) of an Arrow array as a column's parts.  Raises `SchemaError`.

    elements: of lists, where a null can only be NaT, as it is where the field says so.
    """
    start += data.offset
    present = present_rows(field, data, start, n)
    if present is not None and has_nat(column.kind) and not column.nullable and (elements or NAT_KEY in field.metadata):
        found = parts_of(Column(column.name, replace(column.kind, nullable=True)), field, data, start - data.offset, n)
        return {"values": _with_nat(found["values"], ~present)}
    if present is not None and not column.nullable:
        first = int(np.flatnonzero(~present)[0])
        raise misfit(
            column,
            f"{int(np.count_nonzero(~present)):,} rows are null, the first of them row {first}; fill them, or make the "
            "column nullable (allow_nulls)",
        )
    if field.format == "n":
        parts: Parts = _nothing(column.kind, n)
    elif field.dictionary is not None:
        parts = _from_dictionary(column, field, data, start, n, present)
    else:
        parts = _values(column, field, data, start, n, present)
    return parts if present is None else {**parts, "validity": present}


def _nothing(kind: Kind, n: int) -> dict[str, Array]:
    """Rows that are all without a value."""
    parts: dict[str, Array] = {}
    for name in kind.parts:
        if name == "offsets":
            parts[name] = np.zeros(n + 1, "<i8")
        elif name == "word_offsets":
            parts[name] = np.zeros(1, "<i8")
        elif name == "values" and kind.layout != LIST:
            parts[name] = np.zeros((n, *kind.shape), kind.dtype)
        elif name != "validity":
            parts[name] = np.empty(0, kind.dtype if name == "values" else "u1")
    return parts


def _values(column: Column, field: Field, data: Data, start: int, n: int, present: Array | None) -> Parts:
    kind = column.kind
    if field.format in _STRINGS or field.format in _BYTES:
        return _from_text(column, field, data, start, n, present)
    if field.format in ("+l", "+L"):
        return _from_lists(column, field, data, start, n, present)
    source = _source(replace(field, name=column.name, nullable=False))
    if kind.layout == LIST and source.shape:
        flat, holes = _array_and_holes(column, source, field, data, start, n, present)
        flat = flat.reshape(n, -1)
        item = Column(column.name, replace(kind, layout=FIXED, nullable=False))
        values = _with_nat(_fixed(item, replace(source, shape=()), flat.reshape(-1), None), holes)
        return {"offsets": np.arange(n + 1, dtype="<i8") * flat.shape[1], "values": values}
    if kind.layout == BINARY and source.dtype.kind in "SV" and not source.shape:
        width = source.dtype.itemsize
        whole = _array(source, field, data, start, n)
        return closed(np.arange(n + 1, dtype="<i8") * width, whole.view(np.uint8).reshape(-1), present)
    if kind.layout != FIXED:
        raise misfit(column, f"found {source}; convert it first")
    array, holes = _array_and_holes(column, source, field, data, start, n, present)
    return {"values": _with_nat(_fixed(column, source, array, present), holes)}


def _source(field: Field) -> Kind:
    """The type of an Arrow array's own values: times in the unit that they are in here, whatever they once were."""
    kept = arrow_types.kind_of(field)
    if kept.dtype.kind not in "mM" or kept.arrow:
        return kept
    plain = arrow_types.kind_of(_forgetful(field))
    return kept if plain.dtype.kind == "i" and not plain.arrow else plain  # units that are plain numbers in Arrow


def _forgetful(field: Field) -> Field:
    return replace(field, metadata={}, children=tuple(map(_forgetful, field.children)))


# --- fixed widths ------------------------------------------------------------------------------------


def _array_and_holes(
    column: Column, source: Kind, field: Field, data: Data, start: int, n: int, present: Array | None
) -> tuple[Array, Array | None]:
    """(the rows of an Arrow array of a fixed width as numpy's of its own type, (n, *shape); its null elements, if any).

    Null elements are zeros; only times can have them, which become NaT.  Those of missing rows don't count.
    """
    holes = None
    for nested, inner, first, count, each in _inward(field, data, start, n):
        present, holes = (None if which is None else np.repeat(which, each) for which in (present, holes))
        there = present_rows(nested, inner, first, count)
        if there is not None:
            null = ~there if present is None else ~there & present
            holes = null if holes is None else null | holes
    array = _array(source, field, data, start, n)
    if holes is None or not holes.any():
        return array, None
    if not has_nat(column.kind):
        raise SchemaError(f"a list of a fixed size has null elements; fill them first ({source})")
    array = array.copy()
    array.reshape(-1)[holes] = np.zeros((), array.dtype)
    return array, holes


def _inward(field: Field, data: Data, start: int, n: int) -> Iterator[tuple[Field, Data, int, int, int]]:
    """Lists of a fixed size from the outermost on: (field, array, first element, elements, how many each list has)."""
    while field.format.startswith("+w:"):
        each = int(field.format[3:])
        field, data = field.children[0], data.children[0]
        start, n = start * each + data.offset, n * each
        yield field, data, start, n, each


def _with_nat(values: Array, holes: Array | None) -> Array:
    """Times with NaT where they have holes (booleans, flat)."""
    if holes is None:
        return values
    values = values.copy()
    values.reshape(-1)[holes] = np.array("NaT", values.dtype)
    return values


def _array(source: Kind, field: Field, data: Data, start: int, n: int) -> Array:
    """The rows of an Arrow array of a fixed width as numpy's of its own type, (n, *shape); nulls may be anything."""
    field, data, start, n, _ = [(field, data, start, n, 1), *_inward(field, data, start, n)][-1]
    if field.format in _STRINGS:
        flat = _wide_text(source.dtype, *slices(field, data, start, n))
        return flat.reshape(-1, *source.shape)
    body = data.buffers[1]
    if field.format == "b":
        flat = np.zeros(0, np.bool_) if body is None else bitmap.unpack(body.view(np.uint8), start + n)[start:]
    else:
        dtype = np.dtype(f"f{source.dtype.itemsize // 2}") if source.dtype.kind == "c" else source.dtype
        raw = np.zeros(0, np.uint8) if body is None else body.view(np.uint8)
        flat = raw[start * dtype.itemsize : (start + n) * dtype.itemsize].view(dtype)
        flat = flat.view(source.dtype)
    return flat.reshape(-1, *source.shape) if source.shape else flat


def _wide_text(dtype: types.DType, offsets: Array, data: Array) -> Array:
    """Text as numpy's of a fixed width, which is what it was."""
    if check_utf8(data, np.ascontiguousarray(offsets)) >= 0:
        raise SchemaError("a list has text that is no UTF-8")
    texts = [text.decode() for text in split(offsets, data)]
    width = max(map(len, texts), default=0)
    return np.array(texts, dtype if 4 * width <= dtype.itemsize else f"U{width}")


def _fixed(column: Column, source: Kind, array: Array, present: Array | None) -> Array:
    """Values of an Arrow type in the column's; those of missing rows become zeros."""
    kind = column.kind
    if present is not None:
        array = array.copy()
        array[~present] = np.zeros((), array.dtype)
    if (source.dtype, source.shape, source.arrow) == (kind.dtype, kind.shape, kind.arrow):
        return whole_days(column, array if array.flags.c_contiguous else np.ascontiguousarray(array))
    if source.dtype.kind == "f" and kind.dtype.kind == "c" and source.shape == (*kind.shape, 2):
        array = array.view(f"c{2 * source.dtype.itemsize}").reshape(-1, *kind.shape)
        source = replace(source, dtype=array.dtype, shape=kind.shape)
    if source.dtype.kind == "V" and kind.dtype.kind == "S" and not source.arrow:
        array = array.view(f"S{source.dtype.itemsize}")  # how S travels, when its metadata was lost on the way
    if source.shape != kind.shape:
        raise misfit(column, f"found the shape {source.shape} in each row")
    if kind.arrow.startswith("d:"):
        return _to_decimal(column, source, array)
    zoned = source.arrow.startswith("ts")
    if zoned != kind.arrow.startswith("ts") and source.dtype.kind == "M" and kind.dtype.kind == "M":
        told = "with a time zone" if zoned else "without a time zone"
        raise misfit(column, f"found times {told} ({source}); cast them to the column's type first")
    if source.arrow.startswith("d:"):
        raise misfit(column, f"found {source}; cast it to a float or a decimal of the column's scale first")
    if source.arrow in types.EPOCH_OF:
        array = array.astype("<i8").view(types.EPOCH_OF[source.arrow])
    if kind.arrow in types.EPOCH_OF:
        return whole_days(column, small_times(column, array))
    return whole_days(column, fixed(column, array))


def _to_decimal(column: Column, source: Kind, array: Array) -> Array:
    """Numbers of another scale or width, and integers, as decimals of the column's."""
    if source.arrow.startswith("d:"):
        same = types.decimal_of(source.arrow)[1:] == types.decimal_of(column.kind.arrow)[1:]
        if same and types.decimal_of(source.arrow)[0] <= types.decimal_of(column.kind.arrow)[0]:
            return array
        numbers = np.fromiter(unscaled(source, array), object, array.size)
        return scaled(column, numbers.reshape(array.shape))
    if source.dtype.kind in "iu":
        return scaled(column, array.tolist())
    raise misfit(column, f"found {source}; cast it to a decimal first")


# --- text and bytes ----------------------------------------------------------------------------------


def _from_text(column: Column, field: Field, data: Data, start: int, n: int, present: Array | None) -> Parts:
    kind = column.kind
    parts = closed(*slices(field, data, start, n), present)
    if field.format in _STRINGS:
        wrong = check_utf8(parts["data"], np.ascontiguousarray(parts["offsets"]))
        if wrong >= 0:
            raise misfit(column, f"row {wrong} is no UTF-8; a binary column holds any bytes")
    if kind.layout == UTF8 and field.format in _STRINGS or kind.layout == BINARY and field.format in _BYTES:
        return parts
    listed: list[Any] = list(split(parts["offsets"], parts["data"]))
    if field.format in _STRINGS:
        listed = [text.decode() for text in listed]
    elif kind.layout != BINARY and kind.dtype.kind not in "SV":
        raise misfit(column, "found bytes; decode them first")
    if present is not None and kind.layout == FIXED:
        zero = "" if field.format in _STRINGS else bytes(kind.dtype.itemsize if kind.dtype.kind == "V" else 0)
        listed = [value if there else zero for value, there in zip(listed, present.tolist(), strict=True)]
    plain = Column(column.name, replace(kind, nullable=False))
    return offered(plain, listed)[1]


def _from_dictionary(column: Column, field: Field, data: Data, start: int, n: int, present: Array | None) -> Parts:
    """Rows that are numbers of words."""
    assert field.dictionary is not None and data.dictionary is not None
    source = arrow_types.kind_of(replace(field, name=column.name, dictionary=None, nullable=False))
    codes = _array(source, field, data, start, n).astype("<i4")
    if present is not None:
        codes[~present] = 0
    words = data.dictionary
    if n and (len(codes) if present is None else present.any()):
        checked = codes if present is None else codes[present]
        if check_codes(np.ascontiguousarray(checked), words.length) >= 0:
            raise misfit(column, f"found codes outside of the {words.length} words that there are")
    missing = present_rows(field.dictionary, words, words.offset, words.length)
    if missing is not None and (~missing)[codes].any():
        raise misfit(column, "some codes mean a null; drop that from the dictionary")
    if column.kind.layout == CATEGORY and field.dictionary.format in _STRINGS:
        offsets, text = slices(field.dictionary, words, words.offset, words.length)
        if check_utf8(text, np.ascontiguousarray(offsets)) >= 0:
            raise misfit(column, "a word is no UTF-8")
        return {"values": codes, "word_offsets": offsets, "words": text}
    plain = Column(column.name, replace(column.kind, nullable=False))
    decoded = parts_of(plain, field.dictionary, words, 0, words.length)
    if not words.length:
        return _nothing(column.kind, n)
    return _without_text(pick(column.kind, decoded, codes.astype(np.int64)), column.kind, present)


def _without_text(parts: Parts, kind: Kind, present: Array | None) -> Parts:
    if present is None or "data" not in parts:
        return parts
    return closed(parts["offsets"], parts["data"], present)


def _from_lists(column: Column, field: Field, data: Data, start: int, n: int, present: Array | None) -> Parts:
    kind = column.kind
    if kind.layout != LIST:
        raise misfit(column, "found lists")
    if not n:
        return _nothing(kind, 0)
    ends = data.buffers[1]
    assert ends is not None
    child, inner = data.children[0], field.children[0]
    offsets = ends.view("<i4" if field.format == "+l" else "<i8")[start : start + n + 1].astype("<i8")
    if check_offsets(offsets, child.length) >= 0:
        raise SchemaError("the offsets of lists in the Arrow data don't ascend inside their elements")
    low, high = int(offsets[0]), int(offsets[-1])
    item = Column(column.name, replace(kind, layout=FIXED, nullable=False))
    values = parts_of(item, replace(inner, name=column.name), child, low, high - low, elements=True)["values"]
    if present is not None:
        lengths = np.diff(offsets)
        if lengths[~present].any():
            lengths[~present] = 0
            closed = np.zeros(n + 1, "<i8")
            np.cumsum(lengths, out=closed[1:])
            return {"offsets": closed, "values": gather(values, offsets[:-1] - low, closed)}
    return {"offsets": offsets - low, "values": values}
