"""A catalog entry: what one name stands for, whether keyspace, table or array.

The catalog is an index like any keyspace: its keys are names (UTF-8), its values these entries::

    | ENTRY: kind, id, rows, index ... | schema (JSON) | column | column | ... | marks |

A keyspace is its index.  A table is a schema, rows, and the state of its columns in order (sequences and statistics),
its key index, and the marks of deleted rows: a byte a row, 1 where it is deleted; rows behind its end are not.  An
array is a table of a single column, its rows the length of the first axis.

`Entry.unpack` checks all that can be checked without reading further (I6): whoever follows an entry's runs
stays within the root's pages, and every sequence is exactly as long as the rows say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from mmstore import format as fmt
from mmstore.columns import sequence, state
from mmstore.columns.extents import Buffer
from mmstore.columns.schema import Schema
from mmstore.columns.sequence import Sequence
from mmstore.columns.state import ColumnState
from mmstore.errors import CorruptError, FormatError
from mmstore.keyspace.descriptor import EMPTY, IndexDescriptor

__all__ = ["Entry", "KIND_NAMES", "MAX_NAME"]

KIND_NAMES: Final = {fmt.ENTRY_KEYSPACE: "keyspace", fmt.ENTRY_TABLE: "table", fmt.ENTRY_ARRAY: "array"}
MAX_NAME: Final = 65535  # bytes: an operation of the log has 16 bits for it
VERSION: Final = 1


class Entry(NamedTuple):
    """What a name stands for; a value, each change gives another."""

    kind: int
    """ENTRY_KEYSPACE, ENTRY_TABLE or ENTRY_ARRAY."""
    id: int = 0
    """Never used twice in a store; 0 until the entry is in the catalog."""
    rows: int = 0
    index: IndexDescriptor = EMPTY  # type: ignore[assignment]  # a tuple's method, which nobody needs
    """The keyspace's index; a table's key index."""
    schema: Schema | None = None
    columns: tuple[ColumnState, ...] = ()
    """In the schema's order."""
    deleted: int = 0
    """How many rows are marked as deleted."""
    marks: Sequence = sequence.EMPTY
    """A byte a row, 1: deleted."""

    @classmethod
    def keyspace(cls) -> Entry:
        """A new, empty keyspace."""
        return cls(fmt.ENTRY_KEYSPACE)

    @classmethod
    def table(cls, schema: Schema, kind: int = fmt.ENTRY_TABLE) -> Entry:
        """A new table, or array, without rows."""
        return cls(kind, schema=schema, columns=tuple(state.new(column.kind) for column in schema))

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All that it has."""
        found = [part for column in self.columns for part in column.sequences]
        return (*found, self.marks) if self.schema is not None else ()

    @property
    def kind_name(self) -> str:
        """ "keyspace", "table" or "array", for messages."""
        return KIND_NAMES[self.kind]

    def pack(self) -> bytes:
        schema = self.schema.to_json() if self.schema is not None else b""
        head = fmt.ENTRY.struct.pack(
            self.kind, VERSION, 0, len(schema), self.id, self.rows, self.deleted, self.index.pack(),
            _sequences(self.schema, self.columns), 0
        )  # fmt: skip
        if self.schema is None:
            return head
        return b"".join([head, schema, *[column.pack() for column in self.columns], self.marks.pack()])

    @classmethod
    def unpack(cls, data: Buffer, page_size: int, pages: int) -> Entry:
        """The entry in `data`.

        pages: those of the root that the catalog belongs to; 0 for an entry out of the log, which must be as empty
        as it was made.

        Raises `CorruptError` for bytes that contradict each other, and `FormatError` for those of a newer version.
        """
        if len(data) < fmt.ENTRY.size:
            raise CorruptError(f"a catalog entry needs {fmt.ENTRY.size} bytes, found {len(data)}")
        head = fmt.ENTRY.unpack(data)
        kind, rows, offset = head["kind"], head["rows"], fmt.ENTRY.size + head["schema_size"]
        if kind not in KIND_NAMES or head["version"] != VERSION or head["reserved"] or head["reserved2"]:
            raise FormatError(
                f"a catalog entry of kind {kind} and version {head['version']} is unknown to this version of mmstore, "
                "which has kinds 1 to 3 of version 1; open the file with a newer one"
            )
        if offset > len(data):
            raise CorruptError(f"a catalog entry of {len(data)} bytes claims a schema of {head['schema_size']}")
        schema = None
        columns: list[ColumnState] = []
        marks = sequence.EMPTY
        if kind != fmt.ENTRY_KEYSPACE:
            schema = Schema.from_json(bytes(data[fmt.ENTRY.size : offset]))
            if kind == fmt.ENTRY_ARRAY and (len(schema) != 1 or not schema.columns[0].kind.plain):
                raise CorruptError(f"an array has one column of plain values, found {schema}")
            for column in schema:
                found, offset = state.unpack(column.kind, rows, data, offset, page_size, pages)
                columns.append(found)
            marks, offset = sequence.unpack(data, offset, page_size, pages)
            right = marks.length <= rows and head["deleted"] <= marks.length and not marks.bits
            if not right or (marks.length and kind == fmt.ENTRY_ARRAY):
                raise CorruptError(f"{rows} rows have {marks.length} marks, {head['deleted']} of them set")
        elif head["schema_size"] or rows or head["deleted"]:
            raise CorruptError(f"a keyspace has no schema and no rows, found {head['schema_size']} bytes, {rows} rows")
        sequences = _sequences(schema, columns)
        if head["sequences"] != sequences:
            raise CorruptError(f"expected a catalog entry with {sequences} sequences, found {head['sequences']}")
        if offset != len(data):
            raise CorruptError(f"a catalog entry should end after {offset} bytes, found {len(data)}")
        index = IndexDescriptor.unpack(head["index"])
        if not pages and index != EMPTY:
            raise CorruptError("a name comes into being without records, the log has it with an index")
        if index != EMPTY and kind != fmt.ENTRY_KEYSPACE and (schema is None or schema.key is None):
            raise CorruptError(f"a {KIND_NAMES[kind]} without a key has a key index of {index.count} records")
        return cls(kind, head["id"], rows, index, schema, tuple(columns), head["deleted"], marks)


def _sequences(schema: Schema | None, columns: Iterable[ColumnState]) -> int:
    """How many an entry has: of each column its parts and its statistics, and the marks."""
    return 0 if schema is None else sum([len(column.parts) + 1 for column in columns]) + 1
