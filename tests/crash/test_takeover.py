"""A writer dies at any instant, another takes over and goes on, then the power fails (I3, I4, I8).

No mixture of the two is left, nothing acknowledged is lost, nothing unpublished appears behind another's
commits; meanwhile a reader in a third process sees whole commits only.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mmstore.database.database import Database
from mortal import Life, MortalFilesystem, stores_are_instants
from powercut import Bench, Content, Violation, laboratory, observe, options, scaled

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


def observe_transaction(txn: object) -> Content:
    spaces = {"": dict(txn.items())}  # type: ignore[attr-defined]
    other = dict(txn.keyspace("other").items())  # type: ignore[attr-defined]
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


def play(stage: Stage, action: Change, before: int, at: int | None, torn: bool) -> int | None:
    """Let a process die at instant ``at`` of ``action`` and another go on; None if it did not die any more."""
    life, first = stage.process()
    _, second = stage.process()
    stage.bench.watching = False
    for number in range(before):
        stage.commit(second if number % 2 else first, 30, 200)
    stage.watch()
    died = life.end(lambda: action(first, stage), at, stage.rng if torn else None)
    instants = len(life.instants)
    stage.bench.watching = True  # power cuts from here on: those before have tests of their own
    stage.settle_down(second)
    return instants if died else None


@pytest.mark.parametrize("durability", ["full", "relaxed"])
@pytest.mark.parametrize("name", ACTIONS)
def test_death_at_every_instant(name: str, durability: str) -> None:
    action, before = ACTIONS[name]
    at: int | None = 0
    images = 0
    while at is not None:
        with laboratory(at), stores_are_instants():
            stage = Stage(at, durability=durability)
            try:
                died = play(stage, action, before, at, torn=at % 2 == 1)
            finally:
                stage.bench.shut()
            images += stage.bench.judged
        at = None if died is None else at + (5 if name == "filling" else 1)
    assert images > 50


def alone(stage: Stage, before: int) -> Database:
    """A process that has committed and is the only one."""
    _, database = stage.process()
    for _ in range(before):
        stage.commit(database, 30, 200)
    return database


def opening(stage: Stage, at: int, torn: bool) -> bool:
    """A process is killed, the next dies in its recovery, a third attaches and goes on."""
    stage.bench.watching = False
    database = alone(stage, 3)
    if at % 3 == 2:
        large(database, stage)
    stage.bench.died(database)
    fs = stage.bench.process(MortalFilesystem)
    life = Life(stage.bench, fs)
    died = life.end(lambda: stage.bench.open(fs, "c", options(ring=RING)), at, stage.rng if torn else None)
    for other in list(stage.bench._live):
        stage.bench.died(other)
    return died


def closing(stage: Stage, at: int, torn: bool) -> bool:
    """The last to close dies."""
    stage.bench.watching = False
    _, database = stage.process()
    stage.bench.close(alone(stage, 3))  # not the last
    if at % 3 == 2:
        large(database, stage)
    else:
        small(database, stage)
    database.delete_many([b"0", b"1"])
    del stage.bench.history.states[-1].spaces[""][b"0"], stage.bench.history.states[-1].spaces[""][b"1"]
    life = Life(stage.bench, stage.bench.processes[0], database)
    return life.end(lambda: stage.bench.close(database), at, stage.rng if torn else None)


def creating(stage: Stage, at: int, torn: bool) -> bool:
    """Whoever makes the store dies."""
    stage.bench.watching = False
    fs = stage.bench.process(MortalFilesystem)
    life = Life(stage.bench, fs)
    died = life.end(lambda: stage.bench.open(fs, "c", options(ring=RING)), at, stage.rng if torn else None)
    for other in list(stage.bench._live):
        stage.bench.died(other)
    return died


@pytest.mark.parametrize("scene", [creating, opening, closing], ids=lambda scene: scene.__name__)
def test_death_of_one_who_is_alone(scene: Callable[[Stage, int, bool], bool]) -> None:
    at, died = 0, True
    while died:
        for torn in (False, True):
            with laboratory(at), stores_are_instants():
                stage = Stage(at, images=2)
                try:
                    died = scene(stage, at, torn)
                    stage.bench.watching = True
                    _, next_one = stage.process()
                    stage.settle_down(next_one)
                    stage.bench.close(next_one)
                finally:
                    stage.bench.shut()
        at += 1
    assert at > 5


@pytest.mark.parametrize("seed", range(scaled(30)))
def test_one_after_the_other_dies(seed: int) -> None:
    """Also while it finishes what the one before had left."""
    rng = random.Random(seed)
    with laboratory(seed), stores_are_instants():
        stage = Stage(seed, durability=rng.choice(("full", "full", "relaxed")))
        try:
            stage.bench.watching = False
            _, survivor = stage.process()
            small(survivor, stage)
            stage.watch()
            stage.bench.watching = True
            for _ in range(6):
                life, database = stage.process()
                action = rng.choice([action for action, _ in ACTIONS.values()])
                if not life.end(lambda action=action, database=database: action(database, stage), rng.randrange(40)):
                    stage.bench.close(database)
            stage.settle_down(survivor)
        finally:
            stage.bench.shut()
