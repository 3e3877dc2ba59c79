"""Conditions on rows: written as text or tuples, applied to batches.

    delay >= 30        carrier in UA,AA        left is null        name != "x y"

Operators are those of a table's scan.  A row whose value is missing fulfils only `is null`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from mmstore.errors import SchemaError
from mmstore.exchange.compare import COMPARE
from mmstore.integrations.inputs.base import ArrayBatch, Batch

__all__ = ["Condition", "chosen", "conditions", "expression", "scanned"]

Condition = tuple[str, str, Any]
"""(column, operator, value); a list of values for `in`, None for `is null` and `is not null`."""

OPERATORS: Final = ("==", "!=", "<=", ">=", "<", ">", "in", "is null", "is not null")
_COMPARE: Final = re.compile(r"\s*(?P<column>.+?)\s*(?P<operator>==|!=|<=|>=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_IN: Final = re.compile(r"\s*(?P<column>.+?)\s+in\s+(?P<values>.+?)\s*", re.DOTALL | re.IGNORECASE)
_NULL: Final = re.compile(r"\s*(?P<column>.+?)\s+is\s+(?P<negated>not\s+)?null\s*", re.IGNORECASE)
_CALLS: Final = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater",
                 ">=": "greater_equal"}  # fmt: skip


def conditions(given: str | Condition | Iterable[str | Condition] | None) -> list[Condition]:
    """Conditions that all must hold.  Raises ValueError for what is none."""
    if given is None:
        return []
    if isinstance(given, str) or (isinstance(given, tuple) and len(given) == 3 and given[1] in OPERATORS):
        return [_one(given)]
    return [_one(part) for part in given]


def _one(given: Any) -> Condition:
    if isinstance(given, str):
        return _parsed(given)
    if isinstance(given, Sequence) and len(given) == 3 and isinstance(given[0], str) and given[1] in OPERATORS:
        return given[0], given[1], given[2]
    raise ValueError(f"expected a condition such as 'delay >= 30' or ('delay', '>=', 30), found {given!r}")


def _parsed(text: str) -> Condition:
    if match := _NULL.fullmatch(text):
        return match["column"], "is not null" if match["negated"] else "is null", None
    if match := _COMPARE.fullmatch(text):
        operator = "==" if match["operator"] == "=" else match["operator"]
        return match["column"], operator, _unquoted(match["value"])
    if match := _IN.fullmatch(text):
        inner = match["values"]
        if inner.startswith("(") and inner.endswith(")"):
            inner = inner.removeprefix("(").removesuffix(")")
        return match["column"], "in", [_unquoted(value.strip()) for value in inner.split(",")]
    raise ValueError(f"expected a condition such as 'delay >= 30', 'day in 1,2' or 'left is null', found {text!r}")


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


def scanned(condition: Condition, kind: Any) -> tuple[Any, ...]:
    """The condition as a table's scan takes it, its text read as the column's Arrow type.

    Raises SchemaError where it isn't of that type.
    """
    import pyarrow as pa

    column, operator, value = condition
    if operator.startswith("is"):
        return column, operator
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if operator == "in":
        return column, operator, [_value(column, part, kind).as_py() for part in value]
    return column, operator, _value(column, value, kind).as_py()


def chosen(batch: Batch, wanted: Sequence[Condition]) -> Batch:
    """The rows for which all conditions hold."""
    if not wanted:
        return batch
    if isinstance(batch, ArrayBatch):
        mask = np.ones(batch.num_rows, bool)
        for condition in wanted:
            mask &= _array_mask(batch, condition)
        return batch.filter(mask)
    import pyarrow.compute as pc

    masks = [_mask(batch, condition) for condition in wanted]
    both = masks[0]
    for mask in masks[1:]:
        both = pc.and_(both, mask)
    return batch.filter(both)


def expression(wanted: Sequence[Condition], schema: Any) -> Any:
    """A pyarrow expression that holds wherever all conditions do, and maybe elsewhere; None if there is none to say.

    schema: a pyarrow.Schema with the conditions' columns.  It is for statistics, so what these may not tell is left
    out: dictionaries, nested types, and whether a float differs from a value, as NaN does.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = None
    for name, operator, value in wanted:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind) or pa.types.is_nested(kind):
            continue
        field = pc.field(name)
        if operator in ("is null", "is not null"):
            one = field.is_null() if operator == "is null" else field.is_valid()
        elif operator == "in":
            one = field.isin(pa.array([_value(name, part, kind).as_py() for part in value], kind))
        elif operator == "!=" and pa.types.is_floating(kind):
            continue
        else:
            one = COMPARE[operator](field, pc.scalar(_value(name, value, kind)))
        found = one if found is None else found & one
    return found


def _mask(batch: Any, condition: Condition) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    name, operator, value = condition
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if operator == "is null":
        return column.is_null()
    if operator == "is not null":
        return column.is_valid()
    if operator == "in":
        values = pa.array([_value(name, part, column.type).as_py() for part in value], column.type)
        return pc.is_in(column, values)
    return getattr(pc, _CALLS[operator])(column, _value(name, value, column.type))


def _value(name: str, value: Any, kind: Any) -> Any:
    import pyarrow as pa

    try:
        if isinstance(value, str) and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
            return pa.scalar(value).cast(kind)
        return pa.scalar(value, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"the condition on column {name!r}: {value!r} is no {kind}") from error


def _array_mask(batch: ArrayBatch, condition: Condition) -> Any:
    name, operator, value = condition
    array = batch.columns[name]
    if operator in ("is null", "is not null"):
        missing = np.isnat(array) if array.dtype.kind in "mM" else array != array
        return missing if operator == "is null" else ~missing
    values = [_as(name, part, array.dtype) for part in (value if operator == "in" else [value])]
    if operator == "in":
        return np.isin(array, values)
    return COMPARE[operator](array, values[0])


def _as(name: str, value: Any, dtype: np.dtype[Any]) -> Any:
    try:
        return np.array(value).astype(dtype)[()]
    except (TypeError, ValueError) as error:
        raise SchemaError(f"the condition on column {name!r}: {value!r} is no {dtype}") from error
