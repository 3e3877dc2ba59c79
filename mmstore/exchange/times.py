"""Dates and times that Python or Arrow says otherwise than numpy: with a zone, within a day, in 4 bytes."""

from __future__ import annotations

import datetime
from typing import Any, Final

import numpy as np

from mmstore.columns import types
from mmstore.columns.batch import Array
from mmstore.columns.schema import Column
from mmstore.columns.types import Kind
from mmstore.exchange import rows
from mmstore.exchange.rows import misfit

__all__ = ["NAT", "has_nat", "in_utc", "since_midnight", "small_times", "whole_days"]

NAT: Final = np.iinfo("i8").min
"""The number that numpy has for what is no time."""
_DAY: Final = {"tdm": 86_400_000, "tts": 86_400, "ttm": 86_400_000, "ttu": 86_400_000_000, "ttn": 86_400_000_000_000}


def has_nat(kind: Kind) -> bool:
    """Whether values may be NaT: points of time and durations, but neither dates in 4 bytes nor times of a day."""
    return kind.dtype.kind in "mM" and kind.arrow not in _DAY


def whole_days(column: Column, values: Array) -> Array:
    """`values`, of which a time of day must lie within a day, and a date64 be midnight, as Arrow has it."""
    unit = _DAY.get(column.kind.arrow)
    if unit is not None and len(values):
        numbers = values.view(f"<i{values.dtype.itemsize}")
        if column.kind.arrow == "tdm":
            if (numbers % unit != 0).any():
                raise misfit(column, "a value is no midnight; a date64 is a date, use datetime64[ms] for times")
        elif int(numbers.min()) < 0 or int(numbers.max()) >= unit:
            raise misfit(column, "a value is no time of a day; use timedelta64 for durations")
    return values


def in_utc(values: Any) -> Any:
    """Datetimes with a time zone as those of UTC without one."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values
    return [
        value.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(value, datetime.datetime) and value.tzinfo is not None
        else value
        for value in values
    ]


def small_times(column: Column, values: Any) -> Array:
    """Dates and times of day in 4 bytes, by way of numpy's types of 8."""
    kind = column.kind
    wide = rows.fixed(Column(column.name, Kind(np.dtype(types.EPOCH_OF[kind.arrow]), kind.shape)), values).view("<i8")
    narrow = wide.astype("<i4")
    if not np.array_equal(narrow, wide):
        raise misfit(column, "a value is outside of 32 bits, or NaT; make the column nullable for what is missing")
    return narrow


def since_midnight(value: datetime.time) -> datetime.timedelta:
    """A time of day, which knows no zone, as numpy and Arrow have it."""
    return datetime.timedelta(
        hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
    )
