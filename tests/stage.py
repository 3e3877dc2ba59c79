"""What a process does with a store in small, and what must be in it then: for tests in which one dies or fails."""

from __future__ import annotations

import random
from collections.abc import Callable

from mmstore.database.database import Database
from mmstore.database.transaction import Transaction
from mortal import Life, MortalFilesystem
from powercut import SCALE, Bench, Content, Violation, observe, options

RING = 8 << 10
Change = Callable[[Database, "Stage"], None]


class Stage:
    """One disk, processes that die on it, a reader that looks on, and what the store must hold."""

    def __init__(self, seed: int, images: int = 1, durability: str = "full") -> None:
        self.rng = random.Random(seed)
        self.bench = Bench(seed, images, continue_share=0.0, full=durability == "full")
        self.durability = durability
        self.number = 0
        self.reader: Database | None = None
        self.last_seen = 0

    def process(self) -> tuple[Life, Database]:
        fs = self.bench.process(MortalFilesystem)
        assert isinstance(fs, MortalFilesystem)
        database = self.bench.open(fs, "c", options(self.durability, RING))
        return Life(self.bench, fs, database), database

    def watch(self) -> None:
        """A third process reads at every step of the others."""
        self.reader = self.bench.open(self.bench.process(), "w", options(self.durability, RING))
        self.bench.interlude = self.look

    def look(self, operation: str, name: str) -> None:
        assert self.reader is not None
        history = self.bench.history
        with self.reader.snapshot() as snapshot:
            txn = snapshot.txn_id
        found = observe(self.reader)
        index = history.ids.get(txn)
        if self.reader.txn_id == txn and index is not None and found != history.states[index]:
            raise Violation(f"seed {self.bench.seed}: a reader saw in {txn}: {found.differs(history.states[index])}")
        if txn < self.last_seen:
            raise Violation(f"seed {self.bench.seed}: a reader saw {txn} after {self.last_seen}")
        self.last_seen = txn

    # --- what processes do --------------------------------------------------------------------------

    def commit(self, database: Database, *sizes: int) -> None:
        """Put values of these sizes, and mark the commit in two keyspaces."""
        history = self.bench.history
        self.number += 1
        mark = b"%d" % self.number
        with database.transaction() as txn:
            # What a dead writer had begun is in the base now, or will never be.
            base = observe_transaction(txn)
            if base not in history.states[max(history.floor, 0) :]:
                raise Violation(f"seed {self.bench.seed}: the next writer found {base.differs(history.states[-1])}")
            while history.states[-1] != base:
                history.states.pop()
            content = base.copy()
            for name in ("", "other"):
                space, mine = (txn.keyspace(name) if name else txn), content.spaces.setdefault(name, {})
                space[b"mark"] = mine[b"mark"] = mark
                for place, size in enumerate(sizes):
                    key = b"%d" % (place % 5)
                    space[key] = mine[key] = mark * (size // len(mark))
            index = history.begun(content, txn.txn_id)
        if self.durability == "full":
            history.durable(index)

    def settle_down(self, database: Database) -> None:
        """Survivors go on: commits of all sizes, checkpoints, and a comparison."""
        for action in (small, small, large, checkpoint, small):
            action(database, self)
        found = observe(database)
        if found != self.bench.history.states[-1]:
            raise Violation(f"seed {self.bench.seed}: at the end {found.differs(self.bench.history.states[-1])}")
        problems = database.check()
        if problems:
            raise Violation(f"seed {self.bench.seed}: check() found {problems[:3]}")


def observe_transaction(txn: Transaction) -> Content:
    spaces = {"": dict(txn.items())}
    other = dict(txn.keyspace("other").items())
    return Content(spaces | ({"other": other} if other else {}))


def small(database: Database, stage: Stage) -> None:
    stage.commit(database, 30)


def several(database: Database, stage: Stage) -> None:
    """More than one, so that the death may come behind an acknowledged one."""
    for _ in range(2):
        stage.commit(database, 30)


def large(database: Database, stage: Stage) -> None:
    stage.commit(database, RING, 100)


def growing(database: Database, stage: Stage) -> None:
    stage.commit(database, 300 << 10)


def filling(database: Database, stage: Stage) -> None:
    """Until the log has no room: a checkpoint in the middle of commits."""
    for _ in range(5):
        stage.commit(database, 1500)


def checkpoint(database: Database, stage: Stage) -> None:
    database.checkpoint()


def rolled_back(database: Database, stage: Stage) -> None:
    try:
        with database.transaction() as txn:
            txn[b"never"] = b"x" * 5000
            raise KeyError
    except KeyError:
        pass


def first_commit(database: Database, stage: Stage) -> None:
    """Makes the log, if there is none yet."""
    stage.commit(database, 30)


ACTIONS: dict[str, tuple[Change, int]] = {  # what dies, and how many commits come before it
    "first commit": (first_commit, 0),
    "small": (small, 3),
    "several": (several, 3),
    "large": (large, 3),
    "first large": (large, 0),
    "growing": (growing, 2),
    "filling": (filling, 2),
    "checkpoint": (checkpoint, 5),
    "rolled back": (rolled_back, 2),
}


def stride(name: str) -> int:
    """From one moment of an action to the next that is tried: what repeats itself is not tried at each."""
    return 5 if name == "filling" and SCALE <= 1 else 1
