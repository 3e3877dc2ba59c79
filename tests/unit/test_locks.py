"""Byte-range locks between handles, processes, and across fork and death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmstore.disk.locks import FileLocks
from mmstore.disk.memory import MemoryFilesystem
from mmstore.disk.posix import PosixFilesystem
from mmstore.errors import ClosedError, LockTimeout
from mmstore.format import LOCK_GATE, LOCK_LIVE, LOCK_PINS, LOCK_SLOTS, LOCK_TURN, LOCK_WRITER
from workers import contend

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> str:
    name = str(tmp_path / "f")
    PosixFilesystem().open(name, create=True)
    return name


def handle(path: str) -> FileLocks:
    return FileLocks(PosixFilesystem().open(path))


@pytest.fixture
def children() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Runs a function in a forked child, that lives on until it is killed; whatever is left is killed at the end."""
    started: list[int] = []

    def start(do: Callable[[], None]) -> int:
        ready, done = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                do()
                os.write(done, b"x")
                signal.pause()
            finally:
                os._exit(1)
        os.close(done)
        assert os.read(ready, 1) == b"x", "the child failed"
        os.close(ready)
        started.append(child)
        return child

    yield start
    for child in started:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_handles_of_one_process_exclude_each_other(path: str) -> None:
    a, b = handle(path), handle(path)
    assert a.try_exclusive(LOCK_GATE) and not b.try_exclusive(LOCK_GATE) and not b.try_shared(LOCK_GATE)
    assert a.try_exclusive(LOCK_GATE), "one's own lock is no obstacle"
    assert b.held_by_other(LOCK_GATE) and not a.held_by_other(LOCK_GATE)
    b.unlock(LOCK_GATE)
    assert b.held_by_other(LOCK_GATE), "another's lock can't be let go"
    a.unlock(LOCK_GATE)
    a.unlock(LOCK_GATE)
    assert b.try_exclusive(LOCK_GATE)


def test_shared(path: str) -> None:
    a, b, c = handle(path), handle(path), handle(path)
    assert a.try_shared(LOCK_LIVE) and b.try_shared(LOCK_LIVE)
    assert not a.try_exclusive(LOCK_LIVE) and not c.try_exclusive(LOCK_LIVE)
    b.unlock(LOCK_LIVE)
    assert a.try_exclusive(LOCK_LIVE), "alone now: shared becomes exclusive"
    assert not b.try_shared(LOCK_LIVE)
    assert a.try_shared(LOCK_LIVE) and b.try_shared(LOCK_LIVE), "and shared again"


def test_closing_another_descriptor_loses_nothing(path: str) -> None:
    a, b = handle(path), handle(path)
    assert a.try_exclusive(LOCK_GATE)
    PosixFilesystem().open(path).close()
    with open(path) as other:
        other.read()
    assert not b.try_exclusive(LOCK_GATE)


def test_closing_lets_go(path: str) -> None:
    backend = PosixFilesystem().open(path)
    a, b = FileLocks(backend), handle(path)
    assert a.try_exclusive(LOCK_GATE)
    backend.close()
    assert b.try_exclusive(LOCK_GATE)
    with pytest.raises(ValueError, match="closed"):
        a.try_exclusive(LOCK_GATE)
    with pytest.raises(ValueError, match="closed"):
        a.unlock(LOCK_GATE)


def test_memory() -> None:
    backend = MemoryFilesystem().open("m", create=True)
    a, b = FileLocks(backend), FileLocks(backend.reopen())
    assert a.try_exclusive(LOCK_GATE) and not b.try_exclusive(LOCK_GATE)


def test_a_handle_that_may_not_write_shares_only(path: str) -> None:
    reader = FileLocks(PosixFilesystem().open(path, write=False))
    assert reader.try_shared(LOCK_PINS + 17)
    assert handle(path).held_by_other(LOCK_PINS + 17)
    with pytest.raises(OSError):
        reader.try_exclusive(LOCK_GATE)


def test_killed_processes_hold_nothing(path: str, children: Callable[[Callable[[], None]], int]) -> None:
    mine = handle(path)

    def hold() -> None:
        theirs = handle(path)
        theirs.writer_acquire(None)
        assert theirs.try_exclusive(LOCK_SLOTS)
        globals()["kept"] = theirs

    child = children(hold)
    assert not mine.writer_try() and mine.held_by_other(LOCK_SLOTS)
    os.kill(child, signal.SIGKILL)
    mine.writer_acquire(time.monotonic() + 5)
    assert not mine.held_by_other(LOCK_SLOTS)


def test_a_forked_child_neither_holds_nor_frees(path: str, children: Callable[[Callable[[], None]], int]) -> None:
    backend = PosixFilesystem().open(path)
    mine, other = FileLocks(backend), handle(path)
    mine.writer_acquire(None)

    def child() -> None:
        mine.writer_release()
        mine.unlock(LOCK_WRITER)
        with pytest.raises(ClosedError, match="fork"):
            mine.try_exclusive(LOCK_GATE)
        with pytest.raises(ClosedError, match="fork"):
            mine.writer_acquire(None)
        backend.close()
        fresh = handle(path)
        assert not fresh.writer_try()

    children(child)
    assert not other.writer_try(), "still the parent's"
    mine.writer_release()
    assert other.writer_try()


def test_conflicts(path: str) -> None:
    a, b, reader = handle(path), handle(path), FileLocks(PosixFilesystem().open(path, write=False))
    assert reader.first_conflict(LOCK_PINS, 1 << 40) is None
    for txn in (70, 5, 1 << 39):
        assert a.try_shared(LOCK_PINS + txn)
    for txn in (5, 6, 900):
        assert b.try_shared(LOCK_PINS + txn)
    found = sorted({start - LOCK_PINS for start, _ in reader.conflicts(LOCK_PINS, 1 << 40)})
    assert found in ([5, 6, 70, 900, 1 << 39], [5, 70, 900, 1 << 39]), "5 and 6 are b's neighbours: one lock"
    covered = {
        t for start, n in reader.conflicts(LOCK_PINS, 1000) for t in range(start - LOCK_PINS, start - LOCK_PINS + n)
    }
    assert covered == {5, 6, 70, 900}
    starts = [start for start, _ in reader.conflicts(LOCK_PINS, 1 << 40)]
    assert starts == sorted(starts)
    assert {start - LOCK_PINS for start, _ in a.conflicts(LOCK_PINS, 1000)} == {5, 900}, "one's own don't count"
    assert list(reader.conflicts(LOCK_PINS + 7, 60)) == []
    conflict = reader.first_conflict(LOCK_PINS + 100, 1 << 20)
    assert conflict == (LOCK_PINS + 900, 1)


def test_waiting_ends_at_the_deadline(path: str) -> None:
    a, b = handle(path), handle(path)
    assert a.try_exclusive(LOCK_GATE)
    began = time.monotonic()
    with pytest.raises(LockTimeout, match=r"expected|not to be had within 0\.\d s") as caught:
        b.acquire_exclusive(LOCK_GATE, began + 0.05, "the gate")
    assert "the gate" in str(caught.value) and path in str(caught.value) and "timeout=" in str(caught.value)
    assert time.monotonic() - began >= 0.05
    with pytest.raises(TimeoutError):
        b.acquire_shared(LOCK_GATE, began)
    a.unlock(LOCK_GATE)
    b.acquire_shared(LOCK_GATE, began)
    b.acquire_exclusive(LOCK_GATE, None)


def test_writer(path: str) -> None:
    a, b, c = handle(path), handle(path), handle(path)
    a.writer_acquire(None)
    assert not a.writer_waited() and not b.writer_try() and not a.held_by_other(LOCK_TURN)
    with pytest.raises(LockTimeout, match="writer lock"):
        b.writer_acquire(time.monotonic() + 0.01)
    assert not a.writer_waited(), "who gives up leaves the line"
    thread = threading.Thread(target=b.writer_acquire, args=(None,))
    thread.start()
    while not a.writer_waited():
        time.sleep(0.001)
    with pytest.raises(LockTimeout):
        c.writer_acquire(time.monotonic() + 0.01)
    a.writer_release()
    assert not a.writer_try() or not thread.is_alive(), "the one in line comes first"
    thread.join()
    assert c.held_by_other(LOCK_WRITER)
    b.writer_release()
    assert c.writer_try()


def test_writers_in_other_processes_take_turns(path: str) -> None:
    """Counts under the lock, and nobody starves."""
    Path(path).write_text("0")
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[float] = context.Queue()
    workers = [context.Process(target=contend, args=(path, 100, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    worst = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert int(Path(path).read_text()) == 300
    assert max(worst) < 3.0
