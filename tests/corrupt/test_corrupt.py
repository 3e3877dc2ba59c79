"""Damaged and hostile files give the right data or an error of mmstore's: never a signal, a hang or wrong data (I6).

Everything runs in child processes, so that a fault is a failed test and not the end of the run.
"""

from __future__ import annotations

import os
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corruption
import mmstore
from children import Child
from corruption import LOG, PATH, Sample
from mmstore import format as fmt
from mmstore.errors import Error
from mmstore.pages.root import Header, Identity

LONG = os.environ.get("MMSTORE_STRESS") == "long"
TIMES = 5 if LONG else 0.2 if mmstore.compiled() else 0.08
SILENCE = 60.0  # seconds for one image, on a busy machine and uncompiled


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Sample]]:
    """Sound stores, pickled for the children."""
    folder = tmp_path_factory.mktemp("samples")
    found = {}
    for name, kind, page_size in (
        ("clean", "clean", 4096),
        ("log", "log", 4096),
        ("young", "young", 4096),
        ("old", "old", 4096),
        ("clean 16 KiB", "clean", 16384),
        ("log 64 KiB", "log", 65536),
    ):
        it = corruption.sample(kind, page_size)
        path = folder / f"{name}.pickle"
        path.write_bytes(pickle.dumps(it))
        found[name] = (path, it)
    return found


def run(sample: Path, how: str, count: int) -> dict[str, int]:
    """Examine ``count`` damaged images in a child process; returns how often it went how."""
    count = max(12, int(count * TIMES))
    # The same damage in each run, so that a run tells of the change and not of its luck; long runs look further.
    usual = random.randrange(1 << 32) if LONG else zlib.crc32(f"{sample.stem} {how}".encode())
    seed = int(os.environ.get("MMSTORE_SEED", usual))
    print(f"{sample.name}, {how}: MMSTORE_SEED={seed}")
    said: Any = None
    with Child("corruption", "batch", str(sample), how, seed, count) as child:
        while True:
            try:
                answer = child.hear(SILENCE)
            except AssertionError as error:
                pytest.fail(f"{said}, MMSTORE_SEED={seed}: {error}")
            if isinstance(answer, dict):
                break
            said = answer
    assert answer["failures"] == [], "\n".join([f"MMSTORE_SEED={seed}", *answer["failures"]])
    return dict(answer["outcomes"])


# --- sound ones ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clean", "log", "young", "old", "clean 16 KiB", "log 64 KiB"])
@pytest.mark.parametrize("may_write", [True, False])
def test_an_undamaged_sample_is_right(samples: Any, name: str, may_write: bool) -> None:
    it = samples[name][1]
    assert corruption.examine(it.image, it.states[-1:], right=True, may_write=may_write) == "right"
    kinds = set(corruption.index_pages(it).values())
    assert kinds == ({1, 2, 3} if name in ("clean", "log", "old") else kinds | {3})


# --- one bit -------------------------------------------------------------------------------------------------


def test_every_bit_of_the_fixed_structures_is_covered(samples: Any) -> None:
    for _, it in samples.values():
        data = it.image.read(PATH, 0, fmt.IDENTITY.size)
        identity = Identity.unpack(data, "it")
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises((mmstore.CorruptError, mmstore.FormatError)):
                Identity.unpack(bytes(flipped), "it")
        for at in (0, 1):
            data = it.image.read(PATH, fmt.HEADER_AT[at], fmt.HEADER.size)
            assert Header.unpack(data, at, identity.uuid) is not None
            for bit in range(8 * len(data)):
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                assert Header.unpack(bytes(flipped), at, identity.uuid) is None


@pytest.mark.parametrize("name", ["clean", "log", "young", "old", "log 64 KiB"])
@pytest.mark.parametrize("how", ["identity", "headers"])
def test_a_flipped_bit_in_the_fixed_structures(samples: Any, name: str, how: str) -> None:
    outcomes = run(samples[name][0], how, 25)
    if how == "identity":
        assert outcomes.keys() == {"refused"}


@pytest.mark.parametrize(("name", "count"), [("clean", 150), ("log", 100), ("clean 16 KiB", 50), ("log 64 KiB", 30)])
def test_a_flipped_bit_in_pages(samples: Any, name: str, count: int) -> None:
    outcomes = run(samples[name][0], "data", count)
    assert outcomes.get("errors", 0) + outcomes.get("refused", 0) > 0, outcomes


@pytest.mark.parametrize("name", ["log", "young", "old", "log 64 KiB"])
def test_a_flipped_bit_in_the_log(samples: Any, name: str) -> None:
    run(samples[name][0], "log", 60)


@pytest.mark.parametrize("name", ["clean", "log", "young", "clean 16 KiB"])
def test_truncation(samples: Any, name: str) -> None:
    outcomes = run(samples[name][0], "truncation", 40)
    assert outcomes.get("refused", 0) > 0, outcomes


def test_a_missing_or_strange_log(samples: Any) -> None:
    it, other = samples["log"][1], samples["young"][1]
    for change in ("missing", "empty", "stranger's"):
        image = it.image.copy()
        if change == "missing":
            del image.sizes[LOG], image.pieces[LOG]
        elif change == "empty":
            image.truncate(LOG, 0)
        else:
            image.sizes[LOG], image.pieces[LOG] = other.image.sizes[LOG], other.image.pieces[LOG]
        for may_write in (True, False):
            assert corruption.examine(image, it.states, right=True, may_write=may_write) == "refused"


def test_a_log_beside_a_cleanly_closed_store_is_ignored(samples: Any) -> None:
    """It is what an interrupted close leaves; the headers say that it is done with."""
    it, other = samples["clean"][1], samples["log"][1]
    image = it.image.copy()
    image.sizes[LOG], image.pieces[LOG] = other.image.sizes[LOG], other.image.pieces[LOG]
    assert corruption.examine(image, it.states, right=True) == "right"


# --- hostile -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "count"),
    [
        ("clean", "pages", 250),
        ("log", "pages", 80),
        ("clean 16 KiB", "pages", 60),
        ("log 64 KiB", "pages", 30),
        ("clean", "root", 120),
        ("log", "root", 60),
        ("clean", "free list", 60),
        ("log", "free list", 60),
        ("clean", "catalog", 120),
        ("log", "catalog", 60),
        ("log", "records", 120),
        ("young", "records", 60),
    ],
)
def test_hostile_structures_under_right_checksums(samples: Any, name: str, how: str, count: int) -> None:
    """Wrong answers are allowed here, and errors of mmstore's; whoever made such a file could have written anything."""
    run(samples[name][0], how, count)


def test_a_loop_of_pages_ends(samples: Any) -> None:
    """Buckets chained in a ring, directories that contain themselves, slots of a node that lead to the node."""
    it = samples["clean"][1]
    pages = corruption.index_pages(it)
    size = it.page_size
    for kind in (1, 2, 3):
        for page in [number for number, found in pages.items() if found == kind][:6]:
            image = it.image.copy()
            content = bytearray(image.read(PATH, page * size, size))
            if kind == 3:
                at = fmt.BUCKET.offset["next"]
                content[at : at + 4] = page.to_bytes(4, "little")
            else:
                content[32:] = page.to_bytes(4, "little") * ((size - 32) // 4)
            corruption.fix_page(image, page, size, content)
            assert corruption.examine(image, it.states, right=False) in ("refused", "errors", "wrong", "right")


def test_errors_say_where(samples: Any) -> None:
    it, found = samples["clean"][1], 0
    for page in list(corruption.index_pages(it))[::5]:
        image = it.image.copy()
        image.flip(PATH, 8 * (page * it.page_size + 700))
        fs = image.filesystem()
        with corruption.open_on(fs, PATH, "w", corruption.OPTIONS) as db:
            problems = [problem.page for problem in db.check()]
            try:
                corruption.state_of(db)
                db.table("rich").find(np.arange(1500))  # whose index nothing else reads
            except mmstore.CorruptError as error:
                assert error.page == page and error.offset == page * it.page_size and page in problems
                assert pickle.loads(pickle.dumps(error)).page == page and isinstance(error, Error)
                found += 1
            else:
                assert page not in problems  # a page that only an older root had
        fs.close()
    assert found > 5
