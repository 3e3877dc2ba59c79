"""Tests of the tests: with a step of a protocol in the wrong order, or left out, power cuts must find what is lost.

Each way to break it goes with what processes must do for it to matter; the same without the break is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mmstore import format as fmt
from mmstore.database.transaction import Transaction
from mmstore.disk import log as log_module
from mmstore.disk.log import Log, Record
from mmstore.engine import checkpoint
from mmstore.engine.session import Session
from mmstore.engine.writer import Writer
from mmstore.errors import LockTimeout
from mmstore.pages.readers import Interval
from mmstore.pages.root import Header, Root
from powercut import RING, Bench, Content, Violation, laboratory, scaled
from scenario import Scenario

Break = Callable[[pytest.MonkeyPatch, Scenario], None]


def publish_before_sync(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    built = Writer.built

    def eager(self: Writer, root: Root) -> None:
        built(self, root)
        self.publish_relaxed()

    patch.setattr(Writer, "built", eager)


def publish_what_was_built_during_the_sync(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """The sync under way when its record was appended need not have taken it along."""
    publish = Writer._publish
    patch.setattr(Writer, "_publish", lambda self, batch: publish(self, list(self._pending)))


def acknowledge_before_sync(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    patch.setattr(Writer, "wait_durable", lambda self, txn: self.publish_relaxed())


def header_before_data(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    patch.setattr(checkpoint, "sync_data", lambda session: None)


def header_without_the_other(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """The newer header is not synced before pages of the older one's root are used again."""

    def hasty(session: Session, root: Root) -> None:
        at = 1 - session.live.get("durable_at")
        header = Header(session.identity.uuid, session.live.get("log_id"), root)
        session.store.write_header(fmt.HEADER_AT[at], header.pack(at))
        checkpoint.finish(session, root, at)

    patch.setattr(checkpoint, "write_header", hasty)


def place_of_a_commit_built_ahead(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """A checkpoint takes the root that is published, but the log's place behind a record that is not yet."""
    true = checkpoint.take_root

    def torn(session: Session, root: Root | None) -> Root:
        taken = true(session, root)
        for process in scenario.processes:
            if process.database is not None and root is None:
                for ahead in process.database.writer._pending:
                    taken = taken._replace(log_position=ahead.log_position, log_chain=ahead.log_chain)
        return taken

    patch.setattr(checkpoint, "take_root", torn)


def log_space_freed_too_early(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    true = checkpoint.take_root

    def generous(session: Session, root: Root | None) -> Root:
        taken = true(session, root)
        session.live.set("log_start", taken.log_position)
        return taken

    patch.setattr(checkpoint, "take_root", generous)


def pages_freed_too_early(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """What the durable root refers to is free as soon as a newer one is published."""

    def careless(self: Session) -> tuple[list[Interval], list[Interval]]:
        self.pins.drain()
        newest = [(self.live.txn, self.live.txn)]
        return newest, newest

    patch.setattr(Session, "needed", careless)


def records_without_the_chain(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """A record that is whole counts, whatever it was written behind."""

    def gullible(self: Log, position: int, chain: int, txn: int) -> Iterator[Record]:
        end = position + self.ring
        while (found := self._record(position, end)) is not None:
            yield found[1]
            position = found[1].position

    patch.setattr(Log, "replay", gullible)


def log_believed_unsynced(patch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """The log's name and content are not made durable before a header names it."""
    patch.setattr(log_module, "_sync", lambda how, path: None)


# --- what must go on for it to matter ---------------------------------------------------------------------


def usual(scenario: Scenario) -> None:
    scenario.run(20)


def commits_built_ahead(scenario: Scenario) -> None:
    """Two more threads append to the log while the record before theirs is being synced, and wait behind it."""
    (process,) = scenario.processes
    history = scenario.bench.history
    ahead: list[tuple[int, int]] = []
    sync = Log.sync

    def others() -> None:
        database = process.database
        assert database is not None
        if ahead or not database.writer._pending:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database.writer, "wait_durable", lambda txn: None)  # they wait, this thread goes on
            for _ in range(2):
                with database.transaction() as txn:
                    content = scenario.content.copy()
                    scenario.put(txn, content, 60)
                    ahead.append((history.begun(content, txn.txn_id), txn.txn_id))

    def syncing(log: Log) -> None:
        """Their records come just before what the disk takes along, or just behind."""
        ours = process.database is not None and log is process.database.session.log  # not that of an image
        before = ours and scenario.rng.random() < 0.3
        if before:
            others()
        sync(log)
        if ours and not before:
            others()

    scenario.open(process)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "sync", syncing)
        for _ in range(8):
            scenario.small(process)
            assert process.database is not None
            for index, txn in ahead:
                process.database.writer.wait_durable(txn)
                history.durable(index)
            ahead.clear()
    scenario.compare()
    scenario.close(process)


def checkpoints_in_the_middle_of_commits(scenario: Scenario) -> None:
    """Of a commit that is in the log and not yet synced."""
    inside = False

    def meanwhile(operation: str, name: str) -> None:
        nonlocal inside
        database = scenario.processes[0].database
        if operation == "sync_data" and not inside and database is not None:
            inside = True
            try:
                database.checkpoint()
            finally:
                inside = False

    scenario.bench.interlude = meanwhile
    scenario.run(8, dict.fromkeys(("too_large", "reopen", "leave", "checkpoint"), 0))


def commits_in_the_middle_of_checkpoints(scenario: Scenario) -> None:
    """As many as the log takes, of another process."""
    inside = full = False

    def meanwhile(operation: str, name: str) -> None:
        nonlocal inside, full
        maker = scenario.processes[0].database
        if inside or full or maker is None or maker.writer._holds or not maker.session.live.get("making"):
            return
        inside = True
        states = scenario.bench.history.states
        before = len(states)
        try:
            for _ in range(4):
                before = len(states)
                scenario.transaction(scenario.processes[1], lambda txn, content: scenario.put(txn, content, 900))
        except LockTimeout:  # the log is full, and the checkpoint under way is what would make room
            del states[before:]
            full = True
        finally:
            inside = False

    maker, other = scenario.processes
    for process in scenario.processes:
        scenario.open(process)
    scenario.bench.interlude = meanwhile
    for _ in range(2):
        for _ in range(3):
            scenario.small(maker)
        full = False
        scenario.checkpoint(maker)
    scenario.bench.interlude = None
    scenario.compare()
    for process in scenario.processes:
        scenario.close(process)


def laps(scenario: Scenario) -> None:
    """Records of one size, so that those of the lap before start where the next ones do."""
    size = 512 - fmt.LOG_RECORD.size - fmt.OP.size - len(b"k")
    (process,) = scenario.processes

    def put(number: int) -> None:
        def change(txn: Transaction, content: Content) -> None:
            txn[b"k"] = content.spaces[""][b"k"] = (b"%d" % number).ljust(size)

        scenario.transaction(process, change)

    scenario.open(process)
    for number in range(2 * RING // 512 + 12):
        scenario.bench.watching = number > 2 * RING // 512
        put(number)
    scenario.close(process)


BREAKS: list[tuple[Break, Callable[[Scenario], None], int]] = [  # and how many processes
    (publish_before_sync, usual, 1),
    (publish_what_was_built_during_the_sync, commits_built_ahead, 1),
    (acknowledge_before_sync, usual, 1),
    (header_before_data, usual, 1),
    (header_without_the_other, usual, 1),
    (place_of_a_commit_built_ahead, checkpoints_in_the_middle_of_commits, 1),
    (log_space_freed_too_early, commits_in_the_middle_of_checkpoints, 2),
    (pages_freed_too_early, usual, 1),
    (records_without_the_chain, laps, 1),
    (log_believed_unsynced, usual, 1),
]


def found(how: Break | None, scene: Callable[[Scenario], None], processes: int, seed: int) -> bool:
    """Whether power cuts find something wrong."""
    with laboratory(seed), pytest.MonkeyPatch.context() as patch:
        bench = Bench(seed, images=2 if how else 1, continue_share=0.0)
        scenario = Scenario(bench, seed, processes)
        if how is not None:
            how(patch, scenario)
        try:
            scene(scenario)
        except Violation:
            return True
        finally:
            bench.shut()
        assert bench.judged > 20
        return False


@pytest.mark.parametrize(("how", "scene", "processes"), BREAKS, ids=[how.__name__ for how, _, _ in BREAKS])
def test_a_broken_order_is_found(how: Break, scene: Callable[[Scenario], None], processes: int) -> None:
    assert any(found(how, scene, processes, seed) for seed in range(6)), "nobody noticed"


@pytest.mark.parametrize(("scene", "processes"), sorted({(scene, n) for _, scene, n in BREAKS}, key=str))
def test_the_right_order_is_sound(scene: Callable[[Scenario], None], processes: int) -> None:
    assert not any(found(None, scene, processes, seed) for seed in range(scaled(2)))
