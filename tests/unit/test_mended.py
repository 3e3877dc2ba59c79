"""Faults of the commit path that a review found: each of these failed while its fault was there."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest

import mmstore
from mmstore.disk.log import Log
from mmstore.engine.session import Session


def test_nobody_sees_what_is_not_durable_yet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a transaction of the same handle that only reads: its base is the pending root, and it ends at once."""
    syncing, go, ended = threading.Event(), threading.Event(), threading.Event()
    true = Log.sync

    def slow(log: Log) -> None:
        syncing.set()
        go.wait(60)
        true(log)

    with mmstore.open(path) as db:
        db[b"k"] = b"old"
        monkeypatch.setattr(Log, "sync", slow)
        found: list[bytes] = []

        def write() -> None:
            db[b"k"] = b"new"

        def read() -> None:
            with db.transaction() as txn:
                found.append(txn[b"k"])
            ended.set()

        writer, reader = threading.Thread(target=write), threading.Thread(target=read)
        writer.start()
        assert syncing.wait(60)
        reader.start()
        seen_early = ended.wait(0.3) and found == [b"new"]
        go.set()
        writer.join(60)
        reader.join(60)
        assert not seen_early, "a power cut now would take back what the transaction has shown"


def test_two_threads_open_the_log_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One closes the other's between `current_log()` and the sync: a ValueError out of a sync() or a commit."""
    true = Session.open_log
    logs: list[Log | None] = []
    with mmstore.open(path) as one, mmstore.open(path) as two:
        one[b"k"] = b"v"  # another handle made the log: `two` has to open it

        def opening(session: Session, log_id: int) -> Log:
            if session is two.session and not logs:
                logs.append(None)
                logs.append(session.current_log())  # the other thread: here is what it goes on with
            return true(session, log_id)

        monkeypatch.setattr(Session, "open_log", opening)
        two.sync()
        monkeypatch.undo()
        log = logs[1]
        assert log is not None and log is not two.session.log
        two.session.sync(log.sync)
        one[b"k"] = b"w"


def test_after_a_failed_sync_an_open_relaxed_transaction_is_not_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7: it began before the sync failed, and needs none itself."""
    with mmstore.open(path) as one, mmstore.open(path, durability="relaxed") as two:
        one[b"k"] = b"v"
        txn = two.transaction()
        txn[b"k"] = b"w"

        def fails(log: Log) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch, pytest.raises(mmstore.SyncError):
            patch.setattr(Log, "sync", fails)
            one.sync()
        with pytest.raises(mmstore.SyncError):
            txn.commit()
        assert one[b"k"] == two[b"k"] == b"v"


def test_on_a_full_disk_each_deletion_finds_room(path: Path) -> None:
    """Of hundreds of deletions one by one, some raise DiskFullError (and succeed when they are asked for again)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with mmstore.open(path, durability="relaxed") as db:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, hard))
        try:
            number = 0
            with pytest.raises(mmstore.DiskFullError):
                while True:
                    db[b"large%d" % number] = bytes(100_000)
                    number += 1
            with pytest.raises(mmstore.DiskFullError):
                while True:
                    db[b"small%d" % number] = bytes(1000)
                    number += 1
            failed = 0
            for key in list(db):
                try:
                    del db[key]
                except mmstore.DiskFullError:
                    failed += 1
                    del db[key]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert db.check() == [] and not len(db)
    assert failed == 0
