"""The checker: proves I5 and every checksum, tag, count and order of one state, and tells all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmstore import format as fmt
from mmstore.catalog import tables
from mmstore.catalog.entry import Entry
from mmstore.columns import keys, sequence
from mmstore.columns import state as states
from mmstore.columns.verify import verify as verify_column
from mmstore.database.reader import State
from mmstore.engine.session import Session
from mmstore.errors import CorruptError
from mmstore.keyspace import verify
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.pages.freefile import load_entries
from mmstore.pages.root import read_headers

__all__ = ["Problem", "check"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that contradicts the format."""

    where: str
    """The keyspace, table, or part of the file."""
    message: str
    page: int | None = None


class _Account:
    """Which page belongs to whom."""

    def __init__(self, pages: int) -> None:
        self.owner = np.zeros(pages, np.uint16)
        self.names = ["nobody"]

    def claim(self, where: str, start: int, n: int) -> Iterator[Problem]:
        pages = len(self.owner)
        if n <= 0 or start < 0 or start + n > pages:
            yield Problem(where, f"names pages {start}+{n} of a file of {pages}", start)
            return
        taken = np.flatnonzero(self.owner[start : start + n])
        if len(taken):
            page = start + int(taken[0])
            other = self.names[self.owner[page]]
            yield Problem(where, f"{len(taken)} pages of {start}+{n} belong to {other} too", page)
        if self.names[-1] != where and len(self.names) < 65535:
            self.names.append(where)
        self.owner[start : start + n] = len(self.names) - 1


def check(session: Session, state: State) -> Iterator[Problem]:
    """Every problem of ``state``, whose root must be pinned.  Reads the file by pread, so a bad sector is told, too."""
    root = state.root
    if root.pages * session.page_size > session.store.backend.size():
        yield Problem("file", f"has {session.store.backend.size()} bytes, its root {root.pages} pages")
        return
    yield from _check_headers(session)
    account = _Account(root.pages)
    yield from account.claim("the fixed area", 0, fmt.FIXED_SIZE // session.page_size)
    yield from _check_free(session, state, account)
    yield from _check_index(session, state, account, "keyspace ''", IndexDescriptor.unpack(root.main))
    yield from _check_index(session, state, account, "the catalog", IndexDescriptor.unpack(root.catalog))
    try:
        names = state.names()
    except CorruptError as error:
        yield Problem("the catalog", str(error), error.page)
        return
    for name, entry in names:
        yield from _check_entry(session, state, account, name, entry)
    lost = np.flatnonzero(account.owner == 0)
    if len(lost):
        yield Problem("file", f"{len(lost)} pages are neither reachable nor held nor free", int(lost[0]))


def _check_headers(session: Session) -> Iterator[Problem]:
    if session.options.in_memory:
        return
    uuid = session.identity.uuid
    for at, header in enumerate(read_headers(session.pread, uuid)):
        # A checkpoint may write it this moment: look again before saying so.
        if header is None and read_headers(session.pread, uuid)[at] is None:
            yield Problem(f"header {'AB'[at]}", "is not whole; the other one is used, and the next checkpoint mends it")


def _check_free(session: Session, state: State, account: _Account) -> Iterator[Problem]:
    free = state.root.free
    if free.consolidation:
        yield from account.claim("the free list", free.page, free.pages + free.delta_pages)
    try:
        for run in load_entries(session, state.root):
            yield from account.claim("held runs" if run.freed else "free runs", run.start, run.length)
    except CorruptError as error:
        yield Problem("the free list", str(error), error.page)


def _check_index(
    session: Session, state: State, account: _Account, where: str, desc: IndexDescriptor
) -> Iterator[Problem]:
    for found in verify.walk(session.pread, session.page_size, session.identity.seed, desc, state.root.pages):
        if isinstance(found, verify.Use):
            yield from account.claim(where, found.start, found.pages)
        else:
            yield Problem(where, found.message, found.page)


def _check_entry(session: Session, state: State, account: _Account, name: str, entry: Entry) -> Iterator[Problem]:
    where = f"{name!r}"
    yield from _check_index(session, state, account, where, entry.index)
    for part in entry.sequences:
        for extent in (*part.runs, *part.sums_runs):
            yield from account.claim(where, extent.start, extent.pages)
    if entry.schema is not None:
        source = sequence.Source(session.page_size, session.store.read)
        for column, found in zip(entry.schema, entry.columns, strict=True):
            for error in verify_column(column.kind, found, entry.rows, source):
                yield Problem(f"{where}, column {column.name!r}", str(error), error.page)
        for error in sequence.verify(entry.marks, source):
            yield Problem(f"{where}, marks", str(error), error.page)
        try:
            yield from _check_rows(state, where, entry, source)
        except CorruptError as error:
            yield Problem(where, str(error), error.page)
        except ValueError as error:  # a key that is too long
            yield Problem(where, str(error))


def _check_rows(state: State, where: str, entry: Entry, source: sequence.Source) -> Iterator[Problem]:
    """Whether the marks are as many as the entry says, and each row that isn't deleted is found by its key."""
    marks = np.frombuffer(sequence.read(entry.marks, source, 0, entry.marks.length), np.uint8)
    if len(marks) and marks.max() > 1:
        yield Problem(where, f"has marks of {int(marks.max())}; 1 is a deleted row's, 0 another's")
    deleted = np.zeros(entry.rows, np.bool_)
    deleted[: len(marks)] = marks != 0
    count = int(np.count_nonzero(deleted))
    if count != entry.deleted:
        yield Problem(where, f"has {count} rows marked as deleted, its entry says {entry.deleted}")
    schema = tables.schema_of(entry)
    if schema.key is None:
        return
    if entry.index.count != entry.rows - count:
        yield Problem(where, f"has a key index of {entry.index.count} keys for {entry.rows - count} rows")
    tree = state.open(entry.index)
    places = keys.key_columns(schema)
    columns = [schema.columns[place] for place in places]
    for start in range(0, entry.rows, fmt.BLOCK_ROWS):
        live = start + np.flatnonzero(~deleted[start : start + fmt.BLOCK_ROWS])
        parts = [
            states.take(column.kind, entry.columns[place], source, live)
            for place, column in zip(places, columns, strict=True)
        ]
        rows, found = np.zeros(len(live), np.int64), np.zeros(len(live), np.uint8)
        tree.gather(*keys.pack(columns, parts), rows, fmt.ROWS.size, found)
        wrong = np.flatnonzero((found == 0) | (rows != live))
        if len(wrong):
            yield Problem(
                where, f"{len(wrong)} rows from {start} on aren't found by their keys, first {live[wrong[0]]}"
            )
