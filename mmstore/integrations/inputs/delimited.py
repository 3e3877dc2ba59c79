"""CSV and other delimited text: parsed by pyarrow block by block, with the line of what doesn't fit.

Each block of whole records (``blocks``) is parsed with the types of the plan.  When pyarrow refuses one, it is
halved until the records to blame stand alone: each becomes a `BadRow` with its line, column and value, and the
others are kept.  So a file is parsed at pyarrow's rate as long as it is sound, and exactly where it isn't.

Types are guessed block by block of the sample, and these are the very blocks that `batches` meets first: where the
guess is what was asked for, it takes the rows as they were parsed for it.

Missing are: an empty value, NA, NULL, nan and their like, except in text, which is taken as it stands.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, BinaryIO, Final

import numpy as np

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_BYTES, BadRow, Input, Mark, Plan, require
from mmstore.integrations.inputs.blocks import NEWLINE, RETURN, Bytes, CsvCutter, Transcoded, blocks, count_of
from mmstore.integrations.inputs.infer import advice, exact, joined, may_lose
from mmstore.integrations.inputs.source import Source

__all__ = ["CsvInput"]

SAMPLE_BYTES: Final = (8 << 20) + (64 << 10)
"""Unpacked bytes from the beginning that types are guessed from: two blocks of rows, and a header before them."""
HEADER_BYTES: Final = 1 << 20
"""Bytes within which the columns' names end."""


class CsvInput(Input):
    """Delimited text; `names` are its columns where it has no header."""

    inferred = True
    empty_text = True

    def __init__(
        self, source: Source, delimiter: str = ",", names: list[str] | None = None, encoding: str = "utf-8"
    ) -> None:
        require("pyarrow", "arrow")
        if len(delimiter.encode()) != 1:
            raise ValueError(f"expected a delimiter of one ASCII character, found {delimiter!r}")
        self.source, self.delimiter, self.names = source, delimiter, names
        self.name, self.size = source.name, source.size
        self.encoding = codecs.lookup(encoding).name
        self._schema: Any = None
        self._beginning: tuple[int, int, list[str], CsvCutter] | None = None
        self._parsed: dict[int, tuple[int, Any]] = {}
        """Of blocks of the sample: place -> (bytes, the rows with all columns, as they were guessed)."""

    @property
    def read(self) -> int:  # type: ignore[override]
        return self.source.read

    # --- types ----------------------------------------------------------------------------------------

    def schema(self) -> Any:
        """Types guessed from the sample, nullable where a value is missing in it; null without any value."""
        if self._schema is None:
            sample = self._sample(SAMPLE_BYTES)
            start, _, names, cut = self._begin(sample)
            self._schema = self._guess(sample, start, names, cut)
        return self._schema

    def forget_sample(self) -> None:
        self._parsed.clear()

    def _sample(self, size: int) -> Bytes:
        """The beginning, in UTF-8."""
        data = self.source.head(size)
        if self.encoding != "utf-8":
            data = codecs.getincrementaldecoder(self.encoding)().decode(data).encode()
        return np.frombuffer(data, np.uint8)

    def _begin(self, sample: Bytes | None = None) -> tuple[int, int, list[str], CsvCutter]:
        """(bytes before the first row, newlines in them, names of the columns, what cuts this text)."""
        if self._beginning is None:
            if sample is None:
                sample = self._sample(HEADER_BYTES)
            newline = NEWLINE if (sample == NEWLINE).any() or not (sample == RETURN).any() else RETURN
            cut = CsvCutter(self.delimiter.encode(), newline)
            start, names = self._header(sample, cut)
            self._beginning = start, count_of(sample[:start], newline), names, cut
        return self._beginning

    def _header(self, text: Bytes, cut: CsvCutter) -> tuple[int, list[str]]:
        """(bytes before the first row, names of the columns)."""
        from pyarrow import csv

        start = len(codecs.BOM_UTF8) if text[: len(codecs.BOM_UTF8)].tobytes() == codecs.BOM_UTF8 else 0
        if self.names is not None:
            return start, self.names
        for end in cut.ends(text[start : start + HEADER_BYTES]).tolist():
            record = text[start : start + end].tobytes()
            if not record.strip(b"\r\n"):
                continue
            try:
                names: list[str] = csv.read_csv(io.BytesIO(record), parse_options=self._parsing()).schema.names
            except UnicodeDecodeError as error:
                raise SchemaError(f"{self.name}: its columns' names aren't UTF-8; pass encoding='latin-1'") from error
            return start + end, names
        raise SchemaError(f"{self.name} is empty; a CSV file starts with its columns' names")

    def _guess(self, sample: Bytes, start: int, names: list[str], cut: CsvCutter) -> Any:
        import pyarrow as pa

        for name in names:
            if names.count(name) > 1:
                raise SchemaError(f"{self.name} has the column {name!r} {names.count(name)} times; rename one")
        ends = _ends(sample, start, cut, whole=len(sample) < SAMPLE_BYTES)
        rows = sample[start : ends[-1]]
        try:
            tables = [self._parse(sample[a:b], names, {}, threads=True) for a, b in pairwise(ends)]
            guess = joined(tables)
            if guess is None:
                guess = self._parse(rows, names, {}, threads=True)
            self._parsed = {a: (b - a, table) for (a, b), table in zip(pairwise(ends), tables, strict=True)}
        except pa.ArrowInvalid:  # a broken record: which one is for `batches` to say
            rows = self._sound(rows, names, cut)
            guess = self._parse(rows, names, {})
        numbers = [f.name for f in guess.schema if pa.types.is_int64(f.type) or pa.types.is_float64(f.type)]
        if not may_lose(rows, self.delimiter):
            numbers = []
        texts = self._parse(rows, names, dict.fromkeys(numbers, pa.string()), numbers, True) if numbers else None
        self.empty = not guess.num_rows
        fields = []
        for name in names:
            kind, missing = guess.schema.field(name).type, guess.column(name).null_count > 0
            if name in numbers and texts is not None:
                kind = exact(kind, texts.column(name))
            missing = pa.types.is_null(kind) or (missing and not pa.types.is_string(kind))
            fields.append(pa.field(name, kind, nullable=missing))
        return pa.schema(fields)

    def _sound(self, rows: Bytes, names: list[str], cut: CsvCutter) -> Bytes:
        """The records that have as many values as there are names."""
        kept: list[bytes] = []

        def keep(start: int, stop: int, ends: list[int]) -> None:
            text = rows[ends[start] : ends[stop]]
            if self._refusal(text, names, {}, names[:1]) is None:
                kept.append(text.tobytes())
            elif stop - start > 1:
                middle = (start + stop) // 2
                keep(start, middle, ends)
                keep(middle, stop, ends)

        ends = [0, *cut.ends(rows).tolist()]
        keep(0, len(ends) - 1, ends)
        return np.frombuffer(b"".join(kept), np.uint8)

    # --- rows -----------------------------------------------------------------------------------------

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        skipped, lines, names, cut = self._begin()
        plan.check_names(self.name, names)
        mark = start if start.offset >= skipped else Mark(0, skipped, lines)
        with self._open(mark.offset) as stream:
            for block in blocks(stream, cut, BATCH_BYTES, self.name):
                lines = count_of(block, cut.newline)
                batch, records = self._batch(block, names, plan, cut, mark)
                yield batch, mark
                mark = Mark(mark.rows + records, mark.offset + len(block), mark.lines + lines)

    def _open(self, offset: int) -> BinaryIO:
        if self.encoding == "utf-8":
            return self.source.open(offset)
        stream: Any = io.BufferedReader(Transcoded(self.source.open(), self.encoding))
        stream.read(offset)
        return stream  # type: ignore[no-any-return]

    def _batch(self, block: Bytes, names: list[str], plan: Plan, cut: CsvCutter, mark: Mark) -> tuple[Any, int]:
        """(the rows of a block that fit, how many it has)."""
        import pyarrow as pa

        table = self._parsed_before(block, plan, mark)
        if table is None:
            table = self._try(block, names, plan)
        if table is not None:
            return _one(table), table.num_rows
        ends = [0, *cut.ends(block).tolist()]
        good = [self._parse(block[:0], names, plan.types, list(plan.types))]
        counted = 0
        todo = [(0, len(ends) - 1)]
        while todo:
            first, stop = todo.pop()
            text = block[ends[first] : ends[stop]]
            table = self._try(text, names, plan)
            if table is not None:
                good.append(table)
                counted += table.num_rows
            elif stop - first > 1:
                middle = (first + stop) // 2
                todo += [(middle, stop), (first, middle)]
            else:
                line = 1 + mark.lines + count_of(block[: ends[first]], cut.newline)
                plan.bad(self._blame(text, names, plan, line))
                counted += 1
        return _one(pa.concat_tables(good)), counted

    def _parsed_before(self, block: Bytes, plan: Plan, mark: Mark) -> Any:
        """The rows of a block of the sample, if they fit; None if that isn't known."""
        length, table = self._parsed.pop(mark.offset, (0, None))
        if table is None or length != len(block):
            return None
        if any(table.schema.field(name).type != kind for name, kind in plan.types.items()):
            return None
        return _complete(table.select(list(plan.types)), plan)

    def _try(self, text: Bytes, names: list[str], plan: Plan) -> Any:
        """The rows, or None if one of them doesn't fit."""
        import pyarrow as pa

        try:
            table = self._parse(text, names, plan.types, list(plan.types))
        except pa.ArrowInvalid:
            return None
        return _complete(table, plan)

    def _blame(self, text: Bytes, names: list[str], plan: Plan, line: int) -> BadRow:
        """What is wrong with a single record."""
        import pyarrow as pa

        record = text.tobytes().decode("utf-8", "replace").rstrip("\r\n")
        refusal = self._refusal(text, names, {}, names[:1])
        if refusal is not None:
            return BadRow(self.name, _plain(refusal), line=line, text=record)
        values = self._parse(text, names, dict.fromkeys(names, pa.binary()), names)
        for name, kind in plan.types.items():
            value = values.column(name)[0].as_py().decode("utf-8", "replace")
            refusal = self._refusal(text, names, {name: kind}, [name])
            if refusal is None and name in plan.required:
                if self._parse(text, names, {name: kind}, [name]).column(0).null_count:
                    reason = f"is missing, and {kind} has no way to say so"
                    hint = advice(name, kind, "")
                    return BadRow(self.name, reason, line=line, column=name, value=value, text=record, advice=hint)
            elif refusal is not None:
                reason, hint = f"is no {kind}", advice(name, kind, value)
                if "UTF8" in refusal:
                    reason, hint = "is not UTF-8", f"pass encoding='latin-1', or {name}=binary in the schema"
                elif "zone" in refusal:
                    reason = f"is no {kind}: {_plain(refusal)}"
                return BadRow(self.name, reason, line=line, column=name, value=value, text=record, advice=hint)
        return BadRow(self.name, "can't be parsed as CSV", line=line, text=record)

    def _refusal(self, text: Bytes, names: list[str], types: Mapping[str, Any], only: list[str]) -> str | None:
        import pyarrow as pa

        try:
            self._parse(text, names, types or dict.fromkeys(only, pa.binary()), only)
        except pa.ArrowInvalid as error:
            return str(error)
        return None

    def _parsing(self) -> Any:
        from pyarrow import csv

        return csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)

    def _parse(
        self,
        text: Bytes,
        names: list[str],
        types: Mapping[str, Any],
        only: list[str] | None = None,
        threads: bool = False,
    ) -> Any:
        """The columns `only` (None: all) of whole records as a pyarrow Table of one chunk; copies what it takes.

        threads: to convert columns side by side, while nobody else is at work.
        """
        import pyarrow as pa
        from pyarrow import csv

        if not len(text):
            kinds = {name: types.get(name, pa.null()) for name in (names if only is None else only)}
            return pa.schema(list(kinds.items())).empty_table()
        return csv.read_csv(
            pa.BufferReader(pa.py_buffer(text)),
            read_options=csv.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=threads),
            parse_options=self._parsing(),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=only or []),
        )


def _ends(sample: Bytes, start: int, cut: CsvCutter, *, whole: bool) -> list[int]:
    """`start` and the ends of the blocks that `blocks` makes of the text from there on, as far as the sample tells.

    whole: whether the sample is all that there is, so that its last record ends where it does.
    """
    ends = [start]
    while (at := ends[-1]) < len(sample):
        text = sample[at : at + BATCH_BYTES]
        if len(text) == BATCH_BYTES and (size := cut.whole(text)):
            ends.append(at + size)
        elif whole:
            ends.append(len(sample))
        else:
            if len(ends) == 1:  # a record longer than a block
                ends.append(at + cut.whole(sample[at:]))
            break
    return ends if len(ends) > 1 else [start, start]


def _complete(table: Any, plan: Plan) -> Any:
    """The rows, or None if a value is missing that must not be."""
    return table if not any(table.column(name).null_count for name in plan.required) else None


def _one(table: Any) -> Any:
    """A table as one RecordBatch."""
    import pyarrow as pa

    found = table.to_batches()
    if len(found) > 1:
        found = table.combine_chunks().to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=table.schema)


def _plain(refusal: str) -> str:
    """pyarrow's words without what is said beside them already."""
    if refusal.startswith("CSV parse error: "):
        return re.sub(r"^Row #[0-9]+: ", "", refusal.removeprefix("CSV parse error: ")).partition(": ")[0]
    return refusal.rpartition(": ")[2]
