"""Random things that several processes do with one store, and what must be in it afterwards.

A ``Scenario`` draws actions from its seed and carries them out on a ``powercut.Bench``: transactions of every
size over several keyspaces, tables with and without a key, and an array, deletes, savepoints, rollbacks, checkpoints,
syncs, snapshots held over commits, handles that close and open again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from mmstore.columns.types import nullable
from mmstore.database.database import Database
from mmstore.database.snapshot import Snapshot
from mmstore.database.tablewriter import TableWriter
from mmstore.database.transaction import Transaction
from mmstore.errors import LockTimeout
from powercut import RING, Bench, Columns, Content, Violation, observe, options
from simdisk import SimFilesystem

SCHEMA = {"a": "<i8", "b": "<f4"}
KEYED = {"id": "i8", "n": nullable("i4"), "t": nullable("utf8"), "c": "category", "z": "i2"}
WORDS = ("", "red", "green", "a colour that is longer than sixteen bytes")


class Undo(Exception):
    """Leaves a savepoint or a transaction."""


class Model:
    """A table with a key in Python's own terms, which changes as the table does."""

    def __init__(self, columns: Columns) -> None:
        *named, deleted = columns
        self.values: dict[str, list[Any]] = {name: list(values) for name, values in named}
        self.deleted: list[bool] = list(deleted)

    def columns(self) -> Columns:
        return (*((name, list(values)) for name, values in self.values.items()), list(self.deleted))

    @property
    def live(self) -> list[int]:
        return [row for row, gone in enumerate(self.deleted) if not gone]

    def value(self, name: str, rng: random.Random) -> Any:
        if name == "c":
            return rng.choice(WORDS)
        if name == "t":
            return rng.choice((None, *WORDS, "x" * rng.randrange(200)))
        return rng.choice((None, 0, rng.randrange(1000))) if name == "n" else rng.randrange(1000)

    def change(self, table: TableWriter, rng: random.Random) -> None:
        """Do something, weighted by how much there is to it."""
        names = ("append",) * 4 + ("update",) * 3 + ("delete",) * 2 + ("rekey", "compact", "alter")
        getattr(self, rng.choice(names) if self.live else "append")(table, rng)

    def append(self, table: TableWriter, rng: random.Random) -> None:
        count, how = rng.choice((1, 3, 20)), rng.choice(("replace", "ignore"))
        ids = rng.sample(range(60), count)
        rows = {name: ids if name == "id" else [self.value(name, rng) for _ in ids] for name in self.values}
        table.append(rows, on_conflict=how)
        places = {self.values["id"][row]: row for row in self.live}
        for at, id in enumerate(ids):
            if id not in places:
                for name, values in self.values.items():
                    values.append(rows[name][at])
                self.deleted.append(False)
            elif how == "replace":
                for name, values in self.values.items():
                    values[places[id]] = rows[name][at]

    def update(self, table: TableWriter, rng: random.Random) -> None:
        rows = sorted(rng.sample(self.live, min(len(self.live), rng.choice((1, 2, 9)))))
        others = [name for name in self.values if name != "id"]
        new = {
            name: [self.value(name, rng) for _ in rows] for name in rng.sample(others, rng.randrange(1, len(others)))
        }
        table.update(rows, new)
        for name, values in new.items():
            for row, value in zip(rows, values, strict=True):
                self.values[name][row] = value

    def rekey(self, table: TableWriter, rng: random.Random) -> None:
        """Rows swap their keys, and one gets a new one."""
        rows = rng.sample(self.live, min(len(self.live), 3))
        ids = [self.values["id"][row] for row in rows]
        ids = [*ids[1:], rng.randrange(100, 10**6)]
        if set(ids) & {self.values["id"][row] for row in self.live if row not in rows}:
            return
        table.update(rows, {"id": ids})
        for row, id in zip(rows, ids, strict=True):
            self.values["id"][row] = id

    def delete(self, table: TableWriter, rng: random.Random) -> None:
        rows = rng.sample(self.live, min(len(self.live), rng.choice((1, 3, 30))))
        table.delete(rows)
        for row in rows:
            self.deleted[row] = True

    def compact(self, table: TableWriter, rng: random.Random) -> None:
        table.compact()
        live = self.live
        self.values = {name: [values[row] for row in live] for name, values in self.values.items()}
        self.deleted = [False] * len(live)

    def alter(self, table: TableWriter, rng: random.Random) -> None:
        """Another column, another name, no column, or one with missing rows."""
        extra = [name for name in self.values if name.startswith("extra")]
        if not extra:
            fill = rng.choice((7, 8))
            table.add_column("extra", "i4", fill)
            self.values["extra"] = [fill] * len(self.deleted)
        elif extra == ["extra"]:
            table.rename_column("extra", "extra 2")
            table.allow_nulls("extra 2")
            self.values["extra 2"] = self.values.pop("extra")
        else:
            table.drop_column(extra[0])
            del self.values[extra[0]]


class Process:
    """One process with at most one handle."""

    def __init__(self, fs: SimFilesystem, durability: str, ring: int) -> None:
        self.fs = fs
        self.options = options(durability, ring)
        self.database: Database | None = None
        self.snapshots: list[tuple[Snapshot, Content]] = []


class Scenario:
    """What ``processes`` processes do; ``durability`` of each in turn."""

    def __init__(
        self,
        bench: Bench,
        seed: int,
        processes: int = 1,
        durability: tuple[str, ...] = ("full",),
        tables: bool = True,
        ring: int = RING,
    ) -> None:
        self.bench = bench
        self.rng = random.Random(f"scenario {seed}")
        self.processes = [
            Process(bench.process(), durability[number % len(durability)], ring) for number in range(processes)
        ]
        self.ring = ring
        self.tables = tables
        self.done: list[str] = []
        self.meddling = 0.0
        """How often another process commits in the middle of a checkpoint, an opening or a closing."""
        self._inside = False

    @property
    def content(self) -> Content:
        """The newest state."""
        return self.bench.history.states[-1]

    # --- carrying out -------------------------------------------------------------------------------

    def run(self, actions: int, weights: dict[str, int] | None = None) -> None:
        """Carry out so many random actions, then compare what every process sees, and close all."""
        chosen = WEIGHTS | (weights or {})
        if self.meddling:
            self.bench.interlude = self.meddle
        names, shares = list(chosen), list(chosen.values())
        try:
            for process in self.processes[:1]:
                self.open(process)
            for _ in range(actions):
                self.act(self.rng.choices(names, shares)[0], self.rng.choice(self.processes))
            self.compare()
            for process in self.processes:
                self.close(process)
        finally:
            if self.bench.violation is not None:
                raise self.bench.violation

    def act(self, name: str, process: Process) -> None:
        self.done.append(name)
        if process.database is None:
            self.open(process)
        action: Callable[[Process], None] = getattr(self, name)
        action(process)

    def meddle(self, operation: str, name: str) -> None:
        """Another process commits between two steps of one that does not hold the writer lock."""
        if self._inside or self.rng.random() >= self.meddling:
            return
        free = [process for process in self.processes if process.database is not None]
        if not free or any(not process.database or process.database.writer._holds for process in free):
            return
        self._inside = True
        try:
            process = self.rng.choice(free)
            for _ in range(self.rng.choice((1, 1, 2, 8))):
                self.small(process)
        except LockTimeout:
            pass  # the log is full, and the checkpoint under way is what would make room
        finally:
            self._inside = False

    def compare(self) -> None:
        """All is as it should be in the main run, too."""
        for process in self.processes:
            if process.database is not None:
                self.expect(observe(process.database), self.content, "a handle")
                problems = process.database.check()
                if problems:
                    raise Violation(f"seed {self.bench.seed}: check() found {problems[:3]} without any power cut")

    def expect(self, found: Content, content: Content, what: str) -> None:
        if found != content:
            raise Violation(f"seed {self.bench.seed}: {what} shows something else: {found.differs(content)}")

    def open(self, process: Process) -> None:
        process.database = self.bench.open(process.fs, "c", process.options)
        self.expect(observe(process.database), self.content, "a handle just opened")

    def close(self, process: Process) -> None:
        if process.database is None:
            return
        self.release(process)
        database, process.database = process.database, None
        self.bench.close(database)

    def release(self, process: Process) -> None:
        """Snapshots still show what they did."""
        for snapshot, content in process.snapshots:
            for name, space in content.spaces.items():
                keyspace = snapshot.keyspace(name) if name else snapshot
                if dict(keyspace.items()) != space:
                    raise Violation(f"seed {self.bench.seed}: a snapshot of {name!r} has changed")
            snapshot.close()
        process.snapshots.clear()

    # --- transactions -------------------------------------------------------------------------------

    def transaction(self, process: Process, change: Callable[[Transaction, Content], None]) -> None:
        """One transaction; the history learns of it before its commit begins."""
        assert process.database is not None
        with process.database.transaction() as txn:
            content = self.content.copy()
            change(txn, content)
            index = self.bench.history.begun(content, txn.txn_id)
        self.committed(process, index)

    def committed(self, process: Process, index: int) -> None:
        if process.options.durability == "full":
            self.bench.history.durable(index)

    def key(self) -> bytes:
        return b"key %03d" % self.rng.randrange(40)

    def value(self, size: int) -> bytes:
        return self.rng.randbytes(4) * (size // 4) + b"."

    def space(self, txn: Transaction, content: Content) -> tuple[Transaction | object, dict[bytes, bytes]]:
        name = self.rng.choice(["", "", "one", "two"])
        return (txn.keyspace(name) if name else txn), content.spaces.setdefault(name, {})

    def put(self, txn: Transaction, content: Content, size: int) -> None:
        space, mine = self.space(txn, content)
        key, value = self.key(), self.value(size)
        space[key] = mine[key] = value

    def small(self, process: Process) -> None:
        self.transaction(process, lambda txn, content: self.put(txn, content, self.rng.choice((0, 8, 50, 300))))

    def batch(self, process: Process) -> None:
        def change(txn: Transaction, content: Content) -> None:
            for _ in range(self.rng.randrange(2, 12)):
                self.put(txn, content, self.rng.choice((8, 50, 200)))
            self.remove(txn, content, self.rng.randrange(4))

        self.transaction(process, change)

    def remove(self, txn: Transaction, content: Content, n: int) -> None:
        for name, mine in content.spaces.items():
            for key in sorted(mine)[:: max(1, len(mine) // max(1, n))][:n]:
                space = txn.keyspace(name) if name else txn
                del space[key]
                del mine[key]

    def delete(self, process: Process) -> None:
        self.transaction(process, lambda txn, content: self.remove(txn, content, self.rng.randrange(1, 6)))

    def large_value(self, process: Process) -> None:
        """In a run of pages of its own, but small enough for the log."""
        self.transaction(
            process, lambda txn, content: self.put(txn, content, self.rng.choice((1100, 2000, self.ring // 5)))
        )

    def too_large(self, process: Process) -> None:
        """A transaction that the log does not take."""

        def change(txn: Transaction, content: Content) -> None:
            if self.rng.random() < 0.5:
                self.put(txn, content, self.rng.choice((self.ring, 3 * self.ring)))
            else:
                for _ in range(12):
                    self.put(txn, content, self.ring // 30)
                self.put(txn, content, self.ring // 5)
                self.put(txn, content, self.ring // 5)

        self.transaction(process, change)

    def clear(self, process: Process) -> None:
        def change(txn: Transaction, content: Content) -> None:
            space, mine = self.space(txn, content)
            space[b"first"] = mine[b"first"] = b"1"
            space.clear()
            mine.clear()
            if self.rng.random() < 0.5:
                space[b"again"] = mine[b"again"] = b"2"

        self.transaction(process, change)

    def drop(self, process: Process) -> None:
        def change(txn: Transaction, content: Content) -> None:
            self.put(txn, content, 20)
            places = (content.spaces, content.tables, content.arrays)
            names = [(name, place) for place in places for name in sorted(place) if name]
            if names:
                name, place = self.rng.choice(names)
                txn.drop(name)
                place.pop(name)  # type: ignore[attr-defined]

        self.transaction(process, change)

    def savepoints(self, process: Process) -> None:
        def change(txn: Transaction, content: Content) -> None:
            self.put(txn, content, 60)
            for undone in self.rng.choices((True, False), k=3):
                inner = content.copy()
                try:
                    with txn.savepoint():
                        for _ in range(3):
                            self.put(txn, inner, self.rng.choice((10, 100, 1500)))
                        self.remove(txn, inner, 2)
                        if undone:
                            raise Undo
                except Undo:
                    continue
                content.spaces = inner.spaces

        self.transaction(process, change)

    def undone(self, process: Process) -> None:
        """A transaction that is rolled back."""
        assert process.database is not None
        try:
            with process.database.transaction() as txn:
                content = self.content.copy()
                for _ in range(self.rng.randrange(5)):
                    self.put(txn, content, self.rng.choice((10, 1500, 2 * self.ring)))
                raise Undo
        except Undo:
            pass

    def nothing(self, process: Process) -> None:
        assert process.database is not None
        with process.database.transaction():
            pass

    def append(self, process: Process) -> None:
        """Rows to a table, which is made if it isn't there."""
        if not self.tables:
            return self.small(process)
        n = self.rng.choice((1, 10, 400, 3000))

        def change(txn: Transaction, content: Content) -> None:
            name = self.rng.choice(("rows", "more rows"))
            if name not in content.tables:
                txn.create_table(name, SCHEMA)
                content.tables[name] = (b"", b"")
            a = np.arange(n, dtype="<i8") + len(content.tables[name][0])
            b = a.astype("<f4") / 2
            txn.table(name).append({"a": a, "b": b})
            old = content.tables[name]
            content.tables[name] = (old[0] + a.tobytes(), old[1] + b.tobytes())

        self.transaction(process, change)

    def keyed(self, process: Process) -> None:
        """Everything that can happen to a table with a key, several of it in one transaction."""
        if not self.tables:
            return self.small(process)

        def change(txn: Transaction, content: Content) -> None:
            if "people" not in content.tables:
                txn.create_table("people", KEYED, key="id")
                content.tables["people"] = (*((name, []) for name in KEYED), [])
            model = Model(content.tables["people"])
            for _ in range(self.rng.randrange(1, 5)):
                undone = self.rng.random() < 0.15
                if not undone:
                    model.change(txn.table("people"), self.rng)
                    continue
                try:
                    with txn.savepoint():
                        Model(model.columns()).change(txn.table("people"), self.rng)
                        raise Undo
                except Undo:
                    pass
            content.tables["people"] = model.columns()

        self.transaction(process, change)

    def array(self, process: Process) -> None:
        """An array that grows, shrinks, and changes in the middle."""
        if not self.tables:
            return self.small(process)

        def change(txn: Transaction, content: Content) -> None:
            if "array" not in content.arrays:
                txn.create_array("array", "<i4", (0, 3))
                content.arrays["array"] = b""
            array = txn.array("array")
            mine = np.frombuffer(content.arrays["array"], "<i4").reshape(-1, 3).copy()
            for _ in range(self.rng.randrange(1, 4)):
                n = self.rng.choice((1, 7, 900))
                new = np.full((n, 3), self.rng.randrange(1 << 20), "<i4")
                if self.rng.random() < 0.4 or not len(mine):
                    array.append(new)
                    mine = np.concatenate([mine, new])
                elif self.rng.random() < 0.7:
                    at = self.rng.randrange(len(mine))
                    array[at : at + n] = new[: len(mine) - at]
                    mine[at : at + n] = new[: len(mine) - at]
                else:
                    length = self.rng.randrange(len(mine) + 100)
                    array.resize(length)
                    mine = np.concatenate([mine, np.zeros((max(0, length - len(mine)), 3), "<i4")])[:length]
            content.arrays["array"] = mine.tobytes()

        self.transaction(process, change)

    # --- the rest -----------------------------------------------------------------------------------

    def checkpoint(self, process: Process) -> None:
        assert process.database is not None
        index = len(self.bench.history.states) - 1
        process.database.checkpoint()
        self.bench.history.durable(index)

    def sync(self, process: Process) -> None:
        assert process.database is not None
        index = len(self.bench.history.states) - 1
        process.database.sync()
        self.bench.history.durable(index)

    def snapshot(self, process: Process) -> None:
        """Held over the commits that follow."""
        assert process.database is not None
        if len(process.snapshots) > 1:
            self.release(process)
        process.snapshots.append((process.database.snapshot(), self.content))

    def reopen(self, process: Process) -> None:
        self.close(process)
        self.open(process)

    def leave(self, process: Process) -> None:
        self.close(process)


WEIGHTS = {
    "small": 8,
    "batch": 4,
    "delete": 2,
    "large_value": 3,
    "too_large": 1,
    "clear": 1,
    "drop": 1,
    "savepoints": 2,
    "undone": 1,
    "nothing": 1,
    "append": 3,
    "keyed": 0,
    "array": 0,
    "checkpoint": 2,
    "sync": 1,
    "snapshot": 1,
    "reopen": 1,
    "leave": 1,
}
