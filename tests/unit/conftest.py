"""A store for each test, proved sound at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mmstore
from mmstore.database.database import Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    """An open store on a real file; what it holds in the end passes check()."""
    with mmstore.open(path, durability="relaxed", timeout=1.0) as database:
        yield database
        if database._session is not None:
            assert database.check() == []


@pytest.fixture(params=["file", "memory"])
def any_db(path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """The same on a file and in memory."""
    with mmstore.open(path if request.param == "file" else ":memory:", durability="relaxed", timeout=1.0) as database:
        yield database
        if database._session is not None:
            assert database.check() == []
