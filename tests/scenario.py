"""Random things that several processes do with one store, and what must be in it afterwards.

A ``Scenario`` draws actions from its seed and carries them out on a ``powercut.Bench``: transactions of every
size over several keyspaces and a table, deletes, savepoints, rollbacks, checkpoints, syncs, snapshots held
over commits, handles that close and open again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from mmstore.database.database import Database
from mmstore.database.snapshot import Snapshot
from mmstore.database.transaction import Transaction
from mmstore.errors import LockTimeout
from powercut import RING, Bench, Content, Violation, observe, options
from simdisk import SimFilesystem

SCHEMA = {"a": "<i8", "b": "<f4"}


class Undo(Exception):
    """Leaves a savepoint or a transaction."""


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
            names = sorted(name for name in content.spaces if name) + sorted(content.tables)
            if names:
                name = self.rng.choice(names)
                txn.drop(name)
                (content.spaces if name in content.spaces else content.tables).pop(name)

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
    "checkpoint": 2,
    "sync": 1,
    "snapshot": 1,
    "reopen": 1,
    "leave": 1,
}
