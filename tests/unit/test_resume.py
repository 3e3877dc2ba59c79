"""Loads that commit in between: killed anywhere and resumed, no row is missing and none is there twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import mmstore
from mmstore.integrations import resume
from mmstore.integrations.ahead import ahead
from mmstore.integrations.inputs import columnar, delimited

ROWS = 5000
EVERY = 700

KILLED = """
import os, signal, sys, json
import mmstore
from mmstore.integrations.inputs import delimited, columnar
delimited.BATCH_BYTES = 1 << 13
columnar.BATCH_ROWS = 600
after, arguments = int(sys.argv[1]), json.loads(sys.argv[2])
def progress(read, size, rows):
    if rows >= after:
        os.kill(os.getpid(), signal.SIGKILL)
mmstore.load(progress=progress, resume=True, **arguments)
print("done")
"""


def run(after: int, arguments: dict[str, Any]) -> int:
    """The exit code of a load in a process of its own, which is killed after so many rows."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(after), json.dumps(arguments)], capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files, with a row that doesn't fit in each."""
    for name, start in (("1.csv", 0), ("2.csv", ROWS)):
        with open(tmp_path / name, "w") as file:
            file.write("id,text\n")
            for number in range(start, start + ROWS):
                file.write(f'{number},"text\n{number}"\n')
                if number % ROWS == ROWS // 3:
                    file.write(f"oops,{number}\n")
    return [str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]


@pytest.mark.parametrize("into", ["table", "keyspace"])
def test_kill_and_resume(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch, into: str) -> None:
    store, rejects = str(tmp_path / "a.mms"), tmp_path / "rejects.jsonl"
    arguments: dict[str, Any] = {"sources": files, "store": store, "commit_every": EVERY, into: "t"}
    if into == "table":
        arguments |= {"on_error": "skip", "rejects": str(rejects), "schema": {"id": "i8"}}
    else:
        arguments |= {"key": "id", "value": "text"}
    seen = 0
    for after in (1, ROWS + 1000) if into == "table" else (3000,):
        assert run(after, arguments) == -signal.SIGKILL
        with mmstore.open(store) as db:
            assert db.check() == []
            count = len(db.table("t")) if into == "table" and db.tables() else len(db.keyspace("t"))
            assert count % EVERY == 0 or into == "keyspace"
            assert seen <= count <= after + 2 * EVERY
            seen = count
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1 << 13)
    with mmstore.open(store) as db:
        mmstore.load(**{**arguments, "store": db}, resume=True)
        if into == "table":
            assert db.table("t")["id"].tolist() == list(range(2 * ROWS))
            lines = [json.loads(line)["value"] for line in rejects.read_text().splitlines()]
            assert lines == ["oops", "oops"]
            assert mmstore.load(**{**arguments, "store": db}, resume=True).rejected == 2
        else:
            expected = {b"%d" % number: b"text\n%d" % number for number in range(2 * ROWS)}
            assert dict(db.keyspace("t")) == {**expected, b"oops": b"%d" % (ROWS + ROWS // 3)}
        again = mmstore.load(**{**arguments, "store": db}, resume=True)
        assert again.rows == again.added == 0 and again.before >= 2 * ROWS
        assert db.check() == []


def test_a_load_that_stopped_says_so(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1 << 13)
    how: dict[str, Any] = {"keyspace": "k", "key": "id", "value": "text", "commit_every": EVERY}
    with mmstore.open(tmp_path / "a.mms") as db:
        with pytest.raises(InterruptedError):
            mmstore.load(files, db, **how, progress=interrupt)
        with pytest.raises(mmstore.SchemaError, match=r"stopped after [0-9,]+00 rows: resume=True"):
            mmstore.load(files, db, **how)
        (key,) = db.keyspace(resume.KEYSPACE)
        assert json.loads(db.keyspace(resume.KEYSPACE)[key])["load"]["inputs"][0][0] == files[0]
        done = mmstore.load(files, db, **{**how, "commit_every": 123}, resume=True)  # how often doesn't matter
        assert done.before % EVERY == 0 and done.before + done.rows == 2 * ROWS + 2
        with pytest.raises(mmstore.SchemaError, match="holds"):  # other options are another load
            mmstore.load(files, db, **how, where="id!=1", resume=True)
        db.keyspace(resume.KEYSPACE)[key] = b"{}"
        with pytest.raises(mmstore.CorruptError, match="bookmark"):
            mmstore.load(files, db, **how, resume=True)


def interrupt(read: int, size: int | None, rows: int) -> None:
    if rows > 3000:
        raise InterruptedError


def test_parquet_goes_on_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"id": range(ROWS), "x": range(ROWS)}), tmp_path / "a.parquet", row_group_size=900)
    arguments = {
        "sources": [str(tmp_path / "a.parquet")], "store": str(tmp_path / "a.mms"), "keyspace": "k", "key": "id",
        "value": "x", "value_format": "json", "commit_every": 250,
    }  # fmt: skip
    assert run(2000, arguments) == -signal.SIGKILL
    monkeypatch.setattr(columnar, "BATCH_ROWS", 600)
    with mmstore.open(tmp_path / "a.mms") as db:
        assert mmstore.load(**{**arguments, "store": db}, resume=True).before in (1750, 2000, 2250)
        assert dict(db.keyspace("k")) == {b"%d" % i: b"%d" % i for i in range(ROWS)}


def test_only_from_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resumed only from files"):
        mmstore.load("-", tmp_path / "a.mms", keyspace="k", key="a", resume=True)


# --- reading ahead -----------------------------------------------------------------------------------


class Counted:
    """Tells how many of its kind are alive."""

    alive = most = 0

    def __init__(self) -> None:
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


def test_few_batches_are_alive() -> None:
    for item in ahead(Counted() for _ in range(100)):
        del item
    assert Counted.alive == 0 and Counted.most <= 4


def test_ahead_ends_with_its_reader() -> None:
    closed = []

    def endless() -> Any:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    reader = ahead(endless())
    assert next(reader) == 1
    reader.close()
    assert closed == [True]


def test_ahead_raises_what_was_raised() -> None:
    def failing() -> Any:
        yield 1
        yield 2
        raise LookupError("here")

    found = []
    with pytest.raises(LookupError, match="here"):
        for item in ahead(failing()):
            found.append(item)
    assert found == [1, 2]


def test_batches_alive_during_a_load(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is that of few batches, however large the file."""
    monkeypatch.setattr(delimited, "BATCH_BYTES", 1 << 12)
    batches: list[weakref.ref[Any]] = []
    most = 0
    original = delimited.CsvInput._batch

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal most
        batch, records = original(self, *arguments)
        batches.append(weakref.ref(batch))
        most = max(most, sum(known() is not None for known in batches))
        return batch, records

    monkeypatch.setattr(delimited.CsvInput, "_batch", counted)
    with mmstore.open(tmp_path / "a.mms", durability="relaxed") as db:
        mmstore.load(files, db, keyspace="k", key="id", value="text")
    assert len(batches) > 30 and most <= 4
