"""`mmstore load` and `mmstore export`: options, exit codes, JSON for scripts."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import mmstore
from mmstore.cli import common
from mmstore.cli.commands import mmstore as command
from mmstore.integrations import load as loading


def run(*arguments: str | Path, data: bytes | None = None) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("k;v\n1;x\n2;yy\n")
    return tmp_path / "a.csv"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "new.mms"


def test_tables(source: Path, store: Path) -> None:
    done = run("load", source, store, "--table", "t", "-d", ";", "-s", "k=i4,v=utf8", "--key", "k")
    assert done.exit_code == 0 and "2 rows into table t" in done.stderr and not done.stdout
    assert run("load", "-", store, "-t", "p", data=b"a\tb\n1\t2\n").exit_code == 0
    assert run("load", "-", store, "-t", "q", "--format", "jsonl", "-q", data=b'{"a": 1}\n').stderr == ""
    assert run("load", source, store, "-t", "w", "-d", ";", "-c", "v", "-w", "k>=2", "-w", "v==yy").exit_code == 0
    with mmstore.open(store, "r") as db:
        assert db.table("t")["k"].dtype == "i4" and list(db.table("t")["v"].to_numpy()) == ["x", "yy"]
        assert db.table("t").find([2]).tolist() == [1]
        assert db.table("p").columns == ("a\tb",) and db.table("q")["a"].tolist() == [1]
        assert db.table("w").columns == ("v",) and len(db.table("w")) == 1
    again = run("load", source, store, "--table", "t", "-d", ";")
    assert again.exit_code == 1 and "is there already" in again.stderr
    assert run("load", source, store, "-t", "t", "-d", ";", "--append").exit_code == 1  # the keys are there
    assert run("load", source, store, "-t", "t", "-d", ";", "--append", "--on-conflict", "ignore").exit_code == 0
    assert run("load", source, source, store, "-t", "t", "-d", ";", "--replace").exit_code == 0
    listed = run("ls", store).stdout
    assert "t " in listed and "k, v" in listed


def test_keyspaces(source: Path, store: Path) -> None:
    assert run("load", source, source, store, "-k", "names", "--key", "k", "--value", "v", "-d", ";").exit_code == 0
    assert run("load", source, store, "--key", "k", "-d", ";", "--value-format", "json").exit_code == 0
    with mmstore.open(store, "r") as db:
        assert dict(db.keyspace("names")) == {b"1": b"x", b"2": b"yy"}
        assert db[b"1"] == b'{"k": "1", "v": "x"}'
    out = run("export", store, "names", "-", "-f", "jsonl")
    assert sorted(out.stdout.splitlines()) == ['{"key": "1", "value": "x"}', '{"key": "2", "value": "yy"}']
    assert "2 rows into - as jsonl" in out.stderr
    done = run("export", store, "-", store.parent / "own.csv", "--json")
    assert json.loads(done.stdout)["rows"] == 2 and done.exit_code == 0
    assert (store.parent / "own.csv").read_text().startswith('"key","value"\n')


def test_globs_and_resuming(tmp_path: Path, store: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(f"k,v\na{i},1\nb{i},2\n")
    words = ("load", f"{tmp_path}/?.csv", store, "-k", "n", "--key", "k", "--commit-every", "2", "--json")
    assert json.loads(run(*words).stdout) | {"seconds": 0} == {
        "rows": 6, "added": 6, "seconds": 0, "schema": None, "rejected": 0, "read": 42, "before": 0,
    }  # fmt: skip
    done = run(*words, "--resume")
    assert done.exit_code == 0 and json.loads(done.stdout)["before"] == 6
    assert "mmstore.loads" in run("ls", store).stdout


@pytest.mark.parametrize("sized", [True, False])
def test_progress(monkeypatch: pytest.MonkeyPatch, sized: bool) -> None:
    """On a terminal: rows, rows a second, bytes, bytes a second and the time that is left."""
    out, clock = io.StringIO(), [0.0]
    terminal = partial(Console, file=out, force_terminal=True, width=140, get_time=lambda: clock[0])
    monkeypatch.setattr(common, "Console", lambda stderr: terminal())
    with common.bar(quiet=False, sized=sized) as show:
        for second in range(1, 5):
            clock[0] = second
            show(second * 2_000_000, 20_000_000, second * 1500)
    shown = out.getvalue()
    assert "6,000 rows, 1,500 rows/s" in shown and "0:00:06" in shown
    assert ("8.0/20.0 MB" in shown and "2.0 MB/s" in shown) == sized
    with common.bar(quiet=True) as show:
        assert show is None


def test_progress_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a pipe nobody knows how much is left."""
    out = io.StringIO()
    terminal = partial(Console, file=out, force_terminal=True, width=140, get_time=lambda: 1.0)
    monkeypatch.setattr(common, "Console", lambda stderr: terminal())
    with common.bar(quiet=False) as show:
        show(3000, None, 10)
    assert "3.0/? kB" in out.getvalue() and "10 rows" in out.getvalue() and "0:00:00" not in out.getvalue()


def test_skipped_rows(tmp_path: Path, store: Path) -> None:
    (tmp_path / "a.csv").write_text("k,v\n1,2\n1\n")
    words = ("load", tmp_path / "a.csv", store, "-k", "n", "--key", "k")
    failed = run(*words, "--json")
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: ")
    facts = json.loads(failed.stdout)["error"]
    assert facts["type"] == "BadRow" and facts["line"] == 3 and facts["text"] == "1" and "a.csv" in facts["file"]
    done = run(*words, "--on-error", "skip", "--rejects", tmp_path / "bad.jsonl")
    assert done.exit_code == 3 and "1 rows skipped" in done.stderr
    assert json.loads((tmp_path / "bad.jsonl").read_text()) == {
        "file": str(tmp_path / "a.csv"), "line": 3, "reason": "Expected 2 columns, got 1", "text": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-d", ";"], 2),  # no target
        (["-t", "u", "-s", "k"], 2),
        (["-t", "u", "-f", "xlsx"], 2),
        (["-t", "u", "--commit-every", "0"], 2),
        (["-t", "u", "-k", "v"], 1),
        (["-t", "u", "--append", "--replace"], 1),
        (["-t", "u", "--rejects", "nix/x"], 1),
        (["-k", "u", "--key", "nix", "-d", ";"], 1),
        (["-k", "u", "--key", "k", "-d", ";", "-w", "k ~ 1"], 1),
    ],
)
def test_exit_codes(source: Path, store: Path, words: list[str], code: int) -> None:
    done = run("load", source, store, *words)
    assert done.exit_code == code and "Error: " in done.stderr


def test_files_that_are_not_there(tmp_path: Path, store: Path) -> None:
    assert run("load", tmp_path / "nix.csv", store, "-t", "u").exit_code == 1
    assert "no file matches" in run("load", tmp_path / "*.csv", store, "-t", "u").stderr
    assert run("export", tmp_path / "nix.mms", "t", "-", "-f", "csv").exit_code == 1
    missing = run("export", store, "nix", tmp_path / "out.csv")
    assert missing.exit_code == 1 and "no table or keyspace 'nix'" in missing.stderr


def test_interrupted(source: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupted)
    done = run("load", source, store, "-t", "t")
    assert done.exit_code == 130 and "interrupted" in done.stderr
