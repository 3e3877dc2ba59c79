"""What an input is: a schema, batches of rows with the place where each begins, and bytes read so far.

A batch is a pyarrow RecordBatch, or an `ArrayBatch` where numpy has types that Arrow has not.  A `Mark` is a
place in an input that `batches` can begin at; the same mark gives the same batches again, which is what
makes a load restartable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mmstore.errors import SchemaError

__all__ = ["ArrayBatch", "BadRow", "Batch", "Handler", "Input", "Mark", "Plan", "require"]

BATCH_ROWS: Final = 1 << 16
"""Rows of a batch at most."""
BATCH_BYTES: Final = 4 << 20
"""Bytes of text that make a batch; or of rows, for inputs that know their size."""
SLICE_BYTES: Final = 8 << 20
"""Bytes of a batch of rows at most, for inputs that could give any number of them at once."""


def require(package: str, extra: str) -> Any:
    """The module `package`; an ImportError that names the extra where it isn't installed."""
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}: python -m pip install 'mmstore[{extra}]'") from error


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in an input, before a row."""

    rows: int = 0
    """Rows before it, as far as the input knows; with rejected ones."""
    offset: int = 0
    """Bytes of unpacked text before it, for text."""
    lines: int = 0
    """Newlines in that text."""


class BadRow(SchemaError):
    """A row that can't be loaded: where it stands, which value is to blame, and what to pass."""

    def __init__(
        self,
        file: str,
        reason: str,
        *,
        line: int | None = None,
        row: int | None = None,
        column: str | None = None,
        value: str | None = None,
        text: str | None = None,
        advice: str = "",
    ) -> None:
        self.file, self.reason, self.line, self.row, self.column = file, reason, line, row, column
        self.value, self.text, self.advice = value, text, advice
        where = f"line {line:,}" if line is not None else f"row {row:,}" if row is not None else ""
        place = ", ".join(part for part in (file, where, f"column {column!r}" if column is not None else "") if part)
        found = f": the value {_short(value)} " if value is not None else ": "
        super().__init__(f"{place}{found}{reason}{f'; {advice}' if advice else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_bad_row, (self.facts(), self.advice))

    def facts(self) -> dict[str, Any]:
        """Everything known about the row, for reject files and JSON."""
        names = ("file", "line", "row", "column", "value", "reason", "text")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _bad_row(facts: dict[str, Any], advice: str) -> BadRow:
    return BadRow(facts.pop("file"), facts.pop("reason"), advice=advice, **facts)


def _short(value: str) -> str:
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}... ({len(value):,} characters)"


Handler: TypeAlias = Callable[[BadRow], None]
"""Raises the row it is given, or writes it down and returns so that the row is left out."""


@dataclass(frozen=True)
class Plan:
    """What is wanted of an input."""

    types: Mapping[str, Any]
    """Column -> Arrow type, in order: what text is parsed as, and which columns are read."""
    bad: Handler
    """What to do with rows that don't fit."""
    required: frozenset[str] = field(default_factory=frozenset)
    """Columns in which no value may be missing."""
    others: bool = False
    """Whether columns that are not wanted may be there."""
    where: Sequence[tuple[str, str, Any]] = ()
    """Conditions as `where` has them: rows for which they can't hold may be left out, and need not be."""
    rows: int = BATCH_ROWS
    """How many rows a batch should have at most."""

    def check_names(self, file: str, found: Sequence[str]) -> None:
        """Raise SchemaError unless `found` has the columns wanted, each once."""
        twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
        if twice:
            raise SchemaError(f"{file} has the column {twice[0]!r} {found.count(twice[0])} times; rename one")
        missing = [name for name in self.types if name not in found]
        extra = [name for name in found if name not in self.types]
        if missing or (extra and not self.others):
            what = f"lacks {', '.join(map(repr, missing))}" if missing else f"has {', '.join(map(repr, extra))} as well"
            raise SchemaError(
                f"{file} has the columns {', '.join(found)}; expected {', '.join(self.types)}: it {what}; "
                "choose with columns=[...] (--columns A,B)"
            )


class ArrayBatch:
    """Columns as numpy arrays of one length, with what the loader needs of a RecordBatch."""

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self.columns = columns
        self.num_rows = len(next(iter(columns.values()))) if columns else 0

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def slice(self, start: int, length: int | None = None) -> ArrayBatch:
        """Rows [start, start + length), as views."""
        stop = self.num_rows if length is None else start + length
        return ArrayBatch({name: array[start:stop] for name, array in self.columns.items()})

    def select(self, names: Sequence[str]) -> ArrayBatch:
        """Some columns, in the order of `names`."""
        return ArrayBatch({name: self.columns[name] for name in names})

    def filter(self, mask: Any) -> ArrayBatch:
        """The rows where `mask` is true."""
        chosen = np.asarray(mask)
        return ArrayBatch({name: array[chosen] for name, array in self.columns.items()})


Batch: TypeAlias = Any
"""A pyarrow RecordBatch or an `ArrayBatch`."""


class Input(ABC):
    """One file, environment or stream to load from."""

    name: str
    """For messages, and to know it again when a load is resumed."""
    size: int | None = None
    """Bytes in all as they lie on the disk, None where that is unknown."""
    read: int = 0
    """Bytes read so far of them."""
    inferred: bool = False
    """Whether its types are guessed from a sample, so that they may give way."""
    empty_text: bool = False
    """Whether a text that is missing is an empty one."""
    empty: bool = False
    """Whether the sample has no rows, so that its types say nothing; known after `schema`."""
    records: bool = False
    """Whether it is keys and values by nature, with columns named `key` and `value`."""

    @abstractmethod
    def schema(self) -> Any:
        """Columns and types: a pyarrow.Schema, or a numpy dtype with fields where Arrow lacks the types."""

    @abstractmethod
    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Batch, Mark]]:
        """Batches from `start` on, each with the mark of its first row."""

    def forget_sample(self) -> None:  # noqa: B027 - most have none
        """Let go of rows that were read for their types, and maybe kept for `batches`."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of the file; a second call does nothing."""
