"""JSON lines: an object a line, its fields the columns.

pyarrow parses a block of lines as long as each field keeps to its type; what it refuses is read line by line with
the json module, which is slower and knows the line to blame.  Objects, and lists of anything but numbers, are
kept as their JSON text; so are values of a column of text that are no strings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_BYTES, BadRow, Input, Mark, Plan, require
from mmstore.integrations.inputs.blocks import NEWLINE, Bytes, LineCutter, blocks, count_of
from mmstore.integrations.inputs.delimited import SAMPLE_BYTES
from mmstore.integrations.inputs.infer import advice, wider
from mmstore.integrations.inputs.source import Source

__all__ = ["JsonInput"]


class JsonInput(Input):
    """JSON lines."""

    inferred = True

    def __init__(self, source: Source) -> None:
        require("pyarrow", "arrow")
        self.source, self.name, self.size = source, source.name, source.size
        self._schema: Any = None

    @property
    def read(self) -> int:  # type: ignore[override]
        return self.source.read

    def schema(self) -> Any:
        """Types that hold the sample; a field that is missing or null somewhere is nullable."""
        if self._schema is None:
            self._schema = self._guess()
        return self._schema

    def _guess(self) -> Any:
        import pyarrow as pa
        from pyarrow import json as parser

        data = self.source.head(SAMPLE_BYTES)
        sample = np.frombuffer(data, np.uint8)
        if len(data) >= SAMPLE_BYTES:
            sample = sample[: LineCutter().whole(sample)]
        if not data.strip():
            raise SchemaError(f"{self.name} is empty; JSON lines hold an object a line")
        try:
            options = parser.ReadOptions(use_threads=False, block_size=len(sample) + 1)
            table = parser.read_json(pa.BufferReader(pa.py_buffer(sample)), read_options=options)
            kinds = {field.name: field.type for field in table.schema}
            missing = {name for name in kinds if table.column(name).null_count}
            whole = all(_plain(pa, kind) for kind in kinds.values())
        except pa.ArrowInvalid:
            whole = False
        if not whole:
            kinds, missing = self._guess_lines(sample)
        return pa.schema([pa.field(name, kind, nullable=name in missing) for name, kind in kinds.items()])

    def _guess_lines(self, sample: Bytes) -> tuple[dict[str, Any], set[str]]:
        """(types, nullable ones) of the lines that are objects."""
        import pyarrow as pa

        kinds: dict[str, Any] = {}
        present: dict[str, int] = {}
        count = 0
        for line in sample.tobytes().splitlines():
            row = _object(line)
            if isinstance(row, str):
                continue
            count += 1
            for name, value in row.items():
                kinds[name] = wider(kinds.get(name, pa.null()), _kind(pa, value))
                present[name] = present.get(name, 0) + (value is not None)
        return kinds, {name for name in kinds if present[name] < count}

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        import pyarrow as pa

        schema = pa.schema(list(plan.types.items()))
        mark = start
        with self.source.open(mark.offset) as stream:
            for block in blocks(stream, LineCutter(), BATCH_BYTES, self.name):
                batch = self._parse(block, schema, plan)
                if batch is None or any(batch.column(name).null_count for name in plan.required):
                    batch = self._one_by_one(block, schema, plan, mark)
                yield batch, mark
                lines = count_of(block, NEWLINE)
                mark = Mark(mark.rows + lines, mark.offset + len(block), mark.lines + lines)

    def _parse(self, block: Bytes, schema: Any, plan: Plan) -> Any:
        """The rows as pyarrow reads them, None if it doesn't."""
        import pyarrow as pa
        from pyarrow import json as parser

        try:
            table = parser.read_json(
                pa.BufferReader(pa.py_buffer(block)),
                read_options=parser.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=parser.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore" if plan.others else "error"
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None
        found = table.select(schema.names).combine_chunks().to_batches()
        return found[0] if found else None

    def _one_by_one(self, block: Bytes, schema: Any, plan: Plan, mark: Mark) -> Any:
        import pyarrow as pa

        columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        for number, line in enumerate(block.tobytes().split(b"\n"), mark.lines + 1):
            if not line.strip():
                continue
            try:
                values = self._values(line, number, plan)
            except BadRow as row:
                plan.bad(row)
                continue
            for name, value in values.items():
                columns[name].append(value)
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _values(self, line: bytes, number: int, plan: Plan) -> dict[str, Any]:
        """A line's values as the plan's types take them; BadRow where one doesn't."""
        text = line.decode("utf-8", "replace")
        row = _object(line)
        if isinstance(row, str):
            raise BadRow(self.name, row, line=number, text=text)
        extra = [] if plan.others else [name for name in row if name not in plan.types]
        if extra:
            hint = "name the columns wanted with columns=[...] (--columns A,B), or this one in the schema as well"
            reason = "isn't in the schema that the lines before have"
            raise BadRow(self.name, reason, line=number, column=extra[0], text=text, advice=hint)
        values = {}
        for name, kind in plan.types.items():
            value = row.get(name)
            if value is None and name in plan.required:
                reason = "a value is missing, and the column has no way to say so"
                raise BadRow(self.name, reason, line=number, column=name, text=text, advice=advice(name, kind, ""))
            try:
                values[name] = _fit(value, kind)
            except (ValueError, TypeError) as error:
                shown = value if isinstance(value, str) else json.dumps(value)
                raise BadRow(
                    self.name, f"is no {kind}", line=number, column=name, value=shown, text=text,
                    advice=advice(name, kind, shown),
                ) from error  # fmt: skip
        return values


def _object(line: bytes) -> dict[str, Any] | str:
    """A line's object, or why it is none."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"is no JSON: {error}"
    return row if isinstance(row, dict) else f"expected an object, found {type(row).__name__}"


def _kind(pa: Any, value: Any) -> Any:
    """The Arrow type of a value of JSON."""
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(1 << 63) <= value < 1 << 63 else pa.uint64() if 0 <= value < 1 << 64 else pa.string()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, list):
        kind = pa.null()
        for item in value:
            kind = wider(kind, _kind(pa, item))
        if pa.types.is_null(kind):
            return pa.list_(pa.float64()) if not value else pa.string()
        return pa.list_(kind) if _plain(pa, kind) and not pa.types.is_string(kind) else pa.string()
    return pa.string()


def _plain(pa: Any, kind: Any) -> bool:
    """Whether a table can hold the type as pyarrow reads it."""
    if pa.types.is_list(kind):
        return _plain(pa, kind.value_type) and not pa.types.is_string(kind.value_type)
    return not pa.types.is_nested(kind)


def _fit(value: Any, kind: Any) -> Any:
    """`value` for an Arrow array of type `kind`; ValueError or TypeError where it isn't of that type."""
    import pyarrow as pa
    from pyarrow import types as sorts

    if value is None:
        return None
    if sorts.is_string(kind) or sorts.is_large_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if sorts.is_boolean(kind):
        wanted: Any = bool
    elif sorts.is_integer(kind):
        wanted = int
    elif sorts.is_floating(kind):
        wanted = (int, float)
    elif sorts.is_nested(kind):
        wanted = list
    else:
        wanted = str
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise TypeError(f"expected {wanted}, found {value!r}")
    if wanted is str:
        return value.encode() if sorts.is_binary(kind) else pa.scalar(value).cast(kind).as_py()
    if sorts.is_floating(kind) and isinstance(value, int) and not math.isfinite(float(value)):
        raise ValueError(value)
    return pa.scalar(value, kind).as_py()
