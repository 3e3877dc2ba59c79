"""Ctrl-C at every moment: whatever it strikes is done or undone, the handle works on, and nothing is damaged.

A timer raises an exception between any two bytecodes of a change, as SIGINT does; what is in the store is then
compared with a model before and after the change.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore.columns.types import nullable
from mmstore.database.database import Database
from mmstore.engine.write import WriteState
from strikes import Strike, struck

LONG = os.environ.get("MMSTORE_STRESS") == "long"
ROUNDS = 8000 if LONG else 400
State = tuple[dict[bytes, bytes], dict[str, dict[bytes, bytes]], dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


@pytest.fixture
def strikes() -> Iterator[None]:
    def strike(*_: Any) -> None:
        raise Strike

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are handled in the main thread only")
    hook = sys.unraisablehook

    def forget(raised: Any) -> None:
        """Keep nothing of a strike inside a finalizer: pytest would keep its frame, and so what is finalized."""
        if not issubclass(raised.exc_type, Strike):
            hook(raised)

    sys.unraisablehook = forget
    before = signal.signal(signal.SIGALRM, strike)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    sys.unraisablehook = hook


@pytest.fixture(scope="module")
def imported() -> None:
    """What is imported late is there: the interpreter itself doesn't survive every strike in an import."""
    state: State = {}, {}, {}
    rng = random.Random(1)
    with mmstore.open(":memory:") as db:
        for _ in range(200):
            call, state = change(db, state, rng)
            call()
        assert state_of(db) == state and all(state) and db.check() == []


def state_of(db: Database) -> State:
    with db.snapshot() as snapshot:
        spaces = {name: dict(snapshot.keyspace(name)) for name in snapshot.keyspaces()}
        tables: dict[str, Any] = {name: snapshot.table(name)["x"].tolist() for name in snapshot.tables() if name != "k"}
        if "k" in snapshot.tables():
            keyed = snapshot.table("k")
            rows = zip(keyed["id"].tolist(), keyed["s"].tolist(), keyed["c"].tolist(), keyed.deleted, strict=True)
            tables["k"] = {id: (text, word) for id, text, word, gone in rows if not gone}
        return dict(snapshot), spaces, tables


def change(db: Database, state: State, rng: random.Random) -> tuple[Callable[[], Any], State]:
    """Some change, and the state behind it."""
    main = dict(state[0])
    spaces = {name: dict(space) for name, space in state[1].items()}
    tables = {name: rows.copy() for name, rows in state[2].items()}
    after = main, spaces, tables
    kind = rng.randrange(10)
    if kind == 0:
        key, value = b"k%d" % rng.randrange(40), rng.randbytes(rng.choice([10, 100, 3000]))
        main[key] = value
        return lambda: db.put(key, value), after
    if kind == 1:
        new = {b"k%d" % rng.randrange(40): rng.randbytes(rng.randrange(1500)) for _ in range(rng.randrange(1, 8))}
        main.update(new)
        return lambda: db.update(new), after
    if kind == 2:
        name, value = f"s{rng.randrange(3)}", rng.randbytes(50)
        spaces.setdefault(name, {})[b"x"] = value
        return lambda: db.keyspace(name).put(b"x", value), after
    if kind == 3 and spaces:
        name = rng.choice(sorted(spaces))
        del spaces[name]
        return lambda: db.drop(name), after
    if kind == 4:
        if "t" not in tables:
            tables["t"] = []
            return lambda: db.create_table("t", {"x": "i8"}), after
        if len(tables["t"]) > 10_000:
            del tables["t"]
            return lambda: db.drop("t"), after
        rows = list(range(rng.choice([1, 10, 700])))
        tables["t"] += rows
        return lambda: db.table("t").append({"x": rows}), after
    if kind == 5:
        keys = rng.sample(sorted(main), min(len(main), 5))
        for key in keys:
            del main[key]
        return lambda: db.delete_many(keys), after
    if kind >= 7:
        return change_keyed(db, tables, rng), after
    value = main[b"kept"] = rng.randbytes(200)

    def nested() -> None:
        with db.transaction() as txn:
            txn[b"kept"] = b"0"
            with contextlib.suppress(ZeroDivisionError), txn.savepoint():
                txn[b"lost"] = b"1" * 2000
                txn.clear()
                raise ZeroDivisionError
            with txn.savepoint():
                txn[b"kept"] = value

    return nested, after


def change_keyed(db: Database, tables: dict[str, Any], rng: random.Random) -> Callable[[], Any]:
    """A change of the rows of a table with a key, missing values, text and categories; `tables` gets it, too."""
    if "k" not in tables:
        tables["k"] = {}
        schema = {"id": "i8", "s": nullable("utf8"), "c": "category"}
        return lambda: db.create_table("k", schema, key="id")
    rows = tables["k"]
    kind = rng.randrange(6)
    if kind < 2 or not rows:
        ids = rng.sample(range(300), rng.choice([1, 5, 100]))
        texts = [rng.choice([None, "", "text" * rng.randrange(40)]) for _ in ids]
        words = [rng.choice(["red", "green", f"colour {rng.randrange(500)}"]) for _ in ids]
        rows.update(zip(ids, zip(texts, words, strict=True), strict=True))
        return lambda: db.table("k").append({"id": ids, "s": texts, "c": words}, on_conflict="replace")
    some = rng.sample(sorted(rows), min(len(rows), rng.choice([1, 3, 60])))
    if kind == 2:
        for id in some:
            del rows[id]
        return lambda: db.table("k").delete(db.table("k").find(some))
    if kind == 3:
        for id in some:
            rows[id] = ("changed", "other")
        return lambda: db.table("k").update(db.table("k").find(some), {"s": "changed", "c": "other"})
    if kind == 4:
        new = rng.randrange(1000, 1 << 40)
        rows[new] = rows.pop(some[0])
        return lambda: db.table("k").update(db.table("k").find(some[:1]), {"id": [new]})
    return lambda: db.table("k").compact()


@pytest.mark.filterwarnings("ignore:a transaction of:ResourceWarning")  # dropped where it was struck
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a strike inside a finalizer
@pytest.mark.parametrize("durability", ["relaxed", "full"])
def test_strikes_at_any_moment(path: Path, durability: str, imported: None, strikes: None) -> None:
    seed = int(os.environ.get("MMSTORE_SEED", random.randrange(1 << 32)))
    print(f"MMSTORE_SEED={seed}")
    rng = random.Random(seed)
    longest = (0.002 if durability == "full" else 0.001) * (1 if mmstore.compiled() else 3)
    state: State = {}, {}, {}
    struck = 0
    with mmstore.open(path, durability=durability, timeout=2) as db:
        for number in range(ROUNDS):
            call, after = change(db, state, rng)
            done = False
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.random() * longest + 1e-6)
                    call()
                    done = True
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Strike:
                struck += 1
            found = state_of(db)
            assert found == after or not done and found == state
            state = found
            db[b"after"] = state[0][b"after"] = b"%d" % number  # writing goes on
            if number % 10 == 0:
                assert db.check() == [] and db.stats()["pins"] == 1
        assert state_of(db) == state and db.check() == []
    assert struck > ROUNDS / 20
    with mmstore.open(path) as db:
        assert state_of(db) == state and db.check() == []
    assert os.listdir(path.parent) == ["data.mms"]


def test_a_traceback_that_is_kept_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interactive session keeps the last traceback, and with it the frames of what was struck."""
    with mmstore.open(path, timeout=1) as db, mmstore.open(path, timeout=1) as twin:
        kept = []
        for place in ("write", "build", "abort"):
            with monkeypatch.context() as patch:
                if place != "write":

                    def strike(self: Any) -> None:
                        raise Strike

                    patch.setattr(WriteState, place, strike)
                try:
                    with db.transaction() as txn:
                        txn[b"lost"] = b"1"
                        if place != "build":
                            raise Strike
                except Strike as error:
                    kept.append(error)
            twin[b"twin"] = place.encode()
            db[b"k"] = place.encode()
            assert dict(db) == {b"twin": place.encode(), b"k": place.encode()} and db.check() == []
        assert len(kept) == 3


MODULES = ["pages.freelist", "pages.freefile", "pages.workspace", "columns.extents", "disk.storefile"]
MODULES += ["engine.write", "engine.tables", "engine.commit", "engine.writer", "engine.right", "engine.operations"]


@pytest.mark.filterwarnings("ignore:a transaction of:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a strike inside a finalizer
@pytest.mark.parametrize("name", MODULES)
def test_strikes_in_turn(name: str, imported: None) -> None:
    """At moments chosen within one module, some thirty of them: also those too short for a timer to find."""
    module = importlib.import_module(f"mmstore.{name}")
    with mmstore.open(":memory:") as db:
        db.create_table("t", {"x": "i8"}).append({"x": range(2000)})
        state, number, at = state_of(db), 0, 0

        def call() -> None:
            with db.transaction() as txn:
                txn[b"k%d" % (number % 7)] = b"%d" % number * 300
                txn.table("t").append({"x": range(number * 100)})
                with contextlib.suppress(ZeroDivisionError), txn.savepoint():
                    txn.keyspace("s")[b"x"] = b"1" * 3000
                    txn.drop("t")
                    raise ZeroDivisionError
                txn.keyspace("s")[b"x"] = b"%d" % number

        total = 0
        while struck(call, module, 1 << total):  # how many moments there are
            total += 1
        stride = max(1, (1 << total) // 60)
        state = state_of(db)
        for at in range(0, 1 << total, stride):
            number += 1
            after = state_of(db)
            after[0][b"k%d" % (number % 7)] = b"%d" % number * 300
            after[2]["t"].extend(range(number * 100))
            after[1].setdefault("s", {})[b"x"] = b"%d" % number
            done = not struck(call, module, at)
            found = state_of(db)
            assert found == after or not done and found == state, at
            db[b"after"] = b"%d" % number
            state = state_of(db)
            assert db.check() == [], at


def test_a_dropped_transaction_lets_go_at_once(path: Path) -> None:
    """Whatever it did: no cycle keeps it, and with it the right to write, until a garbage collection."""
    with mmstore.open(path, durability="relaxed", timeout=0) as db:
        db.create_table("t", {"x": "i8"})
        gc.collect()
        gc.disable()
        try:
            for _ in range(2):
                txn = db.transaction()
                with txn.savepoint():
                    txn[b"k"] = b"v" * 2000
                    txn.table("t").append({"x": range(100)})
                    assert len(txn.table("t")["x"]) == 100 and dict(txn.keyspace("s")) == {}
                txn.keyspace("s")[b"k"] = b"v"
                with pytest.warns(ResourceWarning, match="dropped without an end"):
                    del txn
            db[b"k"] = b"1"
        finally:
            gc.enable()
        assert dict(db) == {b"k": b"1"} and len(db.table("t")) == 0 and db.check() == []
