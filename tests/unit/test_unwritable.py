"""Handles on a file that they may not write: nothing that others do, or die of, changes what they show (I2)."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore import format as fmt
from mmstore.database.database import Database
from mmstore.disk.posix import PosixFilesystem
from mmstore.pages.pins import Pins

SOME = {b"%d" % n: b"v" * 100 for n in range(300)}


def open_unwritable(path: Path) -> Database:
    """A handle of a user who may only read the file (root may write any)."""
    true = PosixFilesystem.open

    def denied(self: PosixFilesystem, path: str, *, write: bool = True, **options: Any) -> Any:
        if write:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return true(self, path, write=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PosixFilesystem, "open", denied)
        return mmstore.open(path, "r")


class Killed:
    """A process that opens the store, does something, and is killed later."""

    def __init__(self, path: Path, action: Callable[[Database], object]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                action(mmstore.open(path, durability="relaxed"))
                os.write(writing, b"!")
                signal.pause()
            finally:
                os._exit(1)
        os.close(writing)
        assert os.read(reading, 1)
        os.close(reading)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def much(db: Database) -> None:
    """Commits behind the durable root, on pages that it knows as free."""
    db.update(SOME)
    db.checkpoint()
    for n in range(300):
        db[b"%d" % n] = b"w" * 100
    db[b"large"] = b"L" * 200_000


def test_the_death_of_the_last_writer_changes_nothing_under_its_readers(path: Path) -> None:
    writer = Killed(path, much)
    with open_unwritable(path) as reader:
        snapshot, view = reader.snapshot(), reader.view(b"large")
        expected = dict(snapshot)
        assert len(expected) == 301 and expected[b"7"] == b"w" * 100
        writer.kill()
        with mmstore.open(path, durability="relaxed") as another:
            assert dict(another) == expected
            for n in range(600):
                another[b"%d" % (n % 300)] = b"x" * 100
            another[b"large"] = b"M" * 200_000
            another[b"more"] = b"N" * 200_000
            assert dict(snapshot) == expected and view == b"L" * 200_000
            assert dict(reader) == dict(another)
            snapshot.close()
            del view
            assert another.check() == []
            newest = dict(another)
        assert dict(reader) == newest  # a close that isn't the last
    with mmstore.open(path) as last:
        assert dict(last) == newest and last.check() == []
    assert os.listdir(path.parent) == ["data.mms"]


def crashed(path: Path) -> dict[bytes, bytes]:
    """Leave a store that needs recovery, after a power cut: its live page is garbage."""
    Killed(path, much).kill()
    with open(path, "r+b") as file:
        file.seek(fmt.LIVE_AT)
        file.write(b"garbage " * (fmt.LIVE_SIZE // 8))
    return SOME | {b"%d" % n: b"w" * 100 for n in range(300)} | {b"large": b"L" * 200_000}


def test_a_recovery_in_memory_survives_a_fork(path: Path) -> None:
    expected = crashed(path)
    with open_unwritable(path) as reader, reader.snapshot() as snapshot:
        view = reader.view(b"large")
        child = os.fork()
        if not child:
            try:
                right = dict(reader) == dict(snapshot) == expected and reader.check() == []
                reader.close()
                os._exit(0 if right and view == expected[b"large"] else 2)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert dict(reader) == dict(snapshot) == expected and view == expected[b"large"]


def test_the_child_of_a_recovery_in_memory_does_not_vouch_for_the_live_page(path: Path) -> None:
    expected = crashed(path)
    with open_unwritable(path) as reader:
        assert dict(reader) == expected
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(writing)
                os.read(reading, 1)
            finally:
                os._exit(0)
        os.close(reading)
        with mmstore.open(path) as writer:  # must not take it for the state of a session that goes on
            assert dict(writer) == expected
            writer[b"k"] = b"v"
            assert writer.check() == []
        os.close(writing)
        os.waitpid(child, 0)
        assert dict(reader) == expected


def test_waiting_for_a_commit(path: Path) -> None:
    """He can't make himself known, and looks."""
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
        with open_unwritable(path) as reader:
            seen = reader.txn_id
            assert reader.wait(timeout=0.05) == seen
            thread = threading.Timer(0.1, db.put, (b"k", b"w"))
            thread.start()
            assert reader.wait(seen, timeout=60) == seen + 1
            thread.join()


def test_a_pin_by_a_lock_byte_is_of_the_newest_root(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have no grace: between the root and its lock byte a commit may free one, and the next use it again."""
    with mmstore.open(path, durability="relaxed") as writer:
        writer[b"k"] = b"v"
        writer.checkpoint()
        writer[b"large"] = b"1" * 100_000
        with open_unwritable(path) as reader:
            pins: Pins = reader.session.pins
            true, busy = pins._read_root, [b"2", b"3"]

            def slow() -> Any:
                root = true()
                for digit in busy:
                    writer[b"large"] = digit * 100_000
                busy.clear()
                return root

            monkeypatch.setattr(pins, "_read_root", slow)
            with reader.snapshot() as snapshot:
                assert snapshot.txn_id == writer.txn_id and snapshot[b"large"] == b"3" * 100_000


@pytest.mark.parametrize("forked", [False, True])
def test_the_file_is_not_cut_under_what_was_recovered_in_memory(path: Path, forked: bool) -> None:
    """Cutting a file takes private copies of its pages from a mapping, too: the next look would be a signal."""

    def much_and_little(db: Database) -> None:
        db[b"large"] = bytes(9_000_000)
        db.checkpoint()
        del db[b"large"]
        for n in range(100):
            db[b"k"] = b"%d" % n
        db.checkpoint()  # from here on the file's end is free, for whoever recovers
        db.update({b"%d" % n: b"%d" % n * 100_000 for n in range(9)})

    Killed(path, much_and_little).kill()
    size = path.stat().st_size
    reader = open_unwritable(path)
    expected = {b"%d" % n: b"%d" % n * 100_000 for n in range(9)} | {b"k": b"99"}
    assert dict(reader) == expected
    reading, writing = os.pipe()
    child = os.fork() if forked else 0
    if forked and not child:
        try:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0 if dict(reader) == expected else 2)
        finally:
            os._exit(1)
    if forked:
        reader.close()  # the child's descriptor is enough
    with mmstore.open(path) as writer:
        assert dict(writer) == expected
        writer.clear()
        for n in range(100):
            writer[b"k"] = b"%d" % n
        writer.checkpoint()
    assert path.stat().st_size >= size
    os.close(reading)
    os.close(writing)
    if forked:
        assert os.waitpid(child, 0)[1] == 0
    else:
        assert dict(reader) == expected
        reader.close()
    with mmstore.open(path) as writer:
        writer[b"k"] = b"last"
    assert path.stat().st_size < size // 2
