"""Rows as JSON objects: whole columns are turned into text by Arrow, then joined.

Times are text in ISO 8601, decimals text (a float would lose digits), bytes text in UTF-8 with escapes; NaN and
infinities, which JSON has no word for, are null.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

__all__ = ["json_rows", "json_values"]


def json_rows(batch: Any) -> Any:
    """An Arrow string array with an object for each row of a RecordBatch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: list[Any] = []
    opening = "{"
    for name in batch.schema.names:
        pieces += [pa.scalar(f"{opening}{json.dumps(name, ensure_ascii=False)}: ", pa.large_string())]
        pieces += [json_values(batch.column(name))]
        opening = ", "
    return pc.binary_join_element_wise(*pieces, pa.scalar("}", pa.large_string()), pa.scalar("", pa.large_string()))


def json_values(column: Any) -> Any:
    """A column as JSON values, as an Arrow large string array without nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types as sorts

    kind = column.type
    if sorts.is_dictionary(kind):
        return json_values(column.dictionary_decode())
    if sorts.is_boolean(kind) or sorts.is_integer(kind):
        text = pc.cast(column, pa.large_string())
    elif sorts.is_floating(kind):
        wide = pc.cast(column, pa.float64()) if sorts.is_float16(kind) else column
        text = pc.cast(pc.if_else(pc.is_finite(wide), wide, None), pa.large_string())
        text = pc.replace_substring_regex(text, r"^(-?[0-9]+)$", r"\1.0")
    elif sorts.is_string(kind) or sorts.is_large_string(kind):
        text = _quoted(column)
    elif sorts.is_timestamp(kind) or sorts.is_date(kind) or sorts.is_time(kind):
        shown = pc.replace_substring(pc.cast(column, pa.large_string()), " ", "T")
        text = _quoted(shown)
    elif sorts.is_decimal(kind):
        text = _quoted(pc.cast(column, pa.large_string()))
    else:
        return pa.array([json.dumps(_plain(value), ensure_ascii=False) for value in column.to_pylist()],
                        pa.large_string())  # fmt: skip
    return pc.fill_null(text, "null")


def _quoted(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.cast(column, pa.large_string())
    special = pc.any(pc.match_substring_regex(column, r'["\\\x00-\x1f]')).as_py()
    if special:
        texts = [None if text is None else json.dumps(text, ensure_ascii=False) for text in column.to_pylist()]
        return pa.array(texts, pa.large_string())
    quote = pa.scalar('"', pa.large_string())
    return pc.binary_join_element_wise(quote, column, quote, pa.scalar("", pa.large_string()))


def _plain(value: Any) -> Any:
    """A value in words that JSON has."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
