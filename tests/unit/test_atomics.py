"""Atomic loads and stores, compiled and not: same values, same errors; and they order what others see."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import ModuleType

import pytest

from mmstore.disk.mapping import map_live
from mmstore.disk.memory import MemoryFilesystem
from mmstore.format import FIXED_SIZE
from mmstore.kernels import atomics

ALL = (1 << 64) - 1


def _plain() -> ModuleType:
    """The source, uncompiled, whatever the package has."""
    source = Path(atomics.__file__).parent / "atomics.py"
    spec = importlib.util.spec_from_file_location("plain_source_of_atomics", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {"as installed": atomics, "uncompiled": _plain()}


@pytest.fixture(params=list(MODULES))
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return MODULES[request.param]


@pytest.fixture
def words() -> memoryview:
    backend = MemoryFilesystem().open("f", create=True)
    backend.allocate(0, FIXED_SIZE)
    return map_live(backend)


def test_round_trip(kernel: ModuleType, words: memoryview) -> None:
    for off, value in ((0, 0), (8, 1), (16, ALL), (len(words) - 8, 0x0123_4567_89AB_CDEF)):
        kernel.store_release(words, off, value)
        assert kernel.load_acquire(words, off) == value
        assert int.from_bytes(words[off : off + 8], "little") == value
        assert kernel.load_acquire(words.toreadonly(), off) == value
    kernel.fence()


def test_add(kernel: ModuleType, words: memoryview) -> None:
    assert kernel.fetch_add32(words, 4, 5) == 0
    assert kernel.fetch_add32(words, 4, 0xFFFF_FFFF) == 5
    assert kernel.fetch_add32(words, 4, 0xFFFF_FFFF) == 4
    assert words[:12] == bytes(4) + b"\3\0\0\0" + bytes(4)


@pytest.mark.parametrize("off", [-8, 4, 1, 1 << 20, (64 << 10) - 4, 64 << 10])
def test_offsets_are_aligned_and_inside(kernel: ModuleType, words: memoryview, off: int) -> None:
    before = bytes(words)
    with pytest.raises(ValueError, match="aligned offset inside"):
        kernel.load_acquire(words, off)
    with pytest.raises(ValueError, match="aligned offset inside"):
        kernel.store_release(words, off, 1)
    if off % 4 or not 0 <= off < len(words):
        with pytest.raises(ValueError, match="aligned offset inside"):
            kernel.fetch_add32(words, off, 1)
    assert bytes(words) == before


def test_read_only_buffers_stay_as_they_are(kernel: ModuleType) -> None:
    words = memoryview(bytes(16))
    with pytest.raises((TypeError, BufferError)):
        kernel.store_release(words, 0, 1)
    with pytest.raises((TypeError, BufferError)):
        kernel.fetch_add32(words, 0, 1)
    assert words == bytes(16)


def test_a_flag_publishes_what_was_stored_before(kernel: ModuleType, words: memoryview) -> None:
    """Message passing between threads: whoever sees the flag sees the data."""
    rounds = 2000

    def writer() -> None:
        for i in range(1, rounds + 1):
            words[64:72] = i.to_bytes(8, "little")
            kernel.store_release(words, 0, i)

    thread = threading.Thread(target=writer)
    thread.start()
    seen = 0
    while seen < rounds:
        seen = kernel.load_acquire(words, 0)
        assert int.from_bytes(words[64:72], "little") >= seen
    thread.join()
