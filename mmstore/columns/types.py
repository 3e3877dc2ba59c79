"""The types a column can have, how users name them, and what Arrow calls them.

A type is a `Kind`: a *layout*, which says what sequences of bytes hold the rows, the numpy dtype of the values in
them, the shape of one row's value, whether rows may be without a value, and, where Arrow knows more than numpy
does, Arrow's own name of the type (its C data interface's format string)::

    layout      sequences                                      such as
    fixed       values                                         "f8", ("f4", 64), "date32", "decimal128(15,2)"
    utf8        offsets (i64, rows + 1), data                  "utf8"
    binary      offsets, data                                  "binary"
    category    values (i4 codes), words' offsets, words' data "category"
    list        offsets, values                                "list(f8)"

A nullable column has a bitmap more, in front: bit 1, the row has a value.  While no row is without one the bitmap
is empty.  All of this is Arrow's (large) layout, so that Arrow export copies nothing; only booleans, which are a byte
each as numpy has them, and types that Arrow lacks (U, calendar units) are converted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from mmstore.errors import SchemaError

__all__ = [
    "BINARY",
    "CATEGORY",
    "DType",
    "EPOCH_OF",
    "FIXED",
    "Kind",
    "LIST",
    "MAX_DIMENSIONS",
    "UTF8",
    "nullable",
    "resolve",
]

DType: TypeAlias = np.dtype[Any]

FIXED: Final = "fixed"
UTF8: Final = "utf8"
BINARY: Final = "binary"
CATEGORY: Final = "category"
LIST: Final = "list"
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    FIXED: ("values",),
    UTF8: ("offsets", "data"),
    BINARY: ("offsets", "data"),
    CATEGORY: ("values", "word_offsets", "words"),
    LIST: ("offsets", "values"),
}
MAX_DIMENSIONS: Final = 16

_UNITS: Final = "as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y"
STORED: Final = re.compile(
    r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c8|<c16|<U[1-9][0-9]{0,8}|\|[SV][1-9][0-9]{0,9}"
    rf"|<[Mm]8\[([1-9][0-9]{{0,8}})?({_UNITS})\]"
)
_BYTE: Final = np.dtype("u1")
_CODE: Final = np.dtype("<i4")

_NEAREST: Final[Mapping[str, str]] = {
    "object": '"utf8", "binary" or a number',
    "null": 'mmstore.nullable("utf8")',
    "na": 'mmstore.nullable("utf8")',
    "struct": "a column for each of its fields",
    "map": "a keyspace, or two list columns",
    "union": "a nullable column for each of its types",
    "decimal256": '"decimal128(38, s)", or "utf8"',
    "interval": '"duration[ns]", or "i4" months',
    "float128": '"f8"',
    "longdouble": '"f8"',
    "complex256": '"c16"',
    "bit": '"bool"',
    "json": '"utf8"',
    "uuid": '"V16"',
}
HOLDABLE: Final = (
    'a numpy type such as "i8", "f4", "datetime64[ns]" or ("f4", 64), or "utf8", "binary", "category", '
    '"decimal128(15,2)", "date32", "time64[us]", "timestamp[us, UTC]", "list(f8)", any of them in mmstore.nullable()'
)

# --- the type ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column holds."""

    dtype: DType
    """Of one element of `values`, little-endian; u1 for text and bytes, i4 for categories."""
    shape: tuple[int, ...] = ()
    """Of one row's value, fixed layout only."""
    layout: str = FIXED
    arrow: str = ""
    """Arrow's format of one element, where it says more than the dtype; "" where it doesn't."""
    nullable: bool = False

    @property
    def item_size(self) -> int:
        """Bytes of one row in `values`; of one element in a list."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def parts(self) -> tuple[str, ...]:
        """The sequences that hold the rows, in order."""
        return ("validity", *PARTS[self.layout]) if self.nullable else PARTS[self.layout]

    @property
    def plain(self) -> bool:
        """Whether one numpy array shows it all: each row has a value, of a type that numpy has."""
        return self.layout == FIXED and not self.nullable and (not self.arrow or self.dtype.kind in "mM")

    @property
    def text(self) -> bool:
        """Whether rows are str."""
        return self.layout in (UTF8, CATEGORY) or self.dtype.kind == "U"

    def __str__(self) -> str:
        if self.layout in (UTF8, BINARY, CATEGORY):
            name = self.layout
        else:
            name = _SPELLED.get(self.arrow) or _spelled(self.arrow) or str(self.dtype)
            if self.layout == LIST:
                name = f"list({name})"
            elif self.shape:
                name = f"{name}{list(self.shape)}"
        return f"nullable({name})" if self.nullable else name


class Nullable:
    """A type whose rows may be without a value; made by `nullable`."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __repr__(self) -> str:
        return f"mmstore.nullable({self.spec!r})"


def nullable(spec: Any) -> Nullable:
    """The type `spec` for a schema, with rows that may be without a value."""
    return Nullable(spec)


# --- names of Arrow's ---------------------------------------------------------------------------------

_SPELLED: Final[Mapping[str, str]] = {
    "tdD": "date32", "tdm": "date64", "tts": "time32[s]", "ttm": "time32[ms]", "ttu": "time64[us]", "ttn": "time64[ns]",
}  # fmt: skip
EPOCH_OF: Final[Mapping[str, str]] = {"tdD": "M8[D]", "tts": "m8[s]", "ttm": "m8[ms]"}
"""Dates and times of day that Arrow has in 4 bytes -> numpy's type of 8 bytes that says the same."""
_UNIT: Final = {"s": "s", "m": "ms", "u": "us", "n": "ns"}
_DTYPE_OF: Final[Mapping[str, str]] = {
    "tdD": "<i4", "tdm": "<M8[ms]", "tts": "<i4", "ttm": "<i4", "ttu": "<m8[us]", "ttn": "<m8[ns]",
}  # fmt: skip
_DECIMAL_BITS: Final = {32: ("<i4", 9), 64: ("<i8", 18), 128: ("|V16", 38)}


def _spelled(arrow: str) -> str:
    """How users write the type behind an Arrow format; "" if it has no name of its own."""
    if arrow.startswith("ts"):
        return f"timestamp[{_UNIT[arrow[2]]}, {arrow[4:]}]"
    if arrow.startswith("d:"):
        precision, scale, bits = decimal_of(arrow)
        return f"decimal{bits}({precision},{scale})"
    return ""


def decimal_of(arrow: str) -> tuple[int, int, int]:
    """(precision, scale, bits) of a decimal's format; ValueError if it is none that can be held."""
    numbers = [int(number) for number in arrow[2:].split(",")]
    if len(numbers) == 2:
        numbers.append(128)
    precision, scale, bits = numbers
    if bits not in _DECIMAL_BITS or not 1 <= precision <= _DECIMAL_BITS[bits][1] or not -128 <= scale <= 128:
        raise ValueError(f"decimal{bits}({precision},{scale})")
    return precision, scale, bits


def of_arrow(arrow: str) -> Kind:
    """The fixed type of an Arrow format that numpy has no type for.  Raises ValueError for another one."""
    if arrow in _DTYPE_OF:
        return Kind(np.dtype(_DTYPE_OF[arrow]), arrow=arrow)
    if arrow.startswith("d:"):
        precision, scale, bits = decimal_of(arrow)
        canonical = f"d:{precision},{scale}" + ("" if bits == 128 else f",{bits}")
        return Kind(np.dtype(_DECIMAL_BITS[bits][0]), arrow=canonical)
    if len(arrow) > 4 and arrow.startswith("ts") and arrow[2] in _UNIT and arrow[3] == ":":
        return Kind(np.dtype(f"<M8[{_UNIT[arrow[2]]}]"), arrow=arrow)
    raise ValueError(f"no fixed type has the Arrow format {arrow!r}")


# --- what users write ---------------------------------------------------------------------------------

_NAMED: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("utf8", "string", "str", "large_utf8", "large_string", "text"), Kind(_BYTE, layout=UTF8)),
    **dict.fromkeys(("binary", "bytes", "large_binary"), Kind(_BYTE, layout=BINARY)),
    **dict.fromkeys(("category", "categorical", "dictionary"), Kind(_CODE, layout=CATEGORY)),
    **{name: of_arrow(arrow) for arrow, name in _SPELLED.items()},
    "date": of_arrow("tdD"),
}
_DECIMAL: Final = re.compile(r"(?:decimal|numeric)(32|64|128|256)?\s*\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\)")
_STAMP: Final = re.compile(r"timestamp\s*\[\s*(s|ms|us|ns)\s*(?:,\s*(?:tz\s*=\s*)?([^\]\s]+)\s*)?\]")
_DURATION: Final = re.compile(r"duration\s*\[\s*(s|ms|us|ns)\s*\]")
_LIST: Final = re.compile(r"(?:large_)?list\s*[(<](.+)[)>]", re.DOTALL)


def resolve(name: str, spec: Any) -> Kind:
    """The type that a user named for column `name`.  Raises `SchemaError` for one that can't be held."""
    if isinstance(spec, Kind):
        return spec
    if isinstance(spec, Nullable):
        inner = resolve(name, spec.spec)
        return replace(inner, nullable=True)
    if isinstance(spec, tuple):
        if len(spec) != 2:
            raise SchemaError(f"column {name!r}: expected (type, n) or (type, shape), found {short(spec)}")
        return _with_shape(name, *spec)
    if spec is str:
        return _NAMED["utf8"]
    if spec is bytes:
        return _NAMED["binary"]
    if spec is None:
        raise SchemaError(f"column {name!r}: expected {HOLDABLE}, found None")
    if isinstance(spec, str):
        found = _by_name(name, spec.strip())
        if found is not None:
            return found
    try:
        dtype: DType = np.dtype(spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise cannot(name, spec) from error
    if dtype.kind == "T":
        return _NAMED["utf8"]
    return _of_dtype(name, spec, dtype)


def _by_name(name: str, text: str) -> Kind | None:
    """The type that has no numpy name; None if `text` is none of those."""
    lower = text.lower()
    if lower in _NAMED:
        return _NAMED[lower]
    try:
        if match := _DECIMAL.fullmatch(lower):
            bits = int(match[1] or 128)
            return of_arrow(f"d:{match[2]},{match[3] or 0}" + ("" if bits == 128 else f",{bits}"))
        if match := _STAMP.fullmatch(text):
            return of_arrow(f"ts{match[1][0]}:{match[2]}") if match[2] else Kind(np.dtype(f"<M8[{match[1]}]"))
    except ValueError as error:
        raise cannot(name, text, '"decimal128(38, s)", or "utf8"') from error
    if match := _DURATION.fullmatch(lower):
        return Kind(np.dtype(f"<m8[{match[1]}]"))
    if match := _LIST.fullmatch(text):
        return list_of(name, resolve(name, match[1]))
    return None


def list_of(name: str, item: Kind) -> Kind:
    """A list of `item`.  Raises `SchemaError` unless that has a fixed width and is never missing."""
    if item.layout != FIXED or item.nullable or item.shape or item.dtype.kind == "b":
        raise SchemaError(
            f"column {name!r}: a list of {item} can't be held; the nearest that can is a list of numbers, times or "
            'decimals without nulls, such as "list(f8)", or "binary"'
        )
    return replace(item, layout=LIST)


def _with_shape(name: str, spec: Any, extent: Any) -> Kind:
    shape = tuple(extent) if isinstance(extent, tuple | list) else (extent,)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in shape):
        raise SchemaError(f"column {name!r}: expected sizes of at least 1 behind the type, found {short(extent)}")
    shape = tuple(int(n) for n in shape)
    if len(shape) == 1 and isinstance(spec, str) and spec in ("S", "U", "V"):  # as numpy reads ("S", 5)
        return resolve(name, f"{spec}{shape[0]}")
    inner = resolve(name, spec)
    if inner.layout != FIXED or inner.nullable:
        raise SchemaError(
            f"column {name!r}: {inner} has no fixed width, so it can't have a shape; use a list, or a column for each"
        )
    if len(shape) + len(inner.shape) > MAX_DIMENSIONS:
        total = len(shape) + len(inner.shape)
        raise SchemaError(f"column {name!r}: at most {MAX_DIMENSIONS} dimensions, found {total}")
    return replace(inner, shape=shape + inner.shape)


def _of_dtype(name: str, spec: Any, dtype: DType) -> Kind:
    """The type behind a numpy dtype, little-endian and free of metadata."""
    shape: tuple[int, ...] = ()
    if dtype.subdtype is not None:
        dtype, shape = dtype.subdtype
        if any(n < 1 for n in shape) or len(shape) > MAX_DIMENSIONS:
            raise SchemaError(f"column {name!r}: expected up to {MAX_DIMENSIONS} sizes, none of them 0, found {shape}")
    if dtype.names is not None:
        raise SchemaError(
            f"column {name!r}: a structured type inside a column can't be held; the nearest are a column for each of "
            f'{", ".join(dtype.names)}, or raw bytes "V{max(dtype.itemsize, 1)}"'
        )
    if dtype.kind not in "biufcmMSUV":
        raise cannot(name, spec, _NEAREST["object"])
    if dtype.kind == "V" and dtype.type is not np.void:  # a type registered by another package, such as bfloat16
        raise cannot(name, spec, f'its bits as "u{dtype.itemsize}", or "f4"')
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise cannot(name, spec, '"datetime64[ns]"' if dtype.kind == "M" else '"timedelta64[ns]"')
    if dtype.char in "gG":
        raise cannot(name, spec, '"f8"' if dtype.char == "g" else '"c16"')
    if dtype.kind in "SUV" and dtype.itemsize == 0:
        nearest = {"S": '"binary", or a type with a width such as "S32"', "U": '"utf8", or "U32"', "V": '"V32"'}
        raise cannot(name, spec, nearest[dtype.kind])
    little = dtype.newbyteorder("<")
    if not STORED.fullmatch(little.str):
        raise cannot(name, spec)
    return Kind(np.dtype(little.str), shape)


def cannot(name: str, spec: Any, nearest: str | None = None) -> SchemaError:
    """What to raise for a type that can't be held."""
    if nearest is None:
        word = spec if isinstance(spec, str) else getattr(spec, "name", None) or str(spec)
        nearest = _NEAREST.get(re.split(r"[\[(<:]", str(word).lower(), maxsplit=1)[0].strip(), HOLDABLE)
    return SchemaError(f"column {name!r}: the type {short(spec)} can't be held; the nearest that can is {nearest}")


def short(value: Any) -> str:
    """`repr`, cut: what a hostile file says must not fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
