"""Every byte of the two files: structs, offsets, magics, flags and sizes, each declared once.

No other module has a struct string or a literal offset.  ``docs/format.md`` shows the tables that
``tables()`` prints, and a test fails when they differ.  All integers are little-endian and unsigned.

::

    data.mms       0        identity        what the file is; written once
                   64 KiB   header A        \\ a durable root each, written in turn;
                   128 KiB  header B        / the newer whole one counts
                   192 KiB  live page       shared by the processes that have the store open
                   256 KiB  pages           index pages, value runs and extents, in zones of 2 MiB
    data.mms-wal   0        log header
                   4 KiB    ring            log records, chained by their checksums
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

# --- declaring a struct ------------------------------------------------------------------------------


class Layout:
    """A packed little-endian struct: named fields with struct codes, offsets and explanations."""

    def __init__(self, name: str, *fields: tuple[str, str, str]) -> None:
        self.name = name
        self.fields = fields
        self.struct = struct.Struct("<" + "".join(code for _, code, _ in fields))
        self.size = self.struct.size
        self.names = tuple(field for field, _, _ in fields)
        self.offset: dict[str, int] = {}
        position = 0
        for field, code, _ in fields:
            self.offset[field] = position
            position += struct.calcsize("<" + code)

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The struct's bytes; every field must be given."""
        return self.struct.pack(*[values[name] for name in self.names])

    def unpack(self, buffer: Any, offset: int = 0) -> dict[str, Any]:
        """The fields found in ``buffer`` from byte ``offset`` on."""
        return dict(zip(self.names, self.struct.unpack_from(buffer, offset), strict=True))

    def rows(self) -> Iterator[tuple[int, int, str, str]]:
        """(offset, size, field, explanation), in order."""
        for field, code, text in self.fields:
            yield self.offset[field], struct.calcsize("<" + code), field, text

    def table(self) -> str:
        """The layout as a Markdown table."""
        lines = [f"### {self.name} ({self.size} bytes)", ""]
        lines += ["| offset | size | field | meaning |", "|---:|---:|---|---|"]
        lines += [f"| {at} | {size} | `{field}` | {text} |" for at, size, field, text in self.rows()]
        return "\n".join(lines) + "\n"


DoesNotFit = struct.error
"""Raised by a layout's ``pack`` for a number that has no room in its field."""

# --- the file ----------------------------------------------------------------------------------------

FORMAT_VERSION: Final = 1
MAGIC: Final = b"mmstore\x1a"
HEADER_MAGIC: Final = b"mmsheadr"
LIVE_MAGIC: Final = b"mmslive\x01"
LOG_MAGIC: Final = b"mmslog\x01\x00"
RUN_MAGIC: Final = b"mmsrun\x01\x00"

MIN_PAGE_SIZE: Final = 4096
MAX_PAGE_SIZE: Final = 65536
SECTOR: Final = 512

IDENTITY_AT: Final = 0
HEADER_AT: Final = (64 << 10, 128 << 10)
LIVE_AT: Final = 192 << 10
LIVE_SIZE: Final = 64 << 10
FIXED_SIZE: Final = 256 << 10
ZONE_SIZE: Final = 2 << 20

WAL_SUFFIX: Final = "-wal"
NEW_SUFFIX: Final = "-unfinished"  # of a store or a log that is being made

IDENTITY = Layout(
    "identity",
    ("magic", "8s", "`mmstore\\x1a`"),
    ("version", "I", "format version; a reader refuses a newer one"),
    ("features", "I", "flags of features that a reader must know; 0 so far"),
    ("page_size", "I", "bytes a page: a power of two from 4096 to 65536"),
    ("reserved", "I", "0"),
    ("uuid", "16s", "random; tells this store from every other"),
    ("seed", "Q", "random; seed of all key hashes"),
    ("checksum", "Q", "xxh3_64 of the bytes before"),
)

INDEX = Layout(
    "index descriptor",
    ("root", "I", "page number of the top page; 0 while the index is empty"),
    ("nodes", "I", "nodes"),
    ("pages", "I", "index pages in all: directory, nodes, buckets"),
    ("height", "B", "0 empty, 1 the root is a bucket, 2 a node, 3 and more a directory of height - 2 levels"),
    ("depth", "B", "bits of the hash that pick a directory entry"),
    ("flags", "H", "0"),
    ("count", "Q", "records"),
    ("size", "Q", "bytes of keys and values"),
)

# A root is packed from these fields; the two index descriptors lie inside as opaque bytes.
ROOT = Layout(
    "root",
    ("txn", "Q", "transaction id: the root's name and age"),
    ("pages", "Q", "pages handed out or free; the file is at least so long"),
    ("log_position", "Q", "where in the log the records behind this root start (virtual offset, never wraps)"),
    ("log_chain", "Q", "checksum of the record before that place"),
    ("main", f"{INDEX.size}s", "index descriptor of the store's own keyspace"),
    ("catalog", f"{INDEX.size}s", "index descriptor of the catalog: name -> descriptor"),
    ("free_page", "I", "first page of the consolidated free list, 0 if none"),
    ("free_pages", "I", "its pages"),
    ("free_bytes", "Q", "its length"),
    ("free_checksum", "Q", "xxh3_64 of these bytes"),
    ("delta_page", "I", "first page of the delta area, 0 if none"),
    ("delta_pages", "I", "its pages"),
    ("delta_bytes", "Q", "bytes of deltas committed in it"),
    ("delta_chain", "Q", "checksum of the last delta (seed of the next)"),
    ("consolidation", "Q", "changes whenever the free list is written anew"),
    ("next_id", "Q", "id that the next keyspace, table or array gets"),
)

HEADER = Layout(
    "header",
    ("magic", "8s", "`mmsheadr`"),
    ("uuid", "16s", "the store's"),
    ("log_id", "Q", "random id of the log whose records continue this root; 0: none, closed cleanly"),
    ("root", f"{ROOT.size}s", "the durable root"),
    ("checksum", "Q", "xxh3_64 of the bytes before, seeded with the header's offset"),
)

LIVE = Layout(
    "live page",
    ("magic", "8s", "`mmslive\\x01`"),
    ("nonce", "Q", "random; new in every session (from the first to attach to the last to close)"),
    ("poison", "Q", "not 0: a sync failed in this session, nothing may be acknowledged any more"),
    ("txn", "Q", "the newest published root; its lowest bit picks the root slot"),
    (
        "committing",
        "Q",
        "the newest txn id whose log record may have been written; "
        "beyond `txn`: a commit is under way or its writer died",
    ),
    ("making", "Q", "txn id of the root that a checkpoint is writing, 0 if none, all ones while it is being chosen"),
    ("durable", "Q", "txn id of the newest header known durable"),
    ("durable_at", "Q", "which header that is: 0 or 1"),
    ("log_id", "Q", "the log in use, 0 if none yet"),
    ("log_start", "Q", "log space before this position is free"),
    ("synced", "Q", "newest txn id whose log record is known synced"),
    ("file_size", "Q", "bytes allocated to the data file"),
    ("slots", "I", "reader slots ever used in this session: scans stop there"),
    ("waiters", "I", "how many sleep in wait(); a hint"),
    ("wakeups", "I", "futex word, raised by each publication"),
    ("reserved", "I", "0"),
    ("place", "Q", "xxh3_64 of the name under which the file was opened, seeded with its folder's inode; 0: not known"),
)

ROOT_SLOT = Layout(
    "root slot",
    ("root", f"{ROOT.size}s", "a published root"),
    ("checksum", "Q", "xxh3_64 of the root, seeded with the session's nonce"),
)
ROOT_SLOT_AT: Final = (1024, 2048)  # in the live page, by the lowest bit of the txn id
READER_SLOTS_AT: Final = 4096  # in the live page
READER_SLOTS: Final = 256

READER_SLOT = Layout(
    "reader slot",
    ("snapshot_low", "Q", "lowest txn id pinned by snapshots, 0 if none"),
    ("snapshot_high", "Q", "highest, all ones while it is being chosen"),
    ("view_low", "Q", "lowest txn id pinned by views (they hold value runs and extents only)"),
    ("view_high", "Q", "highest"),
    ("pid", "I", "for readers(); trusted by nobody"),
    ("pins", "I", "for readers(): snapshots and views alive"),
    ("since", "Q", "for readers(): unix time in ns of the first pin"),
    ("reserved", "16s", "0"),
)
FOREVER: Final = (1 << 64) - 1
GRACE: Final = 64  # roots published before a freed run may be used again
RECOVERY_SKIP: Final = 1 << 32  # txn ids that a recovery leaves out

# --- lock bytes (offsets of OFD byte-range locks, far behind any data) --------------------------------

LOCK_GATE: Final = 1 << 62
LOCK_LIVE: Final = LOCK_GATE + 1
LOCK_TURN: Final = LOCK_GATE + 2
LOCK_WRITER: Final = LOCK_GATE + 3
LOCK_CHECKPOINT: Final = LOCK_GATE + 4
LOCK_READERS: Final = LOCK_GATE + 5  # shared by handles that may not write: the file is not cut meanwhile
LOCK_MAKER: Final = LOCK_GATE + 6  # of a store or log that has its temporary name
LOCK_SLOTS: Final = LOCK_GATE + 1024  # + slot number
LOCK_PINS: Final = LOCK_GATE + (1 << 20)  # + txn id: pins of handles that may not write
LOCK_PINS_SIZE: Final = 1 << 61

# --- pages -------------------------------------------------------------------------------------------

KIND_DIRECTORY: Final = 1
KIND_NODE: Final = 2
KIND_BUCKET: Final = 3

PAGE_HEADER: Final = 32  # every index page's
PRIVATE: Final = 0x8000_0000  # flag of a page reference inside a running transaction: pool page, not file page
MAX_PAGES: Final = PRIVATE

DIRECTORY = Layout(
    "directory page",
    ("checksum", "Q", "xxh3_64 of the rest of the page, seeded with the page number"),
    ("txn", "Q", "txn id that placed it (born)"),
    ("kind", "B", "1"),
    ("level", "B", "0: entries are nodes; else directory pages of the level below"),
    ("reserved", "H", "0"),
    ("reserved2", "I", "0"),
    ("reserved3", "Q", "0"),
)  # followed by page_size / 8 entries (u32 page numbers)

NODE = Layout(
    "node page",
    ("checksum", "Q", "as above"),
    ("txn", "Q", "as above"),
    ("kind", "B", "2"),
    ("depth", "B", "leading bits of the hash that its keys share"),
    ("reserved", "H", "0"),
    ("reserved2", "I", "0"),
    ("prefix", "Q", "these bits, at the top"),
)  # followed by (page_size - 32) / 4 slots (u32 page numbers of buckets)

BUCKET = Layout(
    "bucket page",
    ("checksum", "Q", "as above"),
    ("txn", "Q", "as above"),
    ("kind", "B", "3"),
    ("flags", "B", "0"),
    ("count", "H", "records"),
    ("top", "H", "lowest unit of 8 bytes that records use; they grow downward from the page's end"),
    ("garbage", "H", "units inside the record area that no record uses"),
    ("next", "I", "next bucket of a chain, 0 if none"),
    ("reserved", "I", "0"),
)  # followed by `count` entries (u32: tag << 16 | unit of the record), ascending

ENTRY_SIZE: Final = 4  # of a directory entry, a slot, a bucket's entry
UNIT: Final = 8

# A record is named by its anchor, a multiple of 8: the header lies in the 4 bytes before, the value
# starts at the anchor, the key follows the value.  It covers whole units, counted from the header on.
RECORD = Layout(
    "record header (at anchor - 4)",
    ("key_size", "H", "bytes of key"),
    ("value_size", "H", "bytes of value; 65535: the record is large, and a large record lies at the anchor"),
)
LARGE_MARK: Final = 0xFFFF

LARGE = Layout(
    "large record",
    ("hash", "Q", "the key's hash"),
    ("value_size", "Q", "bytes of value"),
    ("checksum", "Q", "xxh3_64 of the run's bytes up to the value's end"),
    ("born", "Q", "txn id that wrote the run"),
    ("page", "I", "first page of the run"),
    ("pages", "I", "its pages"),
    ("key_size", "I", "bytes of key"),
    ("reserved", "I", "0"),
)

RUN = Layout(
    "value run header",
    ("magic", "8s", "`mmsrun\\x01\\x00`"),
    ("hash", "Q", "the key's hash"),
    ("value_size", "Q", "bytes of value"),
    ("born", "Q", "txn id that wrote it"),
    ("key_size", "I", "bytes of key"),
    ("pages", "I", "pages of the run"),
    ("reserved", "24s", "0"),
)  # followed by the key, and by the value on the next multiple of 64
RUN_ALIGN: Final = 64

# --- free list ---------------------------------------------------------------------------------------

FREE_ENTRY = Layout(
    "free list entry",
    ("start", "I", "first page of the run"),
    ("length", "I", "pages"),
    ("born", "Q", "first root that may refer to it"),
    ("freed", "Q", "first root that no longer does: the run lived in the roots [born, freed)"),
    ("kind", "I", "0 index page, 1 value run or extent"),
    ("reserved", "I", "0"),
)
FREE_INDEX: Final = 0
FREE_BULK: Final = 1

DELTA = Layout(
    "free list delta",
    ("checksum", "Q", "xxh3_64 of the rest, seeded with the previous delta's checksum"),
    ("txn", "Q", "the transaction's id"),
    ("taken", "I", "entries of runs that it took from the free list"),
    ("freed", "I", "entries of runs that it gave"),
)  # followed by `taken` + `freed` entries

# --- log ---------------------------------------------------------------------------------------------

LOG_RING_AT: Final = 4096
LOG_ALIGN: Final = 8

LOG_HEADER = Layout(
    "log header",
    ("magic", "8s", "`mmslog\\x01\\x00`"),
    ("log_id", "Q", "random; the data file's header names it"),
    ("uuid", "16s", "the store's"),
    ("ring", "Q", "bytes of the ring behind the first 4 KiB"),
    ("checksum", "Q", "xxh3_64 of the bytes before"),
)

# A record is valid if and only if (1) its length fits the ring and is a multiple of 8, (2) its checksum
# holds, (3) `previous` is the checksum of the record before it, (4) its txn id is the next one.
LOG_RECORD = Layout(
    "log record",
    ("checksum", "Q", "xxh3_64 of the rest of the record, seeded with the log's id"),
    ("previous", "Q", "checksum of the record before: the chain"),
    ("txn", "Q", "the transaction's id"),
    ("synced", "Q", "txn id up to which the log was known synced when this was written"),
    ("nonce", "Q", "random in the first record by each taker of the writer lock, else 0"),
    ("length", "I", "bytes of the whole record, padding included"),
    ("payload", "I", "bytes of operations behind this struct"),
)

OP = Layout(
    "operation",
    ("code", "B", "see the list of operations"),
    ("reserved", "B", "0"),
    ("name_size", "H", "bytes of the keyspace's or table's name; 0: the store's own keyspace"),
    ("key_size", "I", "bytes of key"),
    ("value_size", "Q", "bytes of value"),
)  # followed by name, key and value; no padding

OP_PUT: Final = 1
OP_DELETE: Final = 2
OP_CLEAR: Final = 3
OP_CREATE: Final = 4  # a catalog entry: value = its descriptor as it was made
OP_DROP: Final = 5
OP_APPEND: Final = 6  # key: ROWS; value: a batch
OP_UPDATE: Final = 7  # key: u64 row numbers, ascending; value: u32 count and numbers of columns, and their batch
OP_DELETE_ROWS: Final = 8  # key: u64 row numbers, ascending
OP_ADD_COLUMN: Final = 9  # key: the column's description (JSON); value: a batch of one row, the fill value
OP_DROP_COLUMN: Final = 10  # key: its name
OP_RENAME_COLUMN: Final = 11  # key: its name; value: the new name
OP_ALLOW_NULLS: Final = 12  # key: the column's name
OP_RESIZE: Final = 13  # key: ROWS
OP_COMPACT: Final = 14
OPERATIONS: Final = {
    OP_PUT: "put: key, value",
    OP_DELETE: "delete: key",
    OP_CLEAR: "clear the keyspace",
    OP_CREATE: "create `name`: value is the descriptor",
    OP_DROP: "drop `name`",
    OP_APPEND: "append rows to `name`: key is the number of rows (u64), value a batch of all columns",
    OP_UPDATE: "update rows of `name`: key is their numbers (u64, ascending), "
    "value how many columns (u32), their positions (u32), and a batch of them",
    OP_DELETE_ROWS: "delete rows of `name`: key is their numbers (u64, ascending)",
    OP_ADD_COLUMN: "add a column to `name`: key is its description (JSON), value a batch of one row: the fill value",
    OP_DROP_COLUMN: "drop a column of `name`: key is its name",
    OP_RENAME_COLUMN: "rename a column of `name`: key is its name, value the new one",
    OP_ALLOW_NULLS: "make a column of `name` nullable: key is its name",
    OP_RESIZE: "leave `name` its first rows: key is how many (u64), not more than it has; new rows are appended",
    OP_COMPACT: "write `name` anew without its deleted rows; if it has none, what of it is scattered",
}

# --- catalog -----------------------------------------------------------------------------------------

ENTRY_KEYSPACE: Final = 1
ENTRY_TABLE: Final = 2
ENTRY_ARRAY: Final = 3

ENTRY = Layout(
    "catalog entry",
    ("kind", "B", "1 keyspace, 2 table, 3 array"),
    ("version", "B", "of the entry's encoding: 1"),
    ("reserved", "H", "0"),
    ("schema_size", "I", "bytes of schema (JSON, UTF-8) behind this struct"),
    ("id", "Q", "never used twice in a store"),
    ("rows", "Q", "rows of a table, length of an array's first axis; 0 for a keyspace"),
    ("deleted", "Q", "rows of a table that are marked as deleted"),
    ("index", f"{INDEX.size}s", "a keyspace's index; a table's key index: key -> row number (u64)"),
    ("sequences", "I", "sequences that follow the schema"),
    ("reserved2", "I", "0"),
)  # followed by the schema; for each column its sequences, the sequence of its statistics, and those of the rows
# behind the last whole block; last the sequence of marks (a byte a row, 1: deleted; rows behind its end are not)

STATISTICS = Layout(
    "statistics of a block of rows",
    ("low", "16s", "smallest value (see `flags`); of text and decimals at most 16 bytes of it"),
    ("high", "16s", "largest value"),
    ("nulls", "Q", "rows without a value"),
    ("flags", "I", "1: `low` and `high` are there, 2: in order (no value is smaller than the one before), 4: has NaN"),
    ("rows", "I", "rows that these are of"),
)
BOUNDS: Final = {
    dtype: struct.Struct(f"<{code}{16 - struct.calcsize('<' + code)}x")
    for dtype, code in {
        "|b1": "?", "|i1": "b", "<i2": "h", "<i4": "i", "<i8": "q", "|u1": "B", "<u2": "H", "<u4": "I", "<u8": "Q",
        "<f2": "e", "<f4": "f", "<f8": "d"
    }.items()
}  # fmt: skip
"""numpy's name of a type -> how `low` and `high` have a number of it."""
BLOCK_ROWS: Final = 65536  # rows that have statistics of their own, a block
STAT_RANGE: Final = 1
STAT_ORDERED: Final = 2
STAT_NAN: Final = 4

ROWS: Final = struct.Struct("<Q")  # a number of rows in an operation
COUNT: Final = struct.Struct("<I")

SEQUENCE = Layout(
    "sequence",
    ("length", "Q", "bytes"),
    ("high", "Q", "the largest length that any root gave the last run: bytes behind it may be written"),
    ("tail_checksum", "Q", "xxh3_64 of the bytes behind the last sealed block, seeded with their block's number"),
    ("runs", "I", "runs that follow"),
    ("sums_runs", "I", "runs of the checksum sequence that follow after them: a u64 for each sealed block of 64 KiB"),
    ("bits", "B", "of a bitmap: how many bits lie behind the last whole byte, in the byte behind `length`"),
    ("last", "B", "these bits, the others 0"),
    ("reserved", "H", "0"),
    ("reserved2", "I", "0"),
)

EXTENT = Layout(
    "extent",
    ("start", "I", "first page"),
    ("pages", "I", "pages"),
    ("born", "Q", "txn id that allocated it"),
)
BLOCK_SIZE: Final = 64 << 10

LAYOUTS: Final = (
    IDENTITY,
    HEADER,
    ROOT,
    INDEX,
    LIVE,
    ROOT_SLOT,
    READER_SLOT,
    DIRECTORY,
    NODE,
    BUCKET,
    RECORD,
    LARGE,
    RUN,
    FREE_ENTRY,
    DELTA,
    LOG_HEADER,
    LOG_RECORD,
    OP,
    ENTRY,
    STATISTICS,
    SEQUENCE,
    EXTENT,
)


def references(page: Any, count: int) -> tuple[int, ...]:
    """The first ``count`` entries behind an index page's header: page numbers, or a bucket's entries."""
    return struct.unpack_from(f"<{count}I", page, PAGE_HEADER)


def directory_entries(page_size: int) -> int:
    """Entries of a directory page."""
    return page_size // 8


def node_slots(page_size: int) -> int:
    """Slots of a node page; even, so that a node's half is a whole number of slots."""
    return (page_size - PAGE_HEADER) // ENTRY_SIZE


def inline_limit(page_size: int) -> int:
    """Largest record (header, key and value, in bytes) that a bucket holds itself."""
    return page_size // 4


def tables() -> str:
    """All layouts as Markdown, as ``docs/format.md`` shows them."""
    return "\n".join(layout.table() for layout in LAYOUTS)


assert DIRECTORY.size == NODE.size == BUCKET.size == PAGE_HEADER
assert LIVE.size <= ROOT_SLOT_AT[0] and ROOT_SLOT.size <= ROOT_SLOT_AT[1] - ROOT_SLOT_AT[0]
assert READER_SLOTS_AT + READER_SLOTS * READER_SLOT.size <= LIVE_SIZE
assert HEADER.size <= SECTOR and IDENTITY.size <= SECTOR
