"""What a crash leaves of a file in the making is removed by the next, and never what another is making."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore import format as fmt
from mmstore.database.database import Database, open_on
from mmstore.disk.locks import FileLocks
from mmstore.disk.log import Log
from mmstore.disk.newfile import making, temporary
from mmstore.disk.posix import PosixBackend, PosixFilesystem
from mmstore.engine.session import Options
from simdisk import SimCrash, SimFilesystem

PATH = "/d/data.mms"
OPTIONS = Options(background=False, log_ring=64 << 10)


def steps_of(fs: SimFilesystem, flag: str) -> range:
    """The steps of making a store."""
    before = fs.steps
    open_on(fs, PATH, flag, OPTIONS).close()
    names = [name for _, name in fs.trace[before:]]
    return range(before, before + max(i for i, name in enumerate(names) if name == temporary(PATH)) + 2)


@pytest.mark.parametrize("flag", ["c", "n"])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_a_crash_while_a_store_is_made_leaves_nothing_behind(flag: str, power: bool) -> None:
    def begun() -> SimFilesystem:
        fs = SimFilesystem()
        if flag == "n":
            with open_on(fs, PATH, "c", OPTIONS) as db:
                db[b"k"] = b"old"
        return fs

    left = 0
    for k in steps_of(begun(), flag):
        fs = begun()
        fs.crash_at, fs.torn = k, random.Random(k)
        with pytest.raises(SimCrash):
            open_on(fs, PATH, flag, OPTIONS)
        fs.kill()
        for found in fs.crash_images(random.Random(k), 4) if power else [fs.spawn()]:
            left += found.exists(temporary(PATH))
            with open_on(found, PATH, "w" if found.exists(PATH) else "c", OPTIONS) as db:
                assert dict(db) in ({}, {b"k": b"old"}) and db.check() == []
            assert list(found.disk.names) == [PATH]
    assert left > 3


def test_a_crash_while_a_log_is_made_leaves_nothing_behind() -> None:
    def steps(crash_at: int | None) -> tuple[SimFilesystem, Database, int]:
        fs = SimFilesystem()
        db = open_on(fs, PATH, "c", OPTIONS)
        before, fs.crash_at, fs.torn = fs.steps, crash_at, random.Random(crash_at)
        return fs, db, before

    log, left = PATH + fmt.WAL_SUFFIX, 0
    fs, db, before = steps(None)
    db[b"k"] = b"v"
    db.close()
    renamed = fs.trace.index(("rename", log))
    for k in range(before, renamed + 1):
        fs, db, _ = steps(k)
        with pytest.raises(SimCrash):
            db[b"k"] = b"v"
        fs.kill()
        db.disown()
        for found in fs.crash_images(random.Random(k), 3):
            left += found.exists(temporary(log))
            with open_on(found, PATH, "r", OPTIONS) as again:
                assert len(again) == 0
            assert list(found.disk.names) == [PATH]
    assert left > 3


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data.mms")


def test_a_living_maker_is_waited_for_and_left_alone(path: str) -> None:
    fs = PosixFilesystem()
    mmstore.open(path).close()
    for made in (path, f"{path}-wal"):
        with making(fs, made, 0) as backend:
            with mmstore.open(path) as db, mmstore.open(path):
                assert os.path.exists(temporary(made)) and len(db) == 0
            with pytest.raises(mmstore.LockTimeout, match="make this file"):
                mmstore.open(path, "n", timeout=0) if made == path else Log.create(fs, made, 1, bytes(16), timeout=0)
            assert fs.identity(temporary(made)) == backend.identity()
            fs.unlink(temporary(made))
        backend.close()
    with mmstore.open(path, "n") as db:
        db[b"k"] = b"v"
    assert os.listdir(os.path.dirname(path)) == ["data.mms"]


def test_a_maker_whose_file_is_taken_for_a_dead_ones_makes_another(path: str) -> None:
    """Between its making and the lock another looks: it has the lock then, and removes the file."""

    class Quick(PosixFilesystem):
        strikes = 2

        def open(self, path: str, **options: Any) -> PosixBackend:
            backend = super().open(path, **options)
            if options.get("exclusive") and self.strikes:
                self.strikes -= 1
                other = super().open(path)
                locks = FileLocks(other)
                assert locks.try_exclusive(fmt.LOCK_MAKER)
                self.unlink(path)
                if self.strikes:
                    others.append(other)  # has not closed it yet
                else:
                    other.close()
            return backend

    others: list[PosixBackend] = []
    fs = Quick()
    with making(fs, path, 5) as backend:
        backend.pwrite(b"whole", 0)
        fs.rename(temporary(path), path)
    backend.close()
    assert Path(path).read_bytes() == b"whole" and fs.strikes == 0
    others[0].close()


def test_what_fails_leaves_nothing_and_holds_nobody_up(path: str) -> None:
    fs = PosixFilesystem()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), making(fs, path, 0):
            raise ZeroDivisionError
    assert os.listdir(os.path.dirname(path)) == []


def test_what_cannot_be_removed_does_not_keep_a_store_from_opening(path: str) -> None:
    with mmstore.open(path) as db:
        db[b"k"] = b"v"
    os.mkdir(temporary(path))
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"v"}
    with pytest.raises(OSError, match="data.mms-unfinished"):
        mmstore.open(path, "n")
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"v"}


def test_a_store_that_is_built_to_take_anothers_place_is_nobodys_left_over(path: str) -> None:
    mmstore.open(path).close()
    for name in (f"{path}-new", f"{path}.new", f"{path}.tmp"):
        with mmstore.open(name) as db:
            db[b"k"] = b"v"
    with mmstore.open(path), mmstore.open(path, "n"):
        pass
    os.rename(f"{path}-new", path)
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"v"}


def test_many_make_one_store_at_once(path: str) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                with mmstore.open(path, "cn"[number % 2], durability="relaxed", timeout=60) as db:
                    db[b"%d" % number] = b"v"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert errors == []
    with mmstore.open(path) as db:
        assert db.check() == []
    assert os.listdir(os.path.dirname(path)) == ["data.mms"]


def test_a_log_is_not_removed_in_the_place_of_which_another_lies_by_now(path: str) -> None:
    """Its store is closed while another store, which has taken the data file's name, makes its own log there."""
    threads: list[threading.Thread] = []

    class Raced(PosixFilesystem):
        def unlink(self, path: str) -> None:
            if not threads:
                threads.append(threading.Thread(target=lambda: made.append(Log.create(PosixFilesystem(), path, 2, B))))
                threads[0].start()
                threads[0].join(0.3)  # it has to wait; as long as it does nothing is to be seen
            super().unlink(path)

    A, B = b"\xaa" * 16, b"\xbb" * 16
    made: list[Any] = []
    fs = Raced()
    log = Log.create(fs, path, 1, A)
    assert log.unlink_if_ours(fs, path)
    threads[0].join(60)
    assert made[0].is_ours(fs, path) and os.listdir(os.path.dirname(path)) == ["data.mms"]
    made[0].close()
    log.close()
