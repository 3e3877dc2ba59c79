"""The command line: every subcommand, its exit codes, and messages instead of tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import mmstore
from mmstore import format as fmt
from mmstore.cli.commands import mmstore as command


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "store.mms"
    with mmstore.open(path) as db:
        db[b"a"] = b"1"
        db[b"\xff"] = b"\x00"
        db[b"large"] = bytes(100_000)
        db.keyspace("users")[b"u1"] = b"Ada"
        db.create_table("ticks", {"ts": "M8[ns]", "px": "f8"}).append(
            {"ts": np.array([1, 2], "M8[ns]"), "px": [0.5, 0.25]}
        )
    return str(path)


def run(*arguments: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(command, arguments, input=data)


def test_put_and_get(store: str, tmp_path: Path) -> None:
    assert run("get", store, "a").stdout_bytes == b"1"
    assert run("get", store, "ff", "--hex").stdout == "00\n"
    assert run("get", store, "u1", "-k", "users").stdout == "Ada"
    missing = run("get", store, "nix")
    assert missing.exit_code == 1 and "no key 'nix'" in missing.stderr
    assert run("put", store, "b", "2").exit_code == 0
    assert run("put", store, "c", "-f", "-", data=b"from a pipe").exit_code == 0
    assert run("put", store, "0a", "0b", "--hex", "-k", "hex").exit_code == 0
    assert run("put", store, "b").exit_code == 2
    assert run("put", store, "zz", "0b", "--hex").exit_code == 2
    with mmstore.open(store, "r") as db:
        assert (db[b"b"], db[b"c"], db.keyspace("hex")[b"\n"]) == (b"2", b"from a pipe", b"\x0b")
    assert run("put", str(tmp_path / "none.mms"), "zz", "0b", "--hex").exit_code == 2
    assert not (tmp_path / "none.mms").exists()
    assert run("put", str(tmp_path / "new.mms"), "a", "b").exit_code == 0
    assert run("get", str(tmp_path / "new.mms"), "a").stdout == "b"


def test_ls(store: str) -> None:
    out = run("ls", store).stdout
    assert "users" in out and "1 records" in out and "2 rows" in out and "ts, px" in out
    assert "float64" in run("ls", store, "ticks").stdout
    with mmstore.open(store) as db:
        db.create_table("keyed", {"id": "i8", "text": "utf8"}, key="id").append({"id": [1, 2], "text": ["a", "b"]})
        db.table("keyed").delete([0])
    assert "1 rows, 1 deleted" in run("ls", store).stdout
    out = run("ls", store, "keyed").stdout
    assert "int64, key" in out and "varies" in out
    with mmstore.open(store) as db:
        db.create_array("emb", "f4", (1200, 3))
    out = run("ls", store).stdout
    assert "array" in out and "1,200 x 3" in out and "float32" in out
    assert "1,200 x 3" in run("ls", store, "emb").stdout
    assert "b'Ada'" in run("ls", store, "users").stdout
    assert run("ls", store, "-", "-n", "1").stdout.count("\n") == 2


def test_stat_and_check(store: str) -> None:
    out = run("stat", store).stdout
    assert "pages.total" in out and f"compiled        {mmstore.compiled()}" in out
    good = run("check", store)
    assert good.exit_code == 0 and "no problems" in good.stderr


def test_check_finds_damage(store: str) -> None:
    with mmstore.open(store, "r") as db:
        offset, _, _ = db.snapshot().state.main.locate(b"large")
    with open(store, "r+b") as file:
        file.seek(offset + 5)
        file.write(b"!")
    bad = run("check", store)
    assert bad.exit_code == 1 and "problem" in bad.stderr and bad.stdout


def test_dump(store: str) -> None:
    out = run("dump", store).stdout
    assert "DOES NOT" not in out.split("live page")[0]
    assert out.count("the checksum holds") >= 3
    with mmstore.open(store, "r") as db:
        root = fmt.INDEX.unpack(db.session.published().main)["root"]
        pages = db.stats()["pages"]["total"]
    out = run("dump", store, str(root)).stdout
    assert "bucket page" in out and "b'a': b'1'" in out and "large: key of 5, value of 100,000 bytes" in out
    run_page = int(out.split("pages from page ")[1].split()[0])
    assert "value run header" in run("dump", store, str(run_page)).stdout
    assert "the file ends here" in run("dump", store, str(pages * 10)).stdout
    for page in range(64, 128):  # whatever it is, it can be drawn
        assert run("dump", store, str(page)).exit_code == 0


def test_dump_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"mmstore?")
    assert run("dump", str(tmp_path / "short")).exit_code == 0
    (tmp_path / "other").write_bytes(b"x" * 300_000)
    result = run("dump", str(tmp_path / "other"), "70")
    assert result.exit_code == 1 and "is it a store?" in result.stderr
    assert "THE CHECKSUM DOES NOT HOLD" in run("dump", str(tmp_path / "other")).stdout


@pytest.mark.parametrize("words", [["get", "S", "a"], ["ls", "S"], ["stat", "S"], ["check", "S"], ["dump", "S"]])
def test_store_that_is_not_there(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "nix.mms"
    result = run(*[str(path) if word == "S" else word for word in words])
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and not path.exists()


def test_as_a_module(store: str) -> None:
    done = subprocess.run([sys.executable, "-m", "mmstore.cli", "get", store, "a"], capture_output=True, check=True)
    assert done.stdout == b"1"


def test_without_its_packages() -> None:
    code = "import sys; sys.modules['click'] = None; from mmstore.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "mmstore[cli" in done.stderr
    code = "import sys; sys.modules['pyarrow'] = None; import mmstore; mmstore.load('x', ':memory:', table='t')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "mmstore[arrow]" in done.stderr
