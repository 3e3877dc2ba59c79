"""Loading into a keyspace: a column becomes the keys, another one, or the whole row as JSON, the values.

Keys are text in UTF-8 (numbers in decimal), or bytes as they are.  Values are raw, that is the bytes that the input
has (text in UTF-8, numbers and arrays little-endian as `db.get_array` takes them), or JSON.

Records are gathered over many batches, and put together: that takes a third of the time, since the index is built in
one go, or each of its pages changed once for many records.  What is gathered is put before each commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mmstore.database.keys import packed_keys
from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import ArrayBatch, BadRow, Batch, Handler, Input, Plan
from mmstore.integrations.inputs.delimited import CsvInput
from mmstore.integrations.jsontext import json_rows, json_values
from mmstore.integrations.slices import SliceBuffer, Slices, listed, packed, rows, slices
from mmstore.integrations.where import Condition, chosen

__all__ = ["KeyspaceTarget"]

GATHERED: Final = 64 << 20
"""Bytes that records may have until they are put."""
ROWS: Final = 1 << 14
"""Rows of a batch: they are gathered anyway, and four batches are alive at a time."""
POOL: Final = 16 << 20
"""Bytes that changed pages may have: of records put together each changes its page next to the others of that page."""


class KeyspaceTarget:
    """The keyspace `name`, or with "" the store's own, as what batches are put into."""

    def __init__(
        self,
        name: str,
        *,
        key: str | None,
        value: str | None,
        value_format: str | None,
        columns: Sequence[str] | None,
        where: Sequence[Condition],
        on_conflict: str | None,
    ) -> None:
        self.name, self.key, self.value, self.where = name, key, value, where
        self.format = value_format
        self.columns = list(columns) if columns is not None else None
        self.on_conflict = on_conflict or "replace"
        self.loose: tuple[str, ...] = ()
        self._waiting = SliceBuffer(GATHERED), SliceBuffer(GATHERED)

    def mapping(self, txn: Any) -> Any:
        """The mapping to write to."""
        return txn.keyspace(self.name) if self.name else txn

    def start(self, source: Input, found: Any, bad: Handler) -> Plan:
        """Which columns are read, and as what."""
        names = list(found.names)
        if source.records:
            self.key = self.key or "key"
            if self.value is None and self.format != "json":
                self.value = "value"
        if self.key is None:
            raise SchemaError(f"expected the column that holds the keys: pass key= (--key), one of {', '.join(names)}")
        if self.value is None and self.format == "raw":
            others = [name for name in names if name != self.key]
            if len(others) != 1:
                raise SchemaError(f"raw values are those of one column: pass value= (--value), one of {others}")
            self.value = others[0]
        for name in [self.key, self.value, *(self.columns or ()), *(column for column, _, _ in self.where)]:
            if name is not None and name not in names:
                raise SchemaError(f"{source.name} has no column {name!r}; it has {', '.join(names)}")
        read = [self.value] if self.value is not None else self.columns or names
        self.shown = read if self.key in read or self.value is not None else [self.key, *read]
        wanted = list(dict.fromkeys([self.key, *read, *(column for column, _, _ in self.where)]))
        wanted = [name for name in names if name in wanted]
        self.text = source.inferred
        if not source.inferred:
            return Plan(dict.fromkeys(wanted), bad, others=len(wanted) < len(names), where=self.where, rows=ROWS)
        import pyarrow as pa

        types = {name: found.field(name).type for name in wanted}
        if isinstance(source, CsvInput):  # the texts as they stand, even where they look like numbers
            types[self.key] = pa.binary()
            if self.value is not None and self.format != "json":
                types[self.value] = pa.binary()
        return Plan(types, bad, others=self.value is not None or self.columns is not None)

    def add(self, txn: Any, batch: Batch, file: str, row: int, bad: Handler) -> int:
        """Put the chosen rows' records, now or in one go with later ones; how many new keys were put."""
        batch = chosen(batch, self.where)
        if isinstance(batch, ArrayBatch):
            assert self.key is not None
            keys, values = array_texts(batch.columns[self.key]), self._array_values(batch)
        else:
            batch = self._with_keys(batch, file, row, bad)
            keys, values = texts(batch.column(self.key)), self._values(batch)
        if self.on_conflict != "replace":
            keys, values = self._new_ones(self.mapping(txn), listed(keys), listed(values), file, row, bad)
            return self._put(txn, keys, values)
        size = sum(part.nbytes for part in (*keys, *values))
        new = self.flush(txn) if size + sum(part.size for part in self._waiting) > GATHERED else 0
        if size > GATHERED:
            return new + self._put(txn, keys, values)
        for part, items in zip(self._waiting, (keys, values), strict=True):
            part.add(items)
        return new

    def flush(self, txn: Any) -> int:
        """Put what was gathered; how many keys are new."""
        keys, values = self._waiting
        if not keys.size:
            return 0
        new = self._put(txn, keys.items(), values.items())
        keys.clear()
        values.clear()
        return new

    def _put(self, txn: Any, keys: Slices, values: Slices) -> int:
        txn.spill_beyond(POOL)
        return int(self.mapping(txn).put_slices(keys, values))

    def _with_keys(self, batch: Any, file: str, row: int, bad: Handler) -> Any:
        """The rows whose key isn't missing."""
        column = batch.column(self.key)
        if not column.null_count:
            return batch
        for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
            bad(BadRow(file, "the key is missing", row=row + i, column=self.key))
        return batch.filter(column.is_valid())

    def _new_ones(
        self, mapping: Any, keys: list[bytes], values: list[bytes], file: str, row: int, bad: Handler
    ) -> tuple[Slices, Slices]:
        """Records whose keys aren't there, each key once; the others are errors unless they are to be ignored."""
        there = {key for key, found in zip(keys, mapping.get_many(keys), strict=True) if found is not None}
        new_keys, new_values = [], []
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key not in there:
                there.add(key)
                new_keys.append(key)
                new_values.append(value)
            elif self.on_conflict == "error":
                hint = 'pass on_conflict="replace" or "ignore" (--on-conflict)'
                shown = key.decode("utf-8", "backslashreplace")
                bad(
                    BadRow(
                        file, "is a key that is there already", row=row + i, column=self.key, value=shown, advice=hint
                    )
                )
        return packed(new_keys), packed(new_values)

    def _values(self, batch: Any) -> Slices:
        if self.value is None:
            return slices(json_rows(self._readable(batch.select(self.shown))))
        column = batch.column(self.value)
        if self.format == "json":
            return slices(json_values(column))
        return texts(column) if self.text else raw(column)

    def _readable(self, batch: Any) -> Any:
        """Keys that were parsed as bytes as text again, for JSON."""
        import pyarrow as pa

        at = batch.schema.get_field_index(self.key)
        if at < 0 or not pa.types.is_binary(batch.column(at).type):
            return batch
        keys = [key.decode("utf-8", "backslashreplace") for key in batch.column(at).to_pylist()]
        return batch.set_column(at, self.key, pa.array(keys, pa.string()))

    def _array_values(self, batch: ArrayBatch) -> Slices:
        if self.value is None or self.format == "json":
            raise SchemaError("values of numpy arrays are kept raw: pass value= (--value), one of the columns")
        array = np.ascontiguousarray(batch.columns[self.value])
        return rows(array.astype(array.dtype.newbyteorder("<"), copy=False))


def texts(column: Any) -> Slices:
    """Any Arrow column as text in UTF-8; bytes as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types as sorts

    if sorts.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (
        sorts.is_string(kind) or sorts.is_large_string(kind) or sorts.is_binary(kind) or sorts.is_large_binary(kind)
    ):
        try:
            column = pc.cast(column, pa.string())
        except pa.ArrowNotImplementedError as error:
            raise SchemaError(f"{kind} has no text; choose another column, or value_format='json'") from error
    return slices(column)


def raw(column: Any) -> Slices:
    """The bytes of any column of text, bytes, numbers or arrays of a fixed size."""
    from pyarrow import types as sorts

    if sorts.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not sorts.is_primitive(kind) and not sorts.is_fixed_size_list(kind):
        return texts(column)
    if column.null_count:
        raise SchemaError("a number that is missing has no bytes; pass value_format='json' (--value-format json)")
    if sorts.is_fixed_size_list(kind):
        data, _ = raw(column.flatten())
        return data, np.arange(len(column) + 1) * (len(data) // max(1, len(column)))
    if sorts.is_boolean(kind):
        return rows(column.to_numpy(zero_copy_only=False))
    width = kind.bit_width // 8
    return rows(
        np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width).reshape(-1, width)
    )


def array_texts(array: Any) -> Slices:
    """Keys of a numpy array: text in UTF-8, numbers in decimal, bytes as they are."""
    if array.dtype.kind in "SV":
        data, offsets = packed_keys(array)
        return np.frombuffer(data, np.uint8), offsets
    return packed([str(key).encode() for key in array.tolist()])
