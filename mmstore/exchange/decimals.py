"""Decimals: Python's `decimal.Decimal` and the scaled integers that a column holds."""

from __future__ import annotations

import decimal
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.batch import Array
from mmstore.columns.schema import Column
from mmstore.columns.types import Kind
from mmstore.exchange.rows import misfit

__all__ = ["scaled", "unscaled"]

_WIDE: Final = decimal.Context(prec=100)  # digits enough for any number of 38 and its scale


def scaled(column: Column, values: Any) -> Array:
    """Decimals and integers as the scaled integers of a column of decimals.  Raises `SchemaError`."""
    precision, scale, bits = types.decimal_of(column.kind.arrow)
    shape = column.kind.shape
    array = np.asarray(values, object)
    if array.shape[1:] != shape and array.size:
        raise misfit(column, f"found the shape {array.shape}, expected ({', '.join(['n', *map(str, shape)])})")
    size = bits // 8
    limit = 10**precision
    packed = bytearray()
    for value in array.reshape(-1).tolist():
        if isinstance(value, bool) or not isinstance(value, decimal.Decimal | int):
            raise misfit(column, f"found {value!r}; decimals come as decimal.Decimal or int")
        number = decimal.Decimal(value).scaleb(scale, _WIDE)
        if not number.is_finite() or number != number.to_integral_value() or number.copy_abs() >= limit:
            raise misfit(column, f"found {value}, which isn't a number of {precision} digits, {scale} behind the point")
        packed += int(number).to_bytes(size, "little", signed=True)
    return np.frombuffer(bytes(packed), column.dtype).reshape(-1, *shape)


def unscaled(kind: Kind, values: Array) -> list[decimal.Decimal]:
    """The scaled integers of a type of decimals as Python's."""
    _, scale, bits = types.decimal_of(kind.arrow)
    size = bits // 8
    whole = np.ascontiguousarray(values).tobytes()
    numbers = (int.from_bytes(whole[at : at + size], "little", signed=True) for at in range(0, len(whole), size))
    return [decimal.Decimal(number).scaleb(-scale, _WIDE) for number in numbers]
