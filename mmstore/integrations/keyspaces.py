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

from mmstore.database.keys import value_list
from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import ArrayBatch, BadRow, Batch, Handler, Input, Plan
from mmstore.integrations.inputs.delimited import CsvInput
from mmstore.integrations.jsontext import json_rows, json_values
from mmstore.integrations.where import Condition, chosen

__all__ = ["KeyspaceTarget"]

GATHERED: Final = 112 << 20
"""Bytes of memory that records may take until they are put."""
OBJECTS: Final = 96
"""Bytes that a record takes besides its own: two objects, and two places in lists."""


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
        self._some_keys: list[Any] = []
        self._some_values: list[Any] = []
        self._gathered = 0

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
            return Plan(dict.fromkeys(wanted), bad, others=len(wanted) < len(names))
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
        if isinstance(values, np.ndarray):
            values = value_list(values)
        now = self.on_conflict != "replace"
        if now:
            keys, values = self._new_ones(self.mapping(txn), keys, values, file, row, bad)
        self._some_keys += keys
        self._some_values += values
        self._gathered += sum(map(len, keys)) + sum(map(len, values)) + OBJECTS * len(keys)
        return self.flush(txn) if now or self._gathered >= GATHERED else 0

    def flush(self, txn: Any) -> int:
        """Put what was gathered; how many keys are new."""
        keys, values = self._some_keys, self._some_values
        self._some_keys, self._some_values, self._gathered = [], [], 0
        mapping = self.mapping(txn)
        before = len(mapping)
        mapping.put_many(keys, values)
        return int(len(mapping) - before)

    def _with_keys(self, batch: Any, file: str, row: int, bad: Handler) -> Any:
        """The rows whose key isn't missing."""
        column = batch.column(self.key)
        if not column.null_count:
            return batch
        for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
            bad(BadRow(file, "the key is missing", row=row + i, column=self.key))
        return batch.filter(column.is_valid())

    def _new_ones(
        self, mapping: Any, keys: list[bytes], values: Any, file: str, row: int, bad: Handler
    ) -> tuple[list[bytes], list[Any]]:
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
        return new_keys, new_values

    def _values(self, batch: Any) -> list[bytes]:
        if self.value is None:
            return objects(json_rows(self._readable(batch.select(self.shown))))
        column = batch.column(self.value)
        if self.format == "json":
            return objects(json_values(column))
        return texts(column) if self.text else raw(column)

    def _readable(self, batch: Any) -> Any:
        """Keys that were parsed as bytes as text again, for JSON."""
        import pyarrow as pa

        at = batch.schema.get_field_index(self.key)
        if at < 0 or not pa.types.is_binary(batch.column(at).type):
            return batch
        keys = [key.decode("utf-8", "backslashreplace") for key in batch.column(at).to_pylist()]
        return batch.set_column(at, self.key, pa.array(keys, pa.string()))

    def _array_values(self, batch: ArrayBatch) -> Any:
        if self.value is None or self.format == "json":
            raise SchemaError("values of numpy arrays are kept raw: pass value= (--value), one of the columns")
        array = np.ascontiguousarray(batch.columns[self.value])
        return array.astype(array.dtype.newbyteorder("<"), copy=False)


def objects(column: Any) -> list[bytes]:
    """An Arrow column of text or bytes as a list of bytes, made in one go; b"" where a value is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_binary() if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type) else None
    data = pc.fill_null(pc.cast(column, kind or pa.binary()), b"")
    return data.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]


def texts(column: Any) -> list[bytes]:
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
    return objects(column)


def raw(column: Any) -> Any:
    """The bytes of any column of text, bytes, numbers or arrays of a fixed size; a list or a numpy array of them."""
    import pyarrow as pa
    from pyarrow import types as sorts

    if sorts.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not sorts.is_primitive(kind) and not sorts.is_fixed_size_list(kind):
        return texts(column)
    if column.null_count:
        raise SchemaError("a number that is missing has no bytes; pass value_format='json' (--value-format json)")
    if sorts.is_fixed_size_list(kind):
        inner = column.flatten()
        return np.ascontiguousarray(raw(inner)).reshape(len(column), kind.list_size)
    if sorts.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False)
    width = kind.bit_width // 8
    data = np.frombuffer(column.buffers()[1], f"V{width}", len(column), column.offset * width)
    return data if pa.types.is_temporal(kind) or width not in (1, 2, 4, 8) else data.view(f"u{width}")


def array_texts(array: Any) -> list[bytes]:
    """Keys of a numpy array: text in UTF-8, numbers in decimal, bytes as they are."""
    if array.dtype.kind in "SV":
        return [bytes(key) for key in array.tolist()] if array.dtype.kind == "S" else [key.tobytes() for key in array]
    return [str(key).encode() for key in array.tolist()]
