"""What is on the medium between commits (I3): one root in both headers, and records that no other writer continues."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmstore
from mmstore import format as fmt
from mmstore.database import check
from mmstore.database.database import Database
from mmstore.engine import checkpoint
from mmstore.engine.session import Session
from mmstore.pages.freefile import Held
from mmstore.pages.root import Header, Root


def copied(path: Path, to: Path) -> Path:
    """The files as they are now, as after the death of all."""
    for suffix in ("", fmt.WAL_SUFFIX):
        Path(f"{to}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    return to


@pytest.mark.parametrize("damaged", [0, 1])
def test_either_header_is_enough_though_older_pages_are_used_again(path: Path, tmp_path: Path, damaged: int) -> None:
    """With the root before last in the other header, the store would come back in a state that is no more."""
    with mmstore.open(path, durability="relaxed") as db:
        db.update({b"%d" % n: b"v" * 100 for n in range(300)})
        db.checkpoint()
        for digit in (b"w", b"x"):
            for n in range(300):
                db[b"%d" % n] = digit * 100
            db.checkpoint()
        for n in range(200):
            db[b"%d" % n] = b"y" * 100
        expected = dict(db)
        twin = copied(path, tmp_path / "twin.mms")
    with open(twin, "r+b") as file:
        file.seek(fmt.HEADER_AT[damaged])
        file.write(bytes(fmt.HEADER.size))
    with mmstore.open(twin) as again:
        assert dict(again) == expected and again.check() == []


def test_the_first_record_of_each_taker_of_the_lock_has_a_nonce(path: Path) -> None:
    """Else a commit repeated word for word would be continued by what a dead writer had built upon the first."""
    with mmstore.open(path) as one, mmstore.open(path) as two:

        def put(db: Database) -> int:
            root = db.session.published()
            db[b"k"] = b"v"
            log = db.session.current_log()
            assert log is not None
            (record,) = log.replay(root.log_position, root.log_chain, root.txn)
            return record.nonce

        nonces = [put(db) for db in (one, two, one, one, two)]
    assert all(nonces) and len(set(nonces)) == 5  # with nobody waiting the lock is let go of after each commit


def test_who_makes_a_checkpoint_finishes_a_dead_ones_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header may be durable: until the next one is, runs of its root must not be used again."""
    with mmstore.open(path, durability="relaxed") as db:
        db[b"k"] = b"v"
        session = db.session
        root = session.published()
        session.live.set("making", root.txn)  # a maker got as far as its header, and died
        at = 1 - session.live.get("durable_at")
        checkpoint.place_header(session, at, Header(session.identity.uuid, session.live.get("log_id"), root))
        assert session.live.get("durable") < root.txn
        db[b"k"] = b"w"
        found = []
        true = checkpoint.take_root

        def watched(session: Session, newest: Root | None) -> Root:
            found.append((session.live.get("making"), session.live.get("durable")))
            return true(session, newest)

        monkeypatch.setattr(checkpoint, "take_root", watched)
        db.checkpoint()
        assert found == [(0, root.txn)] and session.live.get("durable") == db.txn_id


def test_check_tells_of_pages_in_two_places(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmstore.open(path) as db:
        db[b"large"] = bytes(100_000)
        page = db.snapshot().state.main.locate(b"large")[0] // 4096
        true = check.load_entries
        monkeypatch.setattr(check, "load_entries", lambda *given: [*true(*given), Held(page, 2, 0, 0, fmt.FREE_BULK)])
        (problem,) = db.check()
        assert problem.page == page and "2 pages" in problem.message and "free runs" in problem.message
        monkeypatch.undo()
        assert db.check() == []
