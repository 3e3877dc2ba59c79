"""Column types and Arrow's: which holds which.

A column's Arrow type is what its layout is (see `types`).  numpy's types that Arrow lacks travel with their dtype in
the field's metadata, so that a table made from the schema of another has the same types: S and V as fixed-size binary,
complex numbers as pairs, calendar units converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.schema import Column
from mmstore.columns.types import BINARY, CATEGORY, LIST, UTF8, DType, Kind, cannot, short
from mmstore.errors import SchemaError
from mmstore.exchange import cdata
from mmstore.exchange.cdata import Field
from mmstore.exchange.times import has_nat

__all__ = ["DTYPE_KEY", "NAT_KEY", "field_of", "item_field", "kind_of", "kind_of_object", "named_kinds"]

DTYPE_KEY: Final = b"mmstore.dtype"
NAT_KEY: Final = b"mmstore.nat"
"""Tells that a field is nullable only because its column, which isn't, may have NaT."""

_NUMBERS: Final[Mapping[str, str]] = {
    "c": "|i1", "C": "|u1", "s": "<i2", "S": "<u2", "i": "<i4", "I": "<u4", "l": "<i8", "L": "<u8",
    "e": "<f2", "f": "<f4", "g": "<f8", "b": "|b1",
}  # fmt: skip
_FORMATS: Final = {dtype: arrow for arrow, dtype in _NUMBERS.items()}
_UNITS: Final = {"s": "s", "ms": "m", "us": "u", "ns": "n"}
_UNIT_OF: Final = {letter: unit for unit, letter in _UNITS.items()}
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "n": ("null", 'mmstore.nullable("utf8")'),
    "+s": ("struct", "a column for each of its fields"),
    "+m": ("map", "a keyspace, or two list columns"),
    "+r": ("run-end encoded", "the plain type of its values"),
    "+v": ("list view", "a list"),
    "+u": ("union", "a nullable column for each of its types"),
    "ti": ("interval", '"duration[ns]", or "i4" months'),
}

# --- from ours to Arrow's -----------------------------------------------------------------------------


def field_of(column: Column) -> Field:
    """The Arrow field of a column."""
    kind = column.kind
    if kind.layout == UTF8:
        return Field("U", column.name, kind.nullable)
    if kind.layout == BINARY:
        return Field("Z", column.name, kind.nullable)
    if kind.layout == CATEGORY:
        return Field("i", column.name, kind.nullable, dictionary=Field("U", "", False))
    item = item_field(kind.dtype, kind.arrow)
    if kind.layout == LIST:
        return Field("+L", column.name, kind.nullable, (_element(item),), metadata={})
    for size in reversed(kind.shape):
        item = Field(f"+w:{size}", "", False, (_element(item),), metadata=item.metadata)
    if not kind.shape and not kind.nullable and has_nat(kind):
        return replace(item, name=column.name, nullable=True, metadata={**item.metadata, NAT_KEY: b"null"})
    return replace(item, name=column.name, nullable=kind.nullable)


def _element(item: Field) -> Field:
    """As others call and declare it: elements are never null here, yet a type that says so is another type to them."""
    return replace(item, name="item", nullable=True)


def item_field(dtype: DType, arrow: str) -> Field:
    """The Arrow field of one element."""
    if arrow:
        return Field(arrow, "", False)
    found = _FORMATS.get(dtype.str)
    if found is not None:
        return Field(found, "", False)
    metadata = {DTYPE_KEY: dtype.str.encode()}
    if dtype.kind in "SV":
        return Field(f"w:{dtype.itemsize}", "", False, metadata=metadata)
    if dtype.kind == "U":
        return Field("U", "", False, metadata=metadata)
    if dtype.kind == "c":
        half = "f" if dtype.itemsize == 8 else "g"
        return Field("+w:2", "", False, (Field(half, "item", True),), metadata=metadata)
    unit, count = np.datetime_data(dtype)
    if count == 1 and unit in _UNITS:
        return Field(f"tD{_UNITS[unit]}" if dtype.kind == "m" else f"ts{_UNITS[unit]}:", "", False)
    return Field(calendar_format(dtype), "", False, metadata=metadata)


def calendar_format(dtype: DType) -> str:
    """What Arrow gets for times of a unit that it lacks: dates, seconds, or the number where neither will do."""
    unit, _ = np.datetime_data(dtype)
    if dtype.kind == "M":
        return "tdD" if unit in "DWMY" else "tss:" if unit in "hms" else "tsn:" if unit == "ns" else "l"
    return "tDs" if unit in ("s", "m", "h", "D", "W") else f"tD{_UNITS[unit]}" if unit in _UNITS else "l"


# --- from Arrow's to ours -----------------------------------------------------------------------------


def kind_of(field: Field) -> Kind:
    """The type that holds a field's values.  Raises `SchemaError` naming what can't be held, and the nearest."""
    kind = _kind(field)
    return replace(kind, nullable=field.nullable and NAT_KEY not in field.metadata)


def _kind(field: Field) -> Kind:
    name, arrow = field.name, field.format
    if field.dictionary is not None:
        if field.dictionary.format not in ("u", "U", "vu"):
            return _kind(replace(field.dictionary, name=name))  # of other values it is only a way to pack them
        return types.resolve(name, CATEGORY)
    kept = _kept_dtype(field)
    if kept is not None:
        return kept
    if arrow in _NUMBERS:
        return Kind(np.dtype(_NUMBERS[arrow]))
    if arrow in ("u", "U", "vu"):
        return types.resolve(name, UTF8)
    if arrow in ("z", "Z", "vz"):
        return types.resolve(name, BINARY)
    if arrow in ("+l", "+L"):
        return types.list_of(name, _kind(field.children[0]))
    if arrow.startswith("+w:"):
        return types.resolve(name, (_kind(field.children[0]), int(arrow[3:])))
    if arrow.startswith("w:"):
        return types.resolve(name, f"V{int(arrow[2:])}")
    if arrow.startswith("tD") and arrow[2:] in _UNIT_OF:
        return Kind(np.dtype(f"<m8[{_UNIT_OF[arrow[2:]]}]"))
    if len(arrow) == 4 and arrow.startswith("ts") and arrow[2] in _UNIT_OF:
        return Kind(np.dtype(f"<M8[{_UNIT_OF[arrow[2]]}]"))
    try:
        return types.of_arrow(arrow)
    except ValueError:
        known, nearest = _REFUSED.get(arrow[:2], (arrow, None))
        if arrow.startswith("d:"):
            known, nearest = f"decimal ({arrow[2:]})", '"decimal128(38, s)", or "utf8"'
        raise cannot(name, known, nearest) from None


def _kept_dtype(field: Field) -> Kind | None:
    """The numpy type that a field of ours carries in its metadata, if it still is of that type."""
    text = field.metadata.get(DTYPE_KEY, b"").decode("ascii", "replace")
    if not types.STORED.fullmatch(text):
        return None
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, OverflowError):
        return None
    shape = []
    inner = field
    while inner.format.startswith("+w:") and inner.children:
        shape.append(int(inner.format[3:]))
        inner = inner.children[0]
    item = item_field(dtype, "")
    if dtype.kind == "c":
        if shape[-1:] != [2]:
            return None
        item = item.children[0]
        shape.pop()
    if item.format != inner.format:
        return None
    return types.resolve(field.name, (Kind(dtype), tuple(shape)) if shape else Kind(dtype))


def named_kinds(spec: Any) -> Iterator[tuple[str, Kind]]:
    """(name, type) of the columns of whatever gives an Arrow schema (`__arrow_c_schema__`).  Raises `SchemaError`."""
    field = cdata.import_schema(spec)
    if field.format != "+s":
        raise SchemaError(f"expected the schema of a table, found the Arrow type {short(field.format)}")
    for child in field.children:
        yield child.name, kind_of(child)


def kind_of_object(name: str, spec: Any) -> Kind:
    """The type behind an Arrow type or field (`__arrow_c_schema__`); a bare type holds no nulls."""
    field = replace(cdata.import_schema(spec), name=name)
    kind = kind_of(field)
    bare = hasattr(spec, "id") and not hasattr(spec, "nullable")  # a pyarrow.DataType says nullable for lack of a field
    return replace(kind, nullable=False) if bare else kind
