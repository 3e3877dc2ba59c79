"""A store for each test, proved sound at its end."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.disk.posix import PosixFilesystem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.mms"


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called: whoever opens a file to write it is denied, as if its mode said so (root may write any file)."""
    true = PosixFilesystem.open

    def denied(self: PosixFilesystem, path: str, *, write: bool = True, **options: Any) -> Any:
        if write:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return true(self, path, write=False, **options)

    return lambda: monkeypatch.setattr(PosixFilesystem, "open", denied)


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
