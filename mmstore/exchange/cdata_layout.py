"""What Arrow's C structs say about buffers: `Field`, `Data`, and which buffers a format string means.

Who exports checks here that what is shown to others has the buffers it claims, who imports learns here how long a
producer's buffers must be: the structs hold addresses without sizes.  An array of `length` items from `offset` on
has buffers for ``end = offset + length`` items:

==============  ===================================================================  ==============================
format          buffers                                                              children
==============  ===================================================================  ==============================
``n``           none                                                                 none
``b``           validity, bits                                                       none
``l``, ``w:16`` validity, ``end`` items                                              none
``u``, ``Z``    validity, ``end + 1`` offsets, bytes up to the last offset           none
``vu``, ``vz``  validity, ``end`` views of 16 bytes, bytes ..., sizes of the bytes   none
``+l``, ``+m``  validity, ``end + 1`` offsets                                        items up to the last offset
``+vl``         validity, ``end`` offsets, ``end`` sizes                             one, of any length
``+w:n``        validity                                                             ``n * end`` items
``+s``          validity                                                             fields, each ``end`` long
``+us:0,1``     ``end`` type ids                                                     fields, each ``end`` long
``+ud:0,1``     ``end`` type ids, ``end`` offsets                                    fields of any length
``+r``          none                                                                 run ends, values
==============  ===================================================================  ==============================

An empty array needs no offsets; it is shown with one, 0.  What the items say about other buffers (offsets between the
first and the last, views, indices of a dictionary, type ids, sizes of list views) isn't looked at here: whoever
follows them checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

__all__ = ["MAX_DEPTH", "Buffer", "Data", "Field", "Kind", "Layout", "check_field", "check_shape", "layout_of", "size"]

Buffer: TypeAlias = np.ndarray[Any, Any]

MAX_DEPTH: Final = 64
"""Fields inside each other; pyarrow has the same limit."""

_MOST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """A type and a name: an ArrowSchema.  Not to be changed, `metadata` neither."""

    format: str
    """Arrow's format string: "l", "U", "+s", "+L", "d:15,2", "tsu:UTC", "w:16", "+w:64" ..."""
    name: str = ""
    nullable: bool = True
    children: tuple[Field, ...] = ()
    dictionary: Field | None = None
    """Of the values; `format` is that of the indices then."""
    ordered: bool = False
    """The order of the dictionary's values means something; of a map: its keys are sorted."""
    metadata: Mapping[bytes, bytes] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Items [offset, offset + length) of the arrays `buffers`: an ArrowArray."""

    length: int
    null_count: int
    """-1: unknown."""
    buffers: tuple[Buffer | None, ...]
    """As the layout orders them, contiguous, of whatever dtype has these bytes; None: absent."""
    children: tuple[Data, ...] = ()
    dictionary: Data | None = None
    offset: int = 0


class Kind(NamedTuple):
    """One buffer of a layout."""

    role: str
    """validity, bits, items, offsets (one more than items), bytes (as many as the last offset says)."""
    dtype: np.dtype[Any]
    width: int
    """Bytes of an item."""


class Layout(NamedTuple):
    """The buffers and children that a format string means."""

    buffers: tuple[Kind, ...]
    children: int
    """How many; -1: any number."""
    child_items: int
    """What a child needs: so many items for each of the parent's, LAST_OFFSET or ANY_LENGTH."""
    views: bool = False
    """Behind the buffers come any number of data buffers and their sizes."""

    @property
    def nullable(self) -> bool:
        return bool(self.buffers) and self.buffers[0].role == "validity"


LAST_OFFSET: Final = -1
ANY_LENGTH: Final = -2


def _kind(role: str, code: str, width: int | None = None) -> Kind:
    dtype = np.dtype(code)
    return Kind(role, dtype, dtype.itemsize if width is None else width)


_VALIDITY: Final = _kind("validity", "u1")
_BYTES: Final = _kind("bytes", "u1")
_O32, _O64 = _kind("offsets", "i4"), _kind("offsets", "i8")
_I32, _I64 = _kind("items", "i4"), _kind("items", "i8")
_TYPES: Final = _kind("items", "i1")

_NUMBERS: Final = {
    "c": "i1", "C": "u1", "s": "i2", "S": "u2", "i": "i4", "I": "u4", "l": "i8", "L": "u8",
    "e": "f2", "f": "f4", "g": "f8",
    "tdD": "i4", "tdm": "i8", "tts": "i4", "ttm": "i4", "ttu": "i8", "ttn": "i8", "tDs": "i8", "tDm": "i8", "tDu": "i8",
    "tDn": "i8", "tiM": "i4",
}  # fmt: skip
_OTHERS: Final = {
    "n": Layout((), 0, 0),
    "b": Layout((_VALIDITY, _kind("bits", "u1")), 0, 0),
    "tiD": Layout((_VALIDITY, _kind("items", "u1", 8)), 0, 0),
    "tin": Layout((_VALIDITY, _kind("items", "u1", 16)), 0, 0),
    "z": Layout((_VALIDITY, _O32, _BYTES), 0, 0),
    "u": Layout((_VALIDITY, _O32, _BYTES), 0, 0),
    "Z": Layout((_VALIDITY, _O64, _BYTES), 0, 0),
    "U": Layout((_VALIDITY, _O64, _BYTES), 0, 0),
    "vz": Layout((_VALIDITY, _kind("items", "u1", 16)), 0, 0, True),
    "vu": Layout((_VALIDITY, _kind("items", "u1", 16)), 0, 0, True),
    "+l": Layout((_VALIDITY, _O32), 1, LAST_OFFSET),
    "+L": Layout((_VALIDITY, _O64), 1, LAST_OFFSET),
    "+vl": Layout((_VALIDITY, _I32, _I32), 1, ANY_LENGTH),
    "+vL": Layout((_VALIDITY, _I64, _I64), 1, ANY_LENGTH),
    "+s": Layout((_VALIDITY,), -1, 1),
    "+m": Layout((_VALIDITY, _O32), 1, LAST_OFFSET),
    "+r": Layout((), 2, ANY_LENGTH),
}
_PATTERN: Final = re.compile(
    r"ts[smun]:.*|w:(?P<width>\d+)|\+w:(?P<size>\d+)|d:\d+,-?\d+(,(?P<bits>32|64|128|256))?|\+u(?P<union>[ds]):(?P<ids>[\d,]*)",
    re.DOTALL | re.ASCII,
)


@lru_cache(maxsize=1024)
def layout_of(format: str) -> Layout:
    """The buffers and children that a format string means.

    Raises `ValueError` where it means none.
    """
    if format in _OTHERS:
        return _OTHERS[format]
    if format in _NUMBERS:
        return Layout((_VALIDITY, _kind("items", _NUMBERS[format])), 0, 0)
    match = _PATTERN.fullmatch(format)
    if match is None:
        raise ValueError(f"expected a format string of the Arrow C data interface, found {format[:80]!r}")
    if format.startswith("ts"):
        return Layout((_VALIDITY, _I64), 0, 0)
    if format.startswith("d"):
        width = int(match["bits"] or 128) // 8
        return Layout((_VALIDITY, _kind("items", {4: "i4", 8: "i8"}.get(width, "u1"), width)), 0, 0)
    if match["union"]:
        kinds = (_TYPES, _I32) if match["union"] == "d" else (_TYPES,)
        return Layout(kinds, _union_fields(format, match["ids"]), ANY_LENGTH if match["union"] == "d" else 1)
    size = match["width"] or match["size"]
    if len(size) > 10 or int(size) >= 1 << 31:
        raise ValueError(f"expected a width below 2 ** 31, found the format {format[:80]!r}")
    if format.startswith("w"):
        return Layout((_VALIDITY, _kind("items", "u1", int(size))), 0, 0)
    return Layout((_VALIDITY,), 1, int(size))


def _union_fields(format: str, ids: str) -> int:
    """How many type ids a union has."""
    numbers = ids.split(",") if ids else []
    if len(set(numbers)) < len(numbers) or not all(n and len(n) < 4 and int(n) < 128 for n in numbers):
        raise ValueError(f"expected different type ids from 0 to 127, found the format {format[:80]!r}")
    return len(numbers)


def check_field(field: Field, depth: int = 0) -> None:
    """Raises `ValueError` unless the field and all below have the children that their formats mean."""
    if depth >= MAX_DEPTH:
        raise ValueError(f"field {field.name!r}: expected at most {MAX_DEPTH} fields inside each other")
    layout = layout_of(field.format)
    if layout.children not in (-1, len(field.children)):
        raise ValueError(
            f"field {field.name!r}: expected {layout.children} children for the format {field.format!r}, "
            f"found {len(field.children)}"
        )
    if field.format == "+m" and (field.children[0].format != "+s" or len(field.children[0].children) != 2):
        raise ValueError(f"field {field.name!r}: a map's child is a struct of a key and a value")
    if field.format == "+r" and field.children[0].format not in ("s", "i", "l"):
        raise ValueError(f"field {field.name!r}: run ends are signed integers, found {field.children[0].format!r}")
    for child in field.children:
        check_field(child, depth + 1)
    if field.dictionary is not None:
        if field.format not in tuple("cCsSiIlL"):
            raise ValueError(f"field {field.name!r}: indices of a dictionary are integers, found {field.format!r}")
        check_field(field.dictionary, depth + 1)


def check_shape(field: Field, length: int, offset: int, null_count: int, validity: bool, children: int) -> None:
    """Raises `ValueError` unless these numbers of an array can belong to the field.

    validity: whether there is such a buffer; children: how many.
    """
    if length < 0 or offset < 0 or length > _MOST - offset:
        raise ValueError(f"{_where(field)}: expected a length and an offset, found {length} and {offset}")
    if not -1 <= null_count <= length:
        raise ValueError(f"{_where(field)}: {length} items can't have {null_count} nulls")
    if null_count > 0 and not validity and layout_of(field.format).nullable:
        raise ValueError(f"{_where(field)}: expected a validity buffer, since there are {null_count} nulls")
    if children != len(field.children):
        raise ValueError(f"{_where(field)}: expected {len(field.children)} children, found {children}")


def size(field: Field, kind: Kind, length: int, offset: int, offsets: Buffer | None) -> int:
    """How many bytes the buffer needs.

    offsets: those of the buffer before, where `kind` is bytes.  Raises `ValueError` where they fall.
    """
    role = kind.role
    if role == "items":
        return (offset + length) * kind.width
    if role == "offsets":
        return (offset + length + 1) * kind.width if length else 0
    if role == "bytes":
        return last_offset(field, length, offset, offsets)
    return (offset + length + 7) // 8


def last_offset(field: Field, length: int, offset: int, offsets: Buffer | None) -> int:
    """Where the items of an array end in its bytes or its child."""
    if not length or offsets is None:
        return 0
    first, last = int(offsets[offset]), int(offsets[offset + length])
    if not 0 <= first <= last:
        raise ValueError(f"{_where(field)}: expected offsets that rise from 0 on, found {first} to {last}")
    return last


def check_children(field: Field, data: Data, offsets: Buffer | None) -> None:
    """Raises `ValueError` unless the children are as long as their parent needs.

    offsets: the parent's, if it has such a buffer, as its layout's dtype.
    """
    layout = layout_of(field.format)
    if layout.child_items == LAST_OFFSET:
        needed = last_offset(field, data.length, data.offset, offsets)
    elif layout.child_items == ANY_LENGTH:
        needed = 0
    else:
        needed = (data.offset + data.length) * layout.child_items if data.length else 0
    for child in data.children:
        if child.length < needed:
            raise ValueError(f"{_where(field)}: expected children of {needed} items, found {child.length}")
    if field.format == "+r" and data.length:
        _check_runs(field, data)


def _check_runs(field: Field, data: Data) -> None:
    ends, values = data.children
    kind = layout_of(field.children[0].format).buffers[1]
    runs = ends.buffers[1] if len(ends.buffers) == 2 else None
    last = ends.offset + ends.length
    if runs is None or not 0 < last <= runs.nbytes // kind.width or ends.null_count > 0 or values.length < ends.length:
        raise ValueError(f"{_where(field)}: expected run ends and as many values")
    end = int(np.frombuffer(runs, kind.dtype, last)[last - 1])
    if end < data.offset + data.length:
        raise ValueError(f"{_where(field)}: expected runs up to {data.offset + data.length}, found {end}")


def _where(field: Field) -> str:
    return f"field {field.name!r} (format {field.format[:40]!r})"
