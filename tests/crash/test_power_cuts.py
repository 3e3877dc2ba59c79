"""Power cuts at every step: what was acknowledged is there, nothing is half-done, whoever used the store (I3, I4)."""

from __future__ import annotations

import pytest

from powercut import SCALE, Bench, laboratory, scaled
from scenario import Scenario

ACTIONS = 25 if SCALE >= 1 else 12


def run(
    seed: int,
    processes: int = 1,
    durability: tuple[str, ...] = ("full",),
    actions: int = ACTIONS,
    eager: bool = True,
    meddling: float = 0.0,
    weights: dict[str, int] | None = None,
    images: int = 3,
) -> Bench:
    with laboratory(seed, eager):
        bench = Bench(seed, images, full=set(durability) == {"full"}, continue_share=0.1 if images > 2 else 0.03)
        try:
            scenario = Scenario(bench, seed, processes, durability)
            scenario.meddling = meddling
            scenario.run(actions, weights)
        finally:
            bench.shut()
    assert bench.judged > 100
    return bench


@pytest.mark.parametrize("seed", range(scaled(2)))
def test_one_process(seed: int) -> None:
    run(seed)


@pytest.mark.parametrize("seed", range(100, 100 + scaled(2)))
def test_several_processes(seed: int) -> None:
    run(seed, processes=3)


@pytest.mark.parametrize("seed", range(200, 200 + scaled(1.5)))
def test_relaxed_commits_are_lost_as_a_suffix_only(seed: int) -> None:
    run(seed, processes=2, durability=("relaxed",))


@pytest.mark.parametrize("seed", range(300, 300 + scaled(1)))
def test_a_relaxed_process_among_others(seed: int) -> None:
    run(seed, processes=3, durability=("full", "relaxed"))


@pytest.mark.parametrize("seed", range(400, 400 + scaled(1)))
def test_commits_of_others_while_one_makes_a_checkpoint(seed: int) -> None:
    run(seed, processes=3, meddling=0.3, weights={"checkpoint": 12})


@pytest.mark.parametrize("seed", range(500, 500 + scaled(1)))
def test_everything_that_happens_to_a_table_with_a_key(seed: int) -> None:
    """Each operation of the log is replayed."""
    run(seed, processes=2, actions=ACTIONS * 3 // 5, weights={"keyed": 40, "array": 10}, images=2)
