"""What a commit leaves behind when it fails before or after its record is in the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore.database.database import open_on
from mmstore.disk.posix import PosixFilesystem
from mmstore.engine import commit, recovery
from mmstore.engine.session import Options, Session
from mmstore.errors import LockTimeout


def test_a_full_log_whose_checkpoint_must_wait_too_long_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes a slow checkpoint just then: a LockTimeout for this commit, and no more."""
    path = str(tmp_path / "data.mms")
    options = Options(background=False, log_ring=16 << 10)
    with open_on(PosixFilesystem(), path, "c", options) as db:
        busy = True
        true = Session.hold_checkpoint

        @contextmanager
        def slow(session: Session) -> Iterator[None]:
            if busy:
                raise LockTimeout("another process is making a checkpoint")
            with true(session):
                yield

        db[b"first"] = b""  # makes the log
        monkeypatch.setattr(Session, "hold_checkpoint", slow)
        written = {b"first": b""}
        with pytest.raises(LockTimeout):
            for number in range(1000):
                key = b"%d" % number
                db[key] = key * 20
                written[key] = key * 20
        assert 10 < len(written) < 1000 and dict(db) == written
        busy = False
        db[b"more"] = written[b"more"] = b"goes on"
        assert dict(db) == written and db.check() == [] and not db.stats()["poisoned"]
    with mmstore.open(path) as db:
        assert dict(db) == written and db.check() == []


def test_a_commit_that_failed_behind_its_record_is_settled_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its own attempt to settle it failed."""
    path = str(tmp_path / "data.mms")
    with mmstore.open(path) as db:
        db[b"a"] = b"1"
        true_append, true_settle = commit.append, recovery.settle

        def append(*arguments: Any) -> Any:
            true_append(*arguments)
            raise MemoryError

        def settle(*arguments: Any) -> None:
            raise LockTimeout("another process is making a checkpoint")

        monkeypatch.setattr(commit, "append", append)
        monkeypatch.setattr(recovery, "settle", settle)
        with pytest.raises(LockTimeout):
            db[b"b"] = b"2"
        monkeypatch.setattr(commit, "append", true_append)
        monkeypatch.setattr(recovery, "settle", true_settle)
        db[b"c"] = b"3"
        assert dict(db) == {b"a": b"1", b"b": b"2", b"c": b"3"}, "its record was whole, so it counts"
        assert db.check() == [] and db.stats()["settled"] == 1
    with mmstore.open(path) as db:
        assert len(db) == 3 and db.check() == []
