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
from powercut import laboratory, options, scaled
from stage import ACTIONS, RING, Change, Stage, checkpoint, large, small, stride


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
        at = None if died is None else at + stride(name)
    assert images > 50


def alone(stage: Stage, before: int) -> Database:
    """A process that has committed and is the only one."""
    _, database = stage.process()
    for _ in range(before):
        stage.commit(database, 30, 200)
    return database


def opening(stage: Stage, at: int, torn: bool, last: Change = small) -> bool:
    """A process is killed, the next dies in its recovery, a third attaches and goes on."""
    stage.bench.watching = False
    database = alone(stage, 3)
    last(database, stage)
    stage.bench.died(database)
    fs = stage.bench.process(MortalFilesystem)
    life = Life(stage.bench, fs)
    died = life.end(lambda: stage.bench.open(fs, "c", options(ring=RING)), at, stage.rng if torn else None)
    for other in list(stage.bench._live):
        stage.bench.died(other)
    return died


def closing(stage: Stage, at: int, torn: bool, last: Change = small) -> bool:
    """The last to close dies."""
    stage.bench.watching = False
    _, database = stage.process()
    stage.bench.close(alone(stage, 3))  # not the last
    last(database, stage)
    database.delete_many([b"0", b"1"])
    del stage.bench.history.states[-1].spaces[""][b"0"], stage.bench.history.states[-1].spaces[""][b"1"]
    life = Life(stage.bench, stage.bench.processes[0], database)
    return life.end(lambda: stage.bench.close(database), at, stage.rng if torn else None)


def creating(stage: Stage, at: int, torn: bool, last: Change = small) -> bool:
    """Whoever makes the store dies."""
    stage.bench.watching = False
    fs = stage.bench.process(MortalFilesystem)
    life = Life(stage.bench, fs)
    died = life.end(lambda: stage.bench.open(fs, "c", options(ring=RING)), at, stage.rng if torn else None)
    for other in list(stage.bench._live):
        stage.bench.died(other)
    return died


SCENES = [
    (creating, small),
    (opening, small),
    (opening, large),
    (closing, small),
    (closing, large),
    (closing, checkpoint),
]


@pytest.mark.parametrize("scene, last", SCENES, ids=lambda part: part.__name__)
def test_death_of_one_who_is_alone(scene: Callable[[Stage, int, bool, Change], bool], last: Change) -> None:
    at, died = 0, True
    while died:
        with laboratory(at), stores_are_instants():
            stage = Stage(at)
            try:
                died = scene(stage, at, at % 2 == 1, last)
                stage.bench.watching = True
                _, next_one = stage.process()
                stage.settle_down(next_one)
                stage.bench.close(next_one)
            finally:
                stage.bench.shut()
        at += 1
    assert at > 5


@pytest.mark.parametrize("seed", range(scaled(16)))
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
