"""Types of text: what a sample says, widened until it holds every value, and never at the price of one.

pyarrow guesses a type for each column of a sample.  A guess gives way where it would lose something: whole
numbers with leading zeros (postcodes) and numbers longer than a float has digits stay text, or u8 where
that holds them.  Several samples are joined by `wider`: nothing < whole numbers < floats < text, dates < times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["exact", "joined", "may_lose", "wider", "widest"]


def wider(a: Any, b: Any) -> Any:
    """The narrowest Arrow type that holds the values of both; text where nothing else does."""
    import pyarrow as pa
    from pyarrow import types as sorts

    if a == b or sorts.is_null(b):
        return a
    if sorts.is_null(a):
        return b
    if _number(sorts, a) and _number(sorts, b):
        return pa.uint64() if {a, b} == {pa.int64(), pa.uint64()} else pa.float64()
    if sorts.is_timestamp(a) and sorts.is_timestamp(b) and a.tz == b.tz:
        return max(a, b, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    for one, other in ((a, b), (b, a)):
        if sorts.is_date(one) and sorts.is_timestamp(other) and other.tz is None:
            return other
        if sorts.is_list(one) and sorts.is_list(other):
            return pa.list_(wider(one.value_type, other.value_type))
        if sorts.is_binary(one) and sorts.is_string(other):
            return one
    return pa.string()


def widest(schemas: Iterable[Any]) -> Any:
    """A pyarrow.Schema that holds the columns of all, each with the widest type."""
    import pyarrow as pa

    fields: dict[str, Any] = {}
    nullable: set[str] = set()
    for schema in schemas:
        for field in schema:
            fields[field.name] = wider(fields.get(field.name, pa.null()), field.type)
            if field.nullable:
                nullable.add(field.name)
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in fields.items()])


def joined(tables: list[Any]) -> Any:
    """Tables of guessed types as one; None where their types differ by more than columns without any value."""
    import pyarrow as pa

    first = tables[0].schema
    for table in tables[1:]:
        if table.schema != first:
            return None
    return pa.concat_tables(tables)


_STEP: Final = 1 << 16  # bytes looked at together, so that they stay in the processor's cache


def may_lose(text: npt.NDArray[np.uint8], delimiter: str) -> bool:
    """Whether a number of the text may be one that `exact` keeps as text or as u8; if not, it need not be asked.

    True for any 0 with a digit behind it at the beginning of a value or a word, and for any 16 digits in a row.
    """
    starts = np.zeros(256, np.bool_)
    starts[list(b'\n\r" \t+-' + delimiter.encode())] = True
    signs = np.zeros(256, np.bool_)
    signs[list(b"+-")] = True
    for at in range(0, len(text), _STEP):
        before = text[at - 2 : at] if at else np.full(2, 0x0A, np.uint8)
        piece = np.concatenate([before, text[at : at + _STEP + 15]])  # overlaps, so that nothing is missed at an edge
        digits = piece - np.uint8(0x30) < 10
        two = digits[:-1] & digits[1:]
        four = two[:-2] & two[2:]
        eight = four[:-4] & four[4:]
        if (eight[:-8] & eight[8:]).any():
            return True
        zeros = np.flatnonzero(two[2:] & (piece[2:-1] == 0x30)) + 2
        one, other = piece[zeros - 1], piece[zeros - 2]
        if (starts[one] & (~signs[one] | starts[other])).any():
            return True
    return False


def exact(kind: Any, texts: Any) -> Any:
    """The guess `kind` for a column, or a type that keeps every one of its texts (an Arrow string array)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types as sorts

    if sorts.is_int64(kind) or sorts.is_float64(kind):
        digits = pc.ascii_ltrim(texts, " \t+-")  # expressions are slow, so they see only what may match
        if pc.any(pc.match_substring_regex(pc.filter(digits, pc.starts_with(digits, "0")), "^0[0-9]")).as_py():
            return pa.string()
        long = pc.filter(texts, pc.greater_equal(pc.binary_length(texts), 16))
        if sorts.is_float64(kind) and pc.any(pc.match_substring_regex(long, r"^\s*[+-]?[0-9]{16,}\s*$")).as_py():
            numbers = pc.filter(texts, pc.match_substring_regex(texts, r"[0-9]"))
            try:
                pc.cast(numbers, pa.uint64())
            except pa.ArrowInvalid:
                return pa.string()
            return pa.uint64()
    return kind


def _number(sorts: Any, kind: Any) -> bool:
    return bool(sorts.is_integer(kind) or sorts.is_floating(kind))


def advice(name: str, kind: Any, value: str) -> str:
    """What to pass so that `value`, which isn't of type `kind`, can be loaded; an empty one is a missing one."""
    import pyarrow as pa
    from pyarrow import types as sorts

    if not value.strip() and not sorts.is_string(kind):
        fitting = f"{_short(kind)}?"
    else:
        fitting = "utf8"
        if sorts.is_integer(kind):
            for wanted, code in ((pa.int64(), "i8"), (pa.float64(), "f8")):
                try:
                    pa.scalar(value.strip()).cast(wanted)
                except pa.ArrowInvalid:
                    continue
                fitting = code
                break
    return (
        f'pass schema={{"{name}": "{fitting}"}} (--schema {name}={fitting}), or on_error="skip" to leave such rows out'
    )


def _short(kind: Any) -> str:
    """An Arrow type as the schema of a table names it."""
    from pyarrow import types as sorts

    if sorts.is_integer(kind) or sorts.is_floating(kind):
        letter = "u" if sorts.is_unsigned_integer(kind) else "f" if sorts.is_floating(kind) else "i"
        return f"{letter}{kind.bit_width // 8}"
    return {"string": "utf8", "large_string": "utf8", "date32[day]": "date32"}.get(str(kind), str(kind))
