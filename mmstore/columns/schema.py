"""What a table's columns hold: names, element types and shapes.

A `Column` is a name, a little-endian numpy dtype of fixed width and the shape of one row's value (``()`` for a
scalar, ``(64,)`` for an embedding).  A `Schema` is an ordered tuple of columns with distinct names.  Both are
values: they never change, and an altered table gets another schema.

In the file a schema is JSON (UTF-8).  Each column names its *layout*, which says what sequences of bytes hold it::

    {"columns": [{"name": "px", "layout": "fixed", "dtype": "<f8", "shape": []}], "key": null}

``fixed`` is one sequence of rows side by side.  A reader that meets a layout or a field that it doesn't know
refuses the table (`FormatError`) and guesses nothing; that is where nullable and variable-length columns go.

Bytes from the file are never trusted (I6): a type is accepted only in the one spelling that we write.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np

from mmstore.errors import CorruptError, FormatError, SchemaError

__all__ = ["LAYOUT_FIXED", "MAX_COLUMNS", "MAX_ROW_SIZE", "Column", "DType", "Schema"]

DType: TypeAlias = np.dtype[Any]

LAYOUT_FIXED: Final = "fixed"
MAX_ROW_SIZE: Final = (1 << 31) - 1  # numpy's own limit of one element
MAX_COLUMNS: Final = 65535
MAX_NAME: Final = 65535  # bytes
MAX_DIMENSIONS: Final = 16

_UNITS = "as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y"
_STORED = re.compile(
    r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c8|<c16|<U[1-9][0-9]{0,8}|\|[SV][1-9][0-9]{0,9}"
    rf"|<[Mm]8\[([1-9][0-9]{{0,8}})?({_UNITS})\]"
)

# Types that people ask for by these names and that a later version may hold -> the nearest that can be held now.
_NEAREST: Final[Mapping[str, str]] = {
    "utf8": '"U32" (text of up to 32 characters)',
    "string": '"U32" (text of up to 32 characters)',
    "str": '"U32" (text of up to 32 characters)',
    "large_string": '"U32" (text of up to 32 characters)',
    "binary": '"S32" or "V32" (up to, or exactly, 32 bytes)',
    "bytes": '"S32" or "V32" (up to, or exactly, 32 bytes)',
    "category": '"i4" codes, or "U32"',
    "decimal": '"i8" in the smallest unit, or "f8"',
    "date": '"datetime64[D]"',
    "date32": '"datetime64[D]"',
    "time": '"timedelta64[us]"',
    "object": '"U32", "S32" or a number',
}
_HOLDABLE: Final = 'a fixed-width numpy type such as "i8", "f4", "datetime64[ns]", "U16" or ("f4", 64)'


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `rows` values of `dtype` and `shape`, side by side."""

    name: str
    dtype: DType
    """Type of one element, little-endian."""
    shape: tuple[int, ...] = ()
    """Shape of one row's value."""

    @classmethod
    def of(cls, name: str, spec: Any) -> Column:
        """The column `name` of the type `spec`: dtype-like, or (dtype-like, n or shape).

        Raises `SchemaError` for anything that has no fixed width.
        """
        _check_name(name)
        dtype, shape = _resolve(name, spec)
        column = cls(name, dtype, shape)
        if column.row_size > MAX_ROW_SIZE:
            raise SchemaError(
                f"column {name!r}: a row may have at most {MAX_ROW_SIZE:,} bytes, {spec!r} has {column.row_size:,}; "
                "split it into several columns"
            )
        return column

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def row_dtype(self) -> DType:
        """One row as a numpy dtype (a sub-array dtype if it has a shape)."""
        return np.dtype((self.dtype, self.shape)) if self.shape else self.dtype

    @property
    def sequences(self) -> int:
        """How many sequences hold the column."""
        return 1

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "layout": LAYOUT_FIXED, "dtype": self.dtype.str, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Any) -> Column:
        """The column that `to_json` described.  Raises `CorruptError`, or `FormatError` for a newer layout."""
        if type(value) is not dict or type(value.get("name")) is not str or type(value.get("layout")) is not str:
            raise CorruptError(f"a column's description needs a name and a layout, found {_short(value)}")
        name, layout = value["name"], value["layout"]
        if layout != LAYOUT_FIXED or value.keys() - {"name", "layout", "dtype", "shape"}:
            raise FormatError(
                f"column {_short(name)} has the layout {_short(layout)} with {_short(sorted(value))}, which this "
                "version of mmstore doesn't know; open the file with a newer one"
            )
        dtype, shape = value.get("dtype"), value.get("shape")
        if type(dtype) is not str or not _STORED.fullmatch(dtype):
            raise CorruptError(f"column {_short(name)}: expected a stored type such as '<f8', found {_short(dtype)}")
        if type(shape) is not list or len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 1 for n in shape):
            raise CorruptError(f"column {_short(name)}: expected a shape such as [64], found {_short(shape)}")
        try:
            _check_name(name)
            column = cls(name, np.dtype(dtype), tuple(shape))
        except (TypeError, ValueError, OverflowError) as error:
            raise CorruptError(f"column {_short(name)}: type {_short(dtype)} can't be read: {error}") from error
        if column.dtype.str != dtype or column.row_size > MAX_ROW_SIZE:
            raise CorruptError(f"column {_short(name)}: type {_short(dtype)}, shape {_short(shape)} is never written")
        return column

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}" if self.shape else str(self.dtype)


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, in order."""

    columns: tuple[Column, ...]
    key: None = None
    """The columns that identify a row; a later version has them."""
    _positions: dict[str, int] = field(init=False, repr=False, compare=False, hash=False, default_factory=dict)
    _json: bytes = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        for position, column in enumerate(self.columns):
            if self._positions.setdefault(column.name, position) != position:
                raise SchemaError(f"column {column.name!r} is there twice; give each column a name of its own")
        if not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise SchemaError(f"expected 1 to {MAX_COLUMNS:,} columns, found {len(self.columns):,}")
        value = {"columns": [column.to_json() for column in self.columns], "key": self.key}
        object.__setattr__(self, "_json", json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def of(cls, spec: Any, key: Any = None) -> Schema:
        """The schema described by `spec`.

        spec: a Schema; a dict name -> dtype-like or (dtype-like, n or shape); a structured dtype; or a sequence of
        (name, type) and (name, type, shape), as numpy has them.

        Raises `SchemaError` naming a column that can't be held, and the nearest type that can.
        """
        if key is not None:
            raise SchemaError(f"expected key=None, found {key!r}: a later version has keys; keep them in a keyspace")
        if isinstance(spec, Schema):
            return spec
        return cls(tuple(Column.of(name, kind) for name, kind in _pairs(spec)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def row_size(self) -> int:
        """Bytes of one row over all columns."""
        return sum(column.row_size for column in self.columns)

    @property
    def dtype(self) -> DType:
        """A row as a packed structured dtype."""
        return np.dtype([(column.name, column.dtype, column.shape) for column in self.columns])

    @property
    def sequences(self) -> int:
        """How many sequences hold all columns."""
        return sum(column.sequences for column in self.columns)

    def position(self, name: str) -> int:
        """Where `name` is among the columns.  Raises KeyError."""
        try:
            return self._positions[name]
        except (KeyError, TypeError):
            raise KeyError(f"no column {name!r}; the columns are {', '.join(map(repr, self.names))}") from None

    def __getitem__(self, name: str) -> Column:
        return self.columns[self.position(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def to_json(self) -> bytes:
        """The schema as the file has it; equal schemas give equal bytes."""
        return self._json

    @classmethod
    def from_json(cls, data: bytes) -> Schema:
        """The schema that `to_json` wrote.  Raises `CorruptError`, or `FormatError` for one of a newer version."""
        return _decode(data)

    def __str__(self) -> str:
        return "{" + ", ".join(f"{column.name}: {column}" for column in self.columns) + "}"


@lru_cache(maxsize=256)  # every look at a table meets its schema again
def _decode(data: bytes) -> Schema:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"a schema isn't the JSON that it should be: {error}") from error
    if type(value) is not dict or type(value.get("columns")) is not list:
        raise CorruptError(f"expected a schema with a list of columns, found {_short(value)}")
    if value.keys() - {"columns", "key"} or value.get("key") is not None:
        raise FormatError(
            f"the schema has {_short(sorted(value))} with key {_short(value.get('key'))}, which this version of "
            "mmstore doesn't know; open the file with a newer one"
        )
    try:
        return Schema(tuple(Column.from_json(column) for column in value["columns"]))
    except SchemaError as error:
        raise CorruptError(f"a schema contradicts itself: {error}") from error


def _short(value: Any) -> str:
    """`repr`, cut: what a hostile file says must not fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise SchemaError(f"a column's name must be a str, found {type(name).__name__} {_short(name)}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise SchemaError(f"a column's name must be encodable as UTF-8, {name!r} isn't; rename the column") from None
    if not 1 <= size <= MAX_NAME or "\0" in name:
        raise SchemaError(f"a column's name needs 1 to {MAX_NAME} bytes and no NUL, found {_short(name)}; rename it")


def _pairs(spec: Any) -> Iterator[tuple[Any, Any]]:
    """(name, type) for each column of any form that a schema can be given in."""
    if isinstance(spec, Mapping):
        yield from spec.items()
    elif isinstance(spec, np.dtype):
        if spec.names is None:
            raise SchemaError(f"a table needs named columns: expected a dict or a structured dtype, found dtype {spec}")
        for name in spec.names:
            yield name, spec.fields[name][0] if spec.fields else None
    elif isinstance(spec, Sequence) and not isinstance(spec, str | bytes):
        for item in spec:
            if not isinstance(item, tuple) or len(item) not in (2, 3):
                raise SchemaError(f"expected (name, type) or (name, type, shape) for each column, found {_short(item)}")
            yield item[0], item[1] if len(item) == 2 else (item[1], item[2])
    else:
        raise SchemaError(
            "expected the columns as a dict name -> type or as a structured dtype, "
            f"found {type(spec).__name__} {_short(spec)}"
        )


def _resolve(name: str, spec: Any) -> tuple[DType, tuple[int, ...]]:
    """(element type, shape) of a type that a user named."""
    if isinstance(spec, tuple):
        if len(spec) != 2:
            raise SchemaError(f"column {name!r}: expected (type, n) or (type, shape), found {_short(spec)}")
        return _resolve_pair(name, *spec)
    if spec is None:
        raise SchemaError(f"column {name!r}: expected {_HOLDABLE}, found None")
    try:
        dtype: DType = np.dtype(spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise _cannot(name, spec) from error
    return _fixed(name, spec, dtype)


def _resolve_pair(name: str, spec: Any, extent: Any) -> tuple[DType, tuple[int, ...]]:
    shape = tuple(extent) if isinstance(extent, tuple | list) else (extent,)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in shape):
        raise SchemaError(f"column {name!r}: expected sizes of at least 1 behind the type, found {_short(extent)}")
    shape = tuple(int(n) for n in shape)
    if len(shape) == 1 and spec in ("S", "U", "V"):  # as numpy reads ("S", 5)
        return _resolve(name, f"{spec}{shape[0]}")
    dtype, inner = _resolve(name, spec)
    if len(shape) + len(inner) > MAX_DIMENSIONS:
        raise SchemaError(f"column {name!r}: at most {MAX_DIMENSIONS} dimensions, found {len(shape) + len(inner)}")
    return dtype, shape + inner


def _fixed(name: str, spec: Any, dtype: DType) -> tuple[DType, tuple[int, ...]]:
    """The element type and shape behind a numpy dtype, little-endian and free of metadata."""
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
        raise _cannot(name, spec, _NEAREST["utf8" if dtype.kind == "T" else "object"])
    if dtype.kind == "V" and dtype.type is not np.void:  # a type registered by another package, such as bfloat16
        raise _cannot(name, spec, f'its bits as "u{dtype.itemsize}", or "f4"')
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise _cannot(name, spec, '"datetime64[ns]"' if dtype.kind == "M" else '"timedelta64[ns]"')
    if dtype.char in "gG":
        raise _cannot(name, spec, '"f8"' if dtype.char == "g" else '"c16"')
    if dtype.kind in "SUV" and dtype.itemsize == 0:
        raise _cannot(name, spec, f'a type with a width, such as "{dtype.kind}32"')
    little = dtype.newbyteorder("<")
    if not _STORED.fullmatch(little.str):
        raise _cannot(name, spec)
    return np.dtype(little.str), shape


def _cannot(name: str, spec: Any, nearest: str | None = None) -> SchemaError:
    if nearest is None:
        word = spec if isinstance(spec, str) else getattr(spec, "name", None) or str(spec)
        nearest = _NEAREST.get(re.split(r"[\[(<:\d]", str(word).lower(), maxsplit=1)[0].strip(), _HOLDABLE)
        nearest = _NEAREST.get(str(word).lower(), nearest)
    return SchemaError(f"column {name!r}: the type {_short(spec)} can't be held; the nearest that can is {nearest}")
