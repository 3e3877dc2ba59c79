"""One load at work: inputs are read ahead, batches go into the target, commits carry a bookmark.

A row counts as loaded when the transaction with it commits, and the bookmark is in that transaction; so are the
counts, and the size of the file of rejected rows, which is cut back to it when the load goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from mmstore.database import Database
from mmstore.errors import SchemaError
from mmstore.integrations.ahead import ahead
from mmstore.integrations.inputs.base import BadRow, Batch, Handler, Input, Mark, Plan
from mmstore.integrations.inputs.detect import Reading, open_input
from mmstore.integrations.inputs.infer import widest
from mmstore.integrations.keyspaces import KeyspaceTarget
from mmstore.integrations.rejects import Rejects, refuse
from mmstore.integrations.resume import Bookmark, Place
from mmstore.integrations.tables import TableTarget

__all__ = ["Job", "Loaded", "Progress"]

Progress: TypeAlias = Callable[[int, int | None, int], None]

SAMPLED: Final = 8
"""Inputs whose beginning is looked at for types: the first ones, and the last."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` did."""

    rows: int
    """Rows read, without those that an earlier run had committed."""
    added: int
    """Rows appended to the table; or keys that the keyspace didn't have before."""
    seconds: float
    schema: str | None = None
    """The table's columns."""
    rejected: int = 0
    """Rows left out because they didn't fit, in all runs."""
    read: int = 0
    """Bytes read."""
    before: int = 0
    """Rows that an earlier run had committed."""


@dataclass(slots=True)
class Piece:
    """A batch on its way from an input to the target."""

    input: int
    file: str
    mark: Mark
    batch: Batch
    bad: list[BadRow]
    """Rows between the batch before and the end of this one that the input left out."""
    read: int
    """Bytes of all inputs read until then."""


class Job:
    """One call of `load`."""

    def __init__(
        self,
        database: Database,
        places: Sequence[Any],
        how: Reading,
        target: TableTarget | KeyspaceTarget,
        *,
        skip: bool,
        rejects: Any,
        progress: Progress | None,
    ) -> None:
        self.database, self.places, self.how, self.target = database, places, how, target
        self.skip, self.rejects_path, self.progress = skip, rejects, progress
        self.key: bytes | None = None
        self.what: dict[str, Any] = {}
        self.every: int | None = None
        self.size = _total(places)
        self.inferred = False
        """Whether the inputs are text."""
        self.empty = False
        """Whether the samples of text have no rows."""
        self.open: dict[int, Input] = {}
        """Inputs whose beginning was looked at, until their turn comes."""

    def bookmarked(self, what: dict[str, Any], key: bytes, every: int) -> None:
        """Commit after each `every` rows, with a bookmark of the load `what` under `key`."""
        self.what, self.key, self.every = what, key, every

    def run(self, *, append: bool, replace: bool, resume: bool) -> Loaded:
        """Load everything.  Raises SchemaError as `load` does."""
        started = time.perf_counter()
        known = Bookmark.find(self.database, self.key) if self.key is not None else None
        begun = known if resume and known is not None else Bookmark()
        if begun.done:
            return Loaded(0, 0, time.perf_counter() - started, rejected=begun.rejected, before=begun.rows)
        with ExitStack() as stack:
            stack.callback(self._close)
            rejects = Rejects(self.rejects_path if self.skip else None, count=begun.rejected, size=begun.rejects)
            stack.callback(rejects.close)
            found = self._look()
            run = _Run(self, begun, rejects if self.skip else refuse, rejects)
            try:
                run.begin(found, append=append, replace=replace, resumed=begun is known, unfinished=known)
                run.load()
                schema = run.finish()
            except BaseException:
                run.txn.rollback()
                raise
        seconds = time.perf_counter() - started
        return Loaded(run.rows, run.added, seconds, schema, rejects.count, run.read, begun.rows)

    # --- inputs ---------------------------------------------------------------------------------------

    def input(self, number: int) -> Input:
        """The input, opened."""
        if number not in self.open:
            self.open[number] = open_input(self.places[number], self.how)
        return self.open[number]

    def done_with(self, number: int) -> None:
        """Close an input."""
        self.open.pop(number).close()

    def _close(self) -> None:
        for number in list(self.open):
            self.done_with(number)

    def _look(self) -> Any:
        """The columns of the inputs: the first one's; of text, with types that hold the samples of several."""
        first = self.input(0)
        self.inferred = first.inferred
        schema = first.schema()
        if not first.inferred:
            return schema
        schemas = [schema]
        self.empty = first.empty
        for number in {*range(1, min(SAMPLED, len(self.places))), len(self.places) - 1} - {0}:
            self._check_sort(self.input(number))
            other = self.input(number).schema()
            self.input(number).forget_sample()  # it may be long until its turn comes
            if sorted(other.names) == sorted(schema.names):
                schemas.append(other)
                self.empty &= self.input(number).empty
        return widest(schemas)

    def pieces(self, plan: Plan, start: Place) -> Generator[Piece, None, None]:
        """All batches from `start` on; run by the thread that reads ahead."""
        bad: list[BadRow] = []
        if self.skip:
            plan = replace(plan, bad=bad.append)
        before = sum(_size(place) or 0 for place in self.places[: start.input])
        for number in range(start.input, len(self.places)):
            source = self.input(number)
            self._check_sort(source)
            for batch, mark in source.batches(plan, start.mark if number == start.input else Mark()):
                yield Piece(number, source.name, mark, batch, bad[:], before + source.read)
                bad.clear()
                del batch
            before += source.read
            self.done_with(number)

    def _check_sort(self, source: Input) -> None:
        if source.inferred != self.inferred:
            raise SchemaError(
                f"{source.name} is {'text' if source.inferred else 'no text'}, unlike the first input; load each sort "
                "by itself, with append=True (--append)"
            )


class _Run:
    """The transactions of a load, one after the other."""

    def __init__(self, job: Job, begun: Bookmark, handler: Handler, rejects: Rejects) -> None:
        self.job, self.begun, self.handler, self.rejects = job, begun, handler, rejects
        self.rows = self.added = self.read = 0
        self.txn = job.database.transaction()

    def begin(self, found: Any, *, append: bool, replace: bool, resumed: bool, unfinished: Bookmark | None) -> None:
        """Check the target against the columns `found`, and make it; what is to be read follows from both."""
        job, first = self.job, self.job.input(0)
        hint = ""
        if unfinished is not None and not unfinished.done:
            hint = f"; a load of the same files stopped after {unfinished.rows:,} rows: resume=True (--resume) goes on"
        target = job.target
        if isinstance(target, TableTarget):
            if target.exists(self.txn) and not resumed:
                if replace:
                    self.txn.drop(target.name)
                elif not append:
                    raise SchemaError(
                        f"the table {target.name!r} is there already; choose to append to it or to replace it{hint}"
                    )
            if resumed:
                target.loose = self.begun.loose
            types = self._settled(found, first, {*target.named} if not target.exists(self.txn) else {*found.names})
            self.plan = target.start(self.txn, types, inferred=first.inferred, bad=self.handler)
            return
        mapping = target.mapping(self.txn)
        if replace and not resumed:
            mapping.clear()
        if len(mapping) and not append and not resumed:
            raise SchemaError(
                f"the keyspace {target.name!r} holds {len(mapping):,} records already; choose to append to it or to "
                f"replace them{hint}"
            )
        self.plan = target.start(first, self._settled(found, first, {*found.names}), self.handler)

    def _settled(self, found: Any, first: Input, known: set[str]) -> Any:
        """The columns with text where the samples had no value; SchemaError if they had no rows to tell types from."""
        import pyarrow as pa

        if isinstance(found, np.dtype) or not first.inferred:
            return found
        fields = []
        for field in found:
            if pa.types.is_null(field.type):
                if self.job.empty and field.name not in known:
                    raise SchemaError(f"{first.name} has no rows, so its columns' types are unknown; name them all")
                field = pa.field(field.name, pa.string(), nullable=not first.empty_text)
            elif first.empty_text and pa.types.is_string(field.type):
                field = field.with_nullable(False)
            fields.append(field)
        return pa.schema(fields)

    def load(self) -> None:
        """All batches, with a commit after each `every` rows."""
        job, start = self.job, self.begun.place
        room = job.every
        skip = start.skip
        with closing(ahead(job.pieces(self.plan, start))) as pieces:
            for piece in pieces:
                at, skip, rows, part = skip, 0, piece.batch.num_rows, None
                while at < rows:
                    n = rows - at if room is None else min(rows - at, room)
                    part = piece.batch.slice(at, n)
                    self.added += job.target.add(self.txn, part, piece.file, piece.mark.rows + at, self.handler)
                    at += n
                    self.rows += n
                    if room is not None:
                        room -= n
                        if not room:
                            self._commit(Place(piece.input, piece.mark, at))
                            room = job.every
                for row in piece.bad:
                    self.handler(row)
                self.read = piece.read
                if job.progress is not None:
                    job.progress(self.read, job.size, self.begun.rows + self.rows)
                del piece, part

    def _commit(self, place: Place) -> None:
        """Commit with a bookmark, and begin the next transaction."""
        self.added += self.job.target.flush(self.txn)
        self._save(place, done=False)
        self.txn.commit()
        self.txn = self.job.database.transaction()

    def _save(self, place: Place, *, done: bool) -> None:
        if self.job.key is None:
            return
        begun = self.begun
        mark = Bookmark(place, begun.rows + self.rows, begun.added + self.added, self.rejects.count,
                        self.rejects.size(), done, self.job.target.loose)  # fmt: skip
        mark.save(self.txn, self.job.key, self.job.what)

    def finish(self) -> str | None:
        """The last commit; the table's columns as text."""
        self.added += self.job.target.flush(self.txn)
        self._save(Place(len(self.job.places)), done=True)
        target = self.job.target
        schema = str(self.txn.table(target.name).schema) if isinstance(target, TableTarget) else None
        self.txn.commit()
        return schema


def _size(place: Any) -> int | None:
    """Bytes of a file, None for what is none."""
    return os.path.getsize(place) if isinstance(place, str | os.PathLike) and os.path.isfile(place) else None


def _total(places: Sequence[Any]) -> int | None:
    sizes = [_size(place) for place in places]
    return None if None in sizes else sum(size for size in sizes if size is not None)
