"""Handles across fork, spawn and the end of the interpreter (I9), at every moment that matters."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmstore
import workers
from children import Forked, environment, in_fork
from mmstore.database.database import Database
from mmstore.disk import libc, mapping

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # with threads, as here on purpose
]


@pytest.fixture(params=["file", "memory"])
def db(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A store with something of every kind in it."""
    path = ":memory:" if request.param == "memory" else tmp_path / "data.mms"
    with mmstore.open(path, durability="relaxed", timeout=5) as database:
        database.update({b"k": b"v", b"large": b"x" * 200_000})
        database.keyspace("users").update({b"%d" % n: b"u" * n for n in range(500)})
        database.create_table("numbers", {"n": "i8"}).append({"n": np.arange(10_000)})
        yield database
        if database._session is not None:
            assert database.check() == []


def works(db: Database, tag: bytes) -> None:
    """Everything that a handle can do, it can do."""
    assert db[b"k"] == b"v" and db.view(b"large") == b"x" * 200_000 and len(db.keyspace("users")) >= 500
    assert db.table("numbers")["n"][:10_000].tolist() == list(range(10_000))
    with db.snapshot() as snapshot:
        before = dict(snapshot)
        with db.transaction() as txn:
            txn[b"by" + tag] = tag
            txn.keyspace("users")[tag] = tag * 1000
            with contextlib.suppress(ZeroDivisionError), txn.savepoint():
                txn.clear()
                raise ZeroDivisionError
            txn.table("numbers").append({"n": [int.from_bytes(tag[:4], "little")]})
        assert dict(snapshot) == before
    assert db[b"by" + tag] == tag and db.keyspace("users")[tag] == tag * 1000
    for _ in range(80):
        db[b"churn"] = tag * 3000
    db.checkpoint()
    assert db.check() == []


def test_a_child_goes_on_and_so_does_the_parent(db: Database) -> None:
    in_fork(lambda: works(db, b"child"))
    works(db, b"parent")
    assert db[b"bychild"] == b"child"


def test_the_child_closes_first_or_last(db: Database) -> None:
    def child() -> None:
        works(db, b"child")
        db.close()

    in_fork(child)
    works(db, b"parent")
    gone, wait = os.pipe()
    last = Forked(lambda: (os.close(wait), os.read(gone, 1), works(db, b"last"), db.close()))
    works(db, b"again")
    path, memory = db.path, db.session.options.in_memory
    db.close()
    os.close(wait)
    last.join()
    os.close(gone)
    if not memory:
        with mmstore.open(path) as reopened:
            assert reopened[b"bylast"] == b"last" and reopened.check() == []
        assert os.listdir(os.path.dirname(path)) == ["data.mms"]


def test_both_write_at_the_same_time(db: Database) -> None:
    rounds = 60

    def add(name: bytes) -> None:
        for _ in range(rounds):
            with db.transaction(30) as txn:
                txn[b"sum"] = b"%d" % (int(txn.get(b"sum", b"0")) + 1)
                txn[name] = os.urandom(3000)

    children = [Forked(lambda name=b"%d" % n: add(name)) for n in range(3)]
    add(b"parent")
    for child in children:
        child.join()
    assert db[b"sum"] == b"%d" % (4 * rounds) and db.check() == []


# --- inside a transaction ----------------------------------------------------------------------------


def test_an_inherited_transaction_is_closed_and_the_parents_goes_on(db: Database) -> None:
    with db.transaction() as txn:
        txn[b"mine"] = b"1"
        space = txn.keyspace("users")
        table = txn.table("numbers")
        table.append({"n": [1]})
        items = iter(space.items())
        next(items)

        def child() -> None:
            for call in (
                lambda: txn[b"mine"],
                lambda: txn.put(b"mine", b"2"),
                lambda: txn.commit(),
                lambda: space.get(b"1"),
                lambda: space.put(b"1", b""),
                lambda: next(items),
                lambda: len(txn),
                lambda: table["n"],
                lambda: table.append({"n": [2]}),
                lambda: txn.__exit__(None, None, None),
            ):
                with pytest.raises(mmstore.ClosedError, match="inherited|fork"):
                    call()
            txn.rollback()
            assert b"mine" not in db and db[b"k"] == b"v"
            with pytest.raises(mmstore.LockTimeout):  # the parent's is open
                db.transaction(timeout=0.1)

        in_fork(child)
        txn[b"mine"] = b"3"
    assert db[b"mine"] == b"3" and len(db.table("numbers")) == 10_001
    works(db, b"parent")


def test_a_child_of_a_with_block_leaves_it_with_an_error_and_changes_nothing(db: Database) -> None:
    """The block itself ends in both processes; only the parent's commits."""
    read, write = os.pipe()
    try:
        with db.transaction() as txn:
            txn[b"mine"] = b"1"
            pid = os.fork()
    except mmstore.ClosedError:
        os.write(write, b"closed")
        os._exit(0)
    except BaseException:
        os._exit(1)
    if pid == 0:
        os.write(write, b"committed")
        os._exit(1)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.read(read, 100) == b"closed" and db[b"mine"] == b"1"
    os.close(read)


def test_the_child_writes_when_the_parents_transaction_ends(db: Database) -> None:
    txn = db.transaction()
    txn[b"mine"] = b"1"
    child = Forked(lambda: db.put(b"childs", b"2"))
    time.sleep(0.1)
    txn.commit()
    child.join()
    assert db[b"mine"] == b"1" and db[b"childs"] == b"2"


def test_a_fork_inside_a_savepoint_and_a_rollback(db: Database) -> None:
    with db.transaction() as txn:
        txn[b"a"] = b"1"
        with contextlib.suppress(ZeroDivisionError), txn.savepoint():
            txn[b"a"] = b"2" * 100_000
            in_fork(lambda: db[b"k"])
            raise ZeroDivisionError
        in_fork(lambda: db[b"k"])
        assert txn[b"a"] == b"1"
    txn = db.transaction()
    txn[b"b"] = b"1"
    in_fork(lambda: db.close())
    txn.rollback()
    assert db[b"a"] == b"1" and b"b" not in db


# --- with pins alive ---------------------------------------------------------------------------------


def test_snapshots_and_views_live_on_in_the_child(db: Database) -> None:
    snapshot, kept = db.snapshot(), [db.view(b"large"), db.table("numbers")["n"]]
    expected = dict(snapshot)
    go, wait = os.pipe()

    def child() -> None:
        os.close(wait)
        os.read(go, 1)
        view, column = kept
        assert dict(snapshot) == expected and view == b"x" * 200_000
        assert column.tolist() == list(range(10_000))
        for n in range(150):
            db[b"large"] = bytes([n]) * 200_000
        assert view == b"x" * 200_000 and dict(snapshot) == expected and snapshot.view(b"large") == view
        snapshot.close()
        assert view == b"x" * 200_000 and (column == np.arange(10_000)).all() and db.check() == []

    forked = Forked(child)
    os.close(go)
    snapshot.close()
    kept.clear()
    gc.collect()
    db[b"large"] = b"y" * 200_000
    db.drop("numbers")
    for n in range(150):
        db[b"churn%d" % (n % 3)] = bytes([n]) * 200_000
    os.close(wait)
    forked.join()
    assert db[b"large"] == bytes([149]) * 200_000 and db.readers() == [] and db.check() == []


def test_the_parents_pins_survive_the_childs_end(db: Database) -> None:
    snapshot, view = db.snapshot(), db.view(b"large")
    expected = dict(snapshot)

    def child() -> None:
        snapshot.close()
        db.close()

    in_fork(child)
    in_fork(lambda: None)
    assert len(db.readers()) == 1
    for n in range(150):
        db[b"large"] = bytes([n]) * 200_000
    assert view == b"x" * 200_000 and dict(snapshot) == expected
    snapshot.close()
    del view
    gc.collect()
    assert db.readers() == []


def test_pins_are_listed_for_both(db: Database) -> None:
    with db.snapshot():
        go, wait = os.pipe()
        child = Forked(lambda: (os.close(wait), os.read(go, 1)))
        os.close(go)
        deadline = time.monotonic() + 10
        while {info.pid for info in db.readers()} != {os.getpid(), child.pid} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(info.own for info in db.readers()) == [False, True]
        assert {info.pid for info in db.readers()} == {os.getpid(), child.pid}
        os.close(wait)
        child.join()
        assert [info.pid for info in db.readers()] == [os.getpid()]


def test_an_iterator_goes_on_in_both(db: Database) -> None:
    items = iter(db.keyspace("users").items())
    seen = dict(next(items) for _ in range(100))
    everything = dict(db.keyspace("users"))

    def child() -> None:
        for _ in range(40):  # 80 commits: more than the grace of what is read without a pin
            db.keyspace("users").clear()
            db.keyspace("users").update(everything)
        assert {**seen, **dict(items)} == everything

    in_fork(child)
    assert {**seen, **dict(items)} == everything


# --- relations ---------------------------------------------------------------------------------------


def test_grandchildren(db: Database) -> None:
    view = db.view(b"large")

    def child() -> None:
        db[b"child"] = b"1"

        def grandchild() -> None:
            assert view == b"x" * 200_000 and db[b"child"] == b"1"
            works(db, b"grandchild")
            in_fork(lambda: works(db, b"great"))

        in_fork(grandchild)
        assert db[b"bygreat"] == b"great" and view == b"x" * 200_000

    in_fork(child)
    assert db[b"bygrandchild"] == b"grandchild" and view == b"x" * 200_000


def test_many_children_at_once(db: Database) -> None:
    snapshot = db.snapshot()
    expected = dict(snapshot)
    children = [Forked(lambda n=n: db.put(b"child%d" % n, dict(snapshot)[b"k"])) for n in range(12)]
    for child in children:
        child.join()
    assert dict(snapshot) == expected and len(db) == len(expected) + 12
    snapshot.close()


@pytest.mark.parametrize("both", [True, False])
def test_the_child_goes_on_when_its_parent_is_killed(tmp_path: Path, both: bool) -> None:
    """With a view and a snapshot, or the view alone, and the parent inside a transaction."""
    path, report = tmp_path / "data.mms", tmp_path / "report"
    script = f"""
import os, signal, sys, time, traceback
import mmstore
db = mmstore.open({str(path)!r}, timeout=10)
db[b"large"] = b"x" * 200_000
snapshot, view = db.snapshot(), db.view(b"large")
if not {both}:
    snapshot.close()
txn = db.transaction()
txn[b"lost"] = b"1"
parent = os.getpid()
if os.fork():
    time.sleep(60)
try:
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.001)
    for n in range(100):
        db[b"large"] = bytes([n]) * 200_000
    assert view == b"x" * 200_000 and b"lost" not in db
    assert not {both} or snapshot[b"large"] == view
    assert db.check() == []
    del view
    snapshot.close()
    db.close()
    answer = "good"
except BaseException:
    answer = traceback.format_exc()
with open({str(report)!r} + "~", "w") as file:
    file.write(answer)
os.rename({str(report)!r} + "~", {str(report)!r})
os._exit(0)
"""
    parent = subprocess.run([sys.executable, "-c", script], env=environment(), timeout=60)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not report.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert report.read_text() == "good"
    with mmstore.open(path) as db:
        assert db[b"large"] == bytes([99]) * 200_000 and b"lost" not in db and db.check() == []
    assert sorted(os.listdir(tmp_path)) == ["data.mms", "report"]


def test_closed_handles_and_several_stores(db: Database, tmp_path: Path) -> None:
    closed = mmstore.open(tmp_path / "closed.mms")
    closed.close()
    with mmstore.open(tmp_path / "other.mms") as other, mmstore.open(":memory:") as memory:
        other[b"k"] = memory[b"k"] = b"v"

        def child() -> None:
            works(db, b"child")
            other[b"child"] = memory[b"child"] = b"1"
            with mmstore.open(tmp_path / "new.mms") as new:
                new[b"k"] = b"v"
            with pytest.raises(mmstore.ClosedError):
                closed[b"k"]

        in_fork(child)
        assert other[b"child"] == memory[b"child"] == b"1"
        assert db[b"bychild"] == b"child"


def test_a_twin_in_the_same_process(db: Database) -> None:
    if db.session.options.in_memory:
        return  # it has no name to be opened by again
    with mmstore.open(db.path, "r") as reader, mmstore.open(db.path) as twin:
        view = reader.view(b"large")

        def child() -> None:
            twin[b"twin"] = b"1"
            assert reader[b"twin"] == b"1" == db[b"twin"] and view == b"x" * 200_000
            for handle in (reader, twin):
                handle.close()
            works(db, b"child")

        in_fork(child)
        assert reader[b"twin"] == b"1" and view == b"x" * 200_000


# --- threads -----------------------------------------------------------------------------------------


def test_forks_beside_busy_threads(db: Database) -> None:
    """Whatever lock or half-made change another thread has at the fork, the child works and nothing is damaged."""
    stop, failures = threading.Event(), []
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")

    def run(work: Any) -> None:
        rng = random.Random(seed)
        try:
            while not stop.is_set():
                work(rng)
        except BaseException as error:
            failures.append(error)

    def write(rng: random.Random) -> None:
        with db.transaction(30) as txn:
            for _ in range(rng.randrange(20)):
                txn[b"t%d" % rng.randrange(500)] = b"w" * rng.randrange(2000)

    def read(rng: random.Random) -> None:
        assert db[b"k"] == b"v" and sum(1 for _ in db.keyspace("users")) == 500
        view = db.view(b"large")
        assert view[rng.randrange(200_000)] == ord("x")

    def append(rng: random.Random) -> None:
        db.table("numbers").append({"n": np.zeros(rng.randrange(100), "i8")})
        assert db.table("numbers")["n"][5] == 5

    def upkeep(rng: random.Random) -> None:
        db.checkpoint()
        db.sync()
        time.sleep(rng.random() * 0.01)

    def child(n: int) -> None:
        assert db[b"k"] == b"v" and db.view(b"large") == b"x" * 200_000 and len(db.keyspace("users")) == 500
        assert db.table("numbers")["n"][:10_000].tolist() == list(range(10_000))
        with db.transaction(30) as txn:
            txn[b"child%d" % n] = b"%d" % n
        assert db[b"child%d" % n] == b"%d" % n
        if n % 5 == 0:
            assert db.check() == []
        if n % 2:
            db.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, read, append, upkeep)]
    for thread in threads:
        thread.start()
    try:
        for n in range(25):
            in_fork(lambda n=n: child(n))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == [] and {db[b"child%d" % n] for n in range(25)} == {b"%d" % n for n in range(25)}
    assert db.check() == []


def test_the_child_does_not_keep_what_other_threads_had_pinned(db: Database) -> None:
    stop = threading.Event()
    keys = [b"%d" % n for n in range(500)] * 20

    def read() -> None:
        while not stop.is_set():
            db.keyspace("users").get_many(keys)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        assert db.stats()["pins"] == 1  # stats' own snapshot
        assert [info.pins for info in db.readers() if info.own] in ([], [0])

    try:
        for _ in range(10):
            in_fork(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_a_fork_in_another_thread_while_this_one_has_a_transaction(db: Database) -> None:
    with db.transaction() as txn:
        txn[b"mine"] = b"1"

        def child() -> None:
            assert b"mine" not in db
            with pytest.raises(mmstore.ClosedError):
                txn[b"mine"]

        thread = threading.Thread(target=lambda: in_fork(child))
        thread.start()
        thread.join(30)
    assert db[b"mine"] == b"1"


def test_a_fork_while_another_handle_is_being_closed(db: Database, tmp_path: Path) -> None:
    others = [mmstore.open(tmp_path / f"{n}.mms") for n in range(4)]
    closing, entered, go = mmstore.open(tmp_path / "closing.mms"), threading.Event(), threading.Event()
    closing[b"k"] = b"v"
    more = [mmstore.open(tmp_path / f"{n}.mms") for n in range(4, 8)]
    true = closing.writer.finish

    def slowly() -> None:
        entered.set()
        go.wait(60)
        true()

    closing.writer.finish = slowly  # type: ignore[method-assign]
    thread = threading.Thread(target=closing.close)
    thread.start()
    entered.wait(60)

    def in_child() -> None:
        for handle in (*others, *more):
            handle[b"child"] = b"v"

    in_fork(in_child)
    go.set()
    thread.join(60)
    with mmstore.open(tmp_path / "closing.mms", timeout=1) as again:
        assert again[b"k"] == b"v"
    for handle in (*others, *more):
        assert handle[b"child"] == b"v"
        handle.close()


def test_a_fork_while_another_thread_maps_a_column(db: Database) -> None:
    def in_child() -> None:
        signal.alarm(60)  # rather than wait for ever
        assert db.table("numbers")["n"].sum() == sum(range(10_000))

    with mapping._budget_lock:
        child = Forked(in_child)
    child.join()


def test_a_child_of_a_waiter(db: Database) -> None:
    """The child's wait() is its own; the parent's sleeper is still woken."""
    seen = db.txn_id
    woken: list[int] = []
    thread = threading.Thread(target=lambda: woken.append(db.wait(seen, timeout=20)))
    thread.start()
    time.sleep(0.05)

    def child() -> None:
        assert db.wait(seen, timeout=0.05) == seen
        db[b"news"] = b"1"

    in_fork(child)
    thread.join(20)
    assert woken == [seen + 1]


# --- the end of the interpreter ----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)", "raise SystemExit(0)", "pass"])
@pytest.mark.parametrize("who", ["parent first", "child first"])
def test_exit_handlers_of_both_leave_the_store_whole(tmp_path: Path, end: str, who: str) -> None:
    path = tmp_path / "data.mms"
    script = f"""
import os, sys, time
import mmstore
db = mmstore.open({str(path)!r}, timeout=10)
db[b"large"] = b"x" * 200_000
view = db.view(b"large")
snapshot = db.snapshot()
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    if {who!r} == "parent first":
        os.close(write)
        os.read(read, 1)
    db[b"child"] = b"1"
    {end}
else:
    db[b"parent"] = b"1"
    if {who!r} == "child first":
        os.waitpid(pid, 0)
        db[b"after"] = b"1"
        assert view == b"x" * 200_000 == snapshot[b"large"]
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script],
        env=environment(),
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "Error" not in result.stderr, result.stderr
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the child may outlive its parent a little
        with mmstore.open(path, timeout=20) as db:
            found = dict(db)
            problems = db.check()
        assert problems == [] and found.pop(b"parent") == b"1" and found.pop(b"large") == b"x" * 200_000
        if b"child" in found:
            break
    assert b"child" in found and (b"after" in found) == (who == "child first")


def test_an_unclosed_store_is_closed_cleanly_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "data.mms"
    script = f"""
import mmstore
db = mmstore.open({str(path)!r})
db[b"k"] = b"v" * 100_000
view = db.view(b"k")
txn = db.transaction()
txn[b"lost"] = b""
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), timeout=60, check=True)
    assert os.listdir(tmp_path) == ["data.mms"]
    with mmstore.open(path) as db:
        assert dict(db) == {b"k": b"v" * 100_000} and db.check() == []


# --- spawn and pickle --------------------------------------------------------------------------------


def run_spawned(db: Database, action: str, method: str) -> Any:
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=workers.in_spawned, args=(db, answers, action))
    child.start()
    try:
        answer = answers.get(timeout=60)
        child.join(30)
        assert child.exitcode == 0, answer
    finally:
        child.kill()
        child.join()
        child.close()
        answers.close()
    return answer


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("action", ["read", "write"])
def test_handles_are_passed_to_children(db: Database, method: str, action: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        return
    found, view, numbers, problems = run_spawned(db, action, method)
    assert problems == [] and view == b"x" * 10 and numbers == list(range(10_000))
    assert found == dict(db) and (b"child" in db) == (action == "write")
    if action == "write":
        assert db.keyspace("spawned")[b"k"] == b"v" * 100_000
    works(db, b"parent")


def test_pickles_open_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mmstore.open("data.mms", "n", durability="relaxed", timeout=7) as db:
        db[b"k"] = b"v"
        data = pickle.dumps(db)
        monkeypatch.chdir("/")
        with pickle.loads(data) as twin:
            assert twin is not db and twin[b"k"] == b"v" and twin.path == db.path == str(tmp_path / "data.mms")
            assert twin.session.options == db.session.options
            twin[b"l"] = b"w"
            assert db[b"l"] == b"w"
    with mmstore.open(db.path, "r") as reader, pickle.loads(pickle.dumps(reader)) as twin:
        assert twin[b"k"] == b"v"
        with pytest.raises(mmstore.ReadOnlyError):
            twin[b"k"] = b"w"
    os.unlink(db.path)
    with pytest.raises(FileNotFoundError):  # "c" and "n" pickle as "w"
        pickle.loads(data)
    with mmstore.open(db.path), pytest.raises(mmstore.FormatError, match="another store"):
        pickle.loads(data)
    with pytest.raises(mmstore.ClosedError):
        pickle.dumps(db)


def test_a_pickle_remembers_that_the_network_was_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option travels: a child that multiprocessing spawns must not refuse what its parent has open."""
    path = tmp_path / "data.mms"
    with mmstore.open(path) as db:
        local = pickle.dumps(db)
    monkeypatch.setattr(libc, "filesystem_type", lambda path: 0x6969)
    with mmstore.open(path, network=True) as db:
        db[b"k"] = b"v"
        with pickle.loads(pickle.dumps(db)) as twin:
            assert twin[b"k"] == b"v" and twin.session.options == db.session.options
            with pickle.loads(pickle.dumps(twin)) as third:
                assert third[b"k"] == b"v"
    with pytest.raises(mmstore.Error, match="NFS"):  # nobody allowed that one
        pickle.loads(local)


def test_memory_pickles_only_while_spawning() -> None:
    with mmstore.open(":memory:") as db, pytest.raises(TypeError, match="memory"):
        pickle.dumps(db)


def test_transactions_and_snapshots_do_not_pickle(db: Database) -> None:
    with db.transaction() as txn, db.snapshot() as snapshot:
        for what in (txn, snapshot, txn.keyspace("users"), iter(db)):
            with pytest.raises((TypeError, mmstore.Error)):
                pickle.dumps(what)
