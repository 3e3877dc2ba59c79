"""Between the types of a table and Arrow's: what text is parsed as, and what schema an input's columns give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmstore.columns.schema import Column, Schema
from mmstore.errors import SchemaError
from mmstore.exchange.schemas import column_of

__all__ = ["appended_as", "check_sorts", "named_columns", "parsed_as", "recast", "specs"]


def named_columns(named: Mapping[str, Any] | None) -> dict[str, Any]:
    """The types that a user named, with `i8?` for a nullable one understood; each is checked to be a type."""
    result: dict[str, Any] = {}
    for name, kind in (named or {}).items():
        if isinstance(kind, str) and kind.endswith("?"):
            from mmstore import nullable

            kind = nullable(kind.removesuffix("?"))
        column_of(name, kind)
        result[name] = kind
    return result


def specs(found: Any, names: list[str], named: Mapping[str, Any], key: tuple[str, ...]) -> dict[str, Any]:
    """What `create_table` takes: the named types, else those of the input; columns of the key can't be missing."""
    result: dict[str, Any] = {}
    for name in names:
        if name in named:
            result[name] = named[name]
        elif isinstance(found, np.dtype):
            result[name] = found[name]
        else:
            field = found.field(name)
            result[name] = field.with_nullable(field.nullable and name not in key)
    return result


def parsed_as(schema: Schema, names: list[str], guess: Any) -> dict[str, Any]:
    """Column -> the Arrow type to parse text as so that it can be appended to a column of `schema`.

    guess: the types of the sample, which tell whether points of time have a zone.
    Raises SchemaError for a type that text can't give.
    """
    return {name: _parsed(schema[name], guess.field(name).type) for name in names}


def appended_as(schema: Schema, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Column -> the Arrow type to turn parsed text into, where that isn't how it is appended."""
    import pyarrow as pa

    casts: dict[str, Any] = {}
    for name, kind in parsed.items():
        column = schema[name]
        if column.kind.layout == "category":
            casts[name] = pa.dictionary(pa.int32(), pa.string())
        elif pa.types.is_timestamp(kind) and kind.tz is not None and not column.kind.arrow:
            casts[name] = pa.timestamp(kind.unit)  # the time in UTC
    return casts


def check_sorts(table: Any, found: Any) -> None:
    """Raise SchemaError where a column of the input is of another sort than the table's, so that no row can fit.

    table: whatever gives an Arrow schema; found: a pyarrow.Schema with those columns and maybe others, or a structured
    dtype, of which nothing is said.
    """
    import pyarrow as pa

    if isinstance(found, np.dtype):
        return
    for field in pa.schema(table):
        other = found.field(field.name).type
        if _sort(field.type) != _sort(other) and not pa.types.is_null(other):
            raise SchemaError(f"column {field.name!r} of the table holds {field.type}, that of the input {other}")


def _sort(kind: Any) -> str:
    from pyarrow import types as sorts

    if sorts.is_dictionary(kind):
        return _sort(kind.value_type)
    if sorts.is_string(kind) or sorts.is_large_string(kind) or sorts.is_string_view(kind):
        return "text"
    if sorts.is_binary(kind) or sorts.is_large_binary(kind) or sorts.is_fixed_size_binary(kind):
        return "bytes"
    if sorts.is_integer(kind) or sorts.is_floating(kind) or sorts.is_decimal(kind) or sorts.is_boolean(kind):
        return "numbers"
    return "lists" if sorts.is_nested(kind) else "times" if sorts.is_temporal(kind) else str(kind)


def recast(batch: Any, casts: Mapping[str, Any]) -> Any:
    """A RecordBatch with some columns in other types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, kind in casts.items():
        at = batch.schema.get_field_index(name)
        column = batch.column(at)
        column = column.dictionary_encode() if pa.types.is_dictionary(kind) else pc.cast(column, kind)
        batch = batch.set_column(at, name, column)
    return batch


def _parsed(column: Column, guess: Any) -> Any:
    import pyarrow as pa

    kind, dtype = column.kind, column.dtype
    if kind.layout in ("utf8", "category") or dtype.kind == "U":
        return pa.string()
    if kind.layout == "binary" or dtype.kind == "S":
        return pa.binary()
    if kind.layout == "list" and pa.types.is_list(guess):
        return pa.list_(pa.from_numpy_dtype(dtype))
    plain = kind.layout == "fixed" and not column.shape
    if plain and kind.arrow:
        return _arrow(kind.arrow, str(column).removeprefix("nullable(").removesuffix(")"))
    if plain and dtype.kind in "biuf":
        return pa.float32() if dtype == np.dtype("f2") else pa.from_numpy_dtype(dtype)
    unit = np.datetime_data(dtype)[0] if dtype.kind in "mM" else ""
    if plain and dtype.kind == "M" and unit == "D":
        return pa.date32()
    if plain and unit in ("s", "ms", "us", "ns"):
        if dtype.kind == "M":
            return pa.timestamp(unit, guess.tz if pa.types.is_timestamp(guess) else None)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    raise SchemaError(
        f"column {column.name!r}: text can't be read as {column}; expected a type such as i8, f4, utf8, date32, "
        "timestamp[s] or decimal128(15,2)"
    )


def _arrow(code: str, name: str) -> Any:
    """The Arrow type behind a column's Arrow format."""
    import pyarrow as pa

    simple = {"date32": pa.date32(), "date64": pa.date64(), "time32[s]": pa.time32("s"), "time32[ms]": pa.time32("ms"),
              "time64[us]": pa.time64("us"), "time64[ns]": pa.time64("ns")}  # fmt: skip
    if name in simple:
        return simple[name]
    if code.startswith("d:"):
        precision, scale, *_ = code.removeprefix("d:").split(",")
        return pa.decimal128(int(precision), int(scale))
    unit, _, zone = code.removeprefix("ts").partition(":")
    return pa.timestamp({"s": "s", "m": "ms", "u": "us", "n": "ns"}[unit], zone)
