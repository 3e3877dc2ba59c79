"""What a table's columns are: names, types, and which of them identify a row.

A `Column` is a name, a type (`types.Kind`) and an id that stays when it is renamed.  A `Schema` is an ordered tuple of
columns with distinct names, and the names of those that make the key.  Both are values: they never change, and an
altered table gets another schema.

In the file a schema is JSON (UTF-8)::

    {"columns": [{"name": "px", "id": 0, "layout": "fixed", "dtype": "<f8", "shape": [], "nullable": false,
                  "arrow": ""}], "key": null}

A reader that meets a layout or a field that it doesn't know refuses the table (`FormatError`) and guesses nothing.
Bytes from the file are never trusted (I6): a type is accepted only in the one spelling that we write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.types import DType, Kind, short
from mmstore.errors import CorruptError, FormatError, SchemaError

__all__ = ["MAX_COLUMNS", "MAX_ROW_SIZE", "Column", "DType", "Schema", "pairs"]

MAX_ROW_SIZE: Final = (1 << 31) - 1  # numpy's own limit of one element
MAX_COLUMNS: Final = 65535
MAX_NAME: Final = 65535  # bytes
MAX_ID: Final = (1 << 32) - 1
_FIELDS: Final = {"name", "id", "layout", "dtype", "shape", "nullable", "arrow"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    kind: Kind
    id: int = 0
    """Tells it from the table's other columns, whatever they are called."""

    @classmethod
    def of(cls, name: str, spec: Any, id: int = 0) -> Column:
        """The column `name` of the type `spec`: dtype-like, (dtype-like, n or shape), or a name (see `types`).

        Raises `SchemaError` for a type that can't be held.
        """
        _check_name(name)
        kind = types.resolve(name, spec)
        if kind.item_size > MAX_ROW_SIZE:
            raise SchemaError(
                f"column {name!r}: a row may have at most {MAX_ROW_SIZE:,} bytes, {spec!r} has {kind.item_size:,}; "
                "split it into several columns"
            )
        return cls(name, kind, id)

    @property
    def dtype(self) -> DType:
        """Type of one element, little-endian."""
        return self.kind.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's value."""
        return self.kind.shape

    @property
    def nullable(self) -> bool:
        """Whether rows may be without a value."""
        return self.kind.nullable

    @property
    def row_size(self) -> int:
        """Bytes of one row; of one element in a list, and of one byte in text."""
        return self.kind.item_size

    @property
    def row_dtype(self) -> DType:
        """One row of a fixed layout as a numpy dtype (a sub-array dtype if it has a shape)."""
        return np.dtype((self.dtype, self.shape)) if self.shape else self.dtype

    def to_json(self) -> dict[str, Any]:
        kind = self.kind
        return {
            "name": self.name,
            "id": self.id,
            "layout": kind.layout,
            "dtype": kind.dtype.str,
            "shape": list(kind.shape),
            "nullable": kind.nullable,
            "arrow": kind.arrow,
        }

    @classmethod
    def from_json(cls, value: Any) -> Column:
        """The column that `to_json` described.  Raises `CorruptError`, or `FormatError` for a newer layout."""
        if type(value) is not dict or type(value.get("name")) is not str or type(value.get("layout")) is not str:
            raise CorruptError(f"a column's description needs a name and a layout, found {short(value)}")
        name, layout = value["name"], value["layout"]
        if layout not in types.PARTS or value.keys() - _FIELDS:
            raise FormatError(
                f"column {short(name)} has the layout {short(layout)} with {short(sorted(value))}, which this "
                "version of mmstore doesn't know; open the file with a newer one"
            )
        number = value.get("id")
        if type(number) is not int or not 0 <= number <= MAX_ID:
            raise CorruptError(f"column {short(name)}: expected an id, found {short(number)}")
        try:
            _check_name(name)
            column = cls(name, _stored_kind(value), number)
        except (TypeError, ValueError, OverflowError) as error:
            raise CorruptError(f"column {short(name)}: its type can't be read: {short(str(error))}") from error
        if column.row_size > MAX_ROW_SIZE or column.to_json() != value:
            raise CorruptError(f"column {short(name)} of the type {short(value)} is never written so")
        return column

    @classmethod
    def decode(cls, data: bytes) -> Column:
        """The column behind `to_json`'s value as text.  Raises as `from_json`."""
        return cls.from_json(_json(data))

    def encode(self) -> bytes:
        """`to_json`'s value as text."""
        return _text(self.to_json())

    def __str__(self) -> str:
        return str(self.kind)


def _stored_kind(value: dict[str, Any]) -> Kind:
    """The type in a description; ValueError or TypeError where it makes no sense."""
    dtype, shape, nullable, arrow = value.get("dtype"), value.get("shape"), value.get("nullable"), value.get("arrow")
    if type(dtype) is not str or not types.STORED.fullmatch(dtype):
        raise ValueError(f"expected a stored type such as '<f8', found {short(dtype)}")
    if type(shape) is not list or len(shape) > types.MAX_DIMENSIONS or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"expected a shape such as [64], found {short(shape)}")
    if type(nullable) is not bool or type(arrow) is not str:
        raise ValueError(f"expected nullable and arrow, found {short(nullable)} and {short(arrow)}")
    kind = Kind(np.dtype(dtype), tuple(shape), value["layout"], arrow, nullable)
    if arrow and (types.of_arrow(arrow).dtype != kind.dtype or types.of_arrow(arrow).arrow != arrow):
        raise ValueError(f"{dtype} isn't what holds the Arrow type {short(arrow)}")
    if kind.layout in (types.UTF8, types.BINARY, types.CATEGORY):
        expected = types.resolve("", kind.layout)
        if (kind.dtype, kind.shape, arrow) != (expected.dtype, (), ""):
            raise ValueError(f"{kind.layout} is held as {expected.dtype}, found {dtype}")
    elif kind.layout == types.LIST and (shape or kind.dtype.kind == "b"):
        raise ValueError("a list of what no list is made of")
    return kind


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, or a selection of them, in order."""

    columns: tuple[Column, ...]
    key: tuple[str, ...] | None = None
    """Names of the columns that identify a row."""
    _positions: dict[str, int] = field(init=False, repr=False, compare=False, hash=False, default_factory=dict)
    _json: bytes = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        for position, column in enumerate(self.columns):
            if self._positions.setdefault(column.name, position) != position:
                raise SchemaError(f"column {column.name!r} is there twice; give each column a name of its own")
        if len(self.columns) > MAX_COLUMNS:
            raise SchemaError(f"expected 1 to {MAX_COLUMNS:,} columns, found {len(self.columns):,}")
        if len({column.id for column in self.columns}) != len(self.columns):
            raise SchemaError("two columns have the same id")
        if self.key is not None:
            self._check_key(self.key)
        value = {"columns": [column.to_json() for column in self.columns], "key": self.key}
        object.__setattr__(self, "_json", _text(value))

    def _check_key(self, key: tuple[str, ...]) -> None:
        missing = [name for name in key if name not in self._positions]
        if not key or missing or len(set(key)) != len(key):
            raise SchemaError(
                f"expected a key of one or more different columns among {', '.join(map(repr, self.names))}, found {key}"
            )
        for name in key:
            kind = self[name].kind
            fixed = kind.layout == types.FIXED and not kind.shape and kind.dtype.kind in "biumMSUV"
            if kind.nullable or not (fixed or kind.layout in (types.UTF8, types.BINARY)):
                raise SchemaError(
                    f"column {name!r} of type {kind} can't be a key; a key is made of integers, booleans, times, S, U, "
                    "V, utf8 or binary, none of them nullable"
                )

    @classmethod
    def of(cls, spec: Any, key: Any = None) -> Schema:
        """The schema described by `spec`.

        spec: a Schema; a dict name -> type; a structured dtype; a sequence of (name, type) and (name, type, shape), as
        numpy has them (Arrow's are the business of `exchange.schemas`).  key: the name of the column that identifies a
        row, a tuple of names, or None.

        Raises `SchemaError` naming a column that can't be held, and the nearest type that can.
        """
        names = (key,) if isinstance(key, str) else None if key is None else tuple(key)
        if isinstance(spec, Schema):
            return (spec if key is None else replace(spec, key=names))._some()
        return cls(tuple(Column.of(name, kind, id) for id, (name, kind) in enumerate(pairs(spec))), names)._some()

    def _some(self) -> Schema:
        """This schema, if it has columns, as a table needs them; a selection of a table's may be empty."""
        if not self.columns:
            raise SchemaError(f"expected 1 to {MAX_COLUMNS:,} columns, found 0")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def row_size(self) -> int:
        """Bytes of one row over all columns of fixed layout."""
        return sum(column.row_size for column in self.columns if column.kind.layout == types.FIXED)

    @property
    def dtype(self) -> DType:
        """A row as a packed structured dtype.  Raises `SchemaError` where a column has no fixed width or nulls."""
        for column in self.columns:
            if column.kind.layout != types.FIXED or column.nullable:
                raise SchemaError(f"column {column.name!r} of type {column} has no place in a structured dtype")
        return np.dtype([(column.name, column.dtype, column.shape) for column in self.columns])

    @property
    def next_id(self) -> int:
        """For a column to come: larger than all there are.  Raises `SchemaError` where none is left."""
        found = max(column.id for column in self.columns) + 1
        if found > MAX_ID:
            raise SchemaError(f"no id is left for a column, one has the last, {MAX_ID:,}; copy the table to a new one")
        return found

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


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"a schema isn't the JSON that it should be: {error}") from error


@lru_cache(maxsize=256)  # every look at a table meets its schema again
def _decode(data: bytes) -> Schema:
    value = _json(data)
    if type(value) is not dict or type(value.get("columns")) is not list:
        raise CorruptError(f"expected a schema with a list of columns, found {short(value)}")
    if value.keys() - {"columns", "key"}:
        raise FormatError(
            f"the schema has {short(sorted(value))}, which this version of mmstore doesn't know; "
            "open the file with a newer one"
        )
    key = value.get("key")
    if key is not None and (type(key) is not list or not all(type(name) is str for name in key)):
        raise CorruptError(f"expected a schema's key as a list of names, found {short(key)}")
    try:
        columns = tuple(Column.from_json(column) for column in value["columns"])
        return Schema(columns, None if key is None else tuple(key))._some()
    except SchemaError as error:
        raise CorruptError(f"a schema contradicts itself: {error}") from error


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise SchemaError(f"a column's name must be a str, found {type(name).__name__} {short(name)}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise SchemaError(f"a column's name must be encodable as UTF-8, {name!r} isn't; rename the column") from None
    if not 1 <= size <= MAX_NAME or "\0" in name:
        raise SchemaError(f"a column's name needs 1 to {MAX_NAME} bytes and no NUL, found {short(name)}; rename it")


def pairs(spec: Any) -> Iterator[tuple[Any, Any]]:
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
                raise SchemaError(f"expected (name, type) or (name, type, shape) for each column, found {short(item)}")
            yield item[0], item[1] if len(item) == 2 else (item[1], item[2])
    else:
        raise SchemaError(
            "expected the columns as a dict name -> type, as a structured dtype or as an Arrow schema, "
            f"found {type(spec).__name__} {short(spec)}"
        )
