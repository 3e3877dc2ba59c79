"""Every backend keeps the promises of the seam: real files, memory, and the simulated disk."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmstore.disk import libc, posix
from mmstore.disk.backend import Filesystem
from mmstore.disk.mapping import map_live
from mmstore.disk.memory import MemoryFilesystem
from mmstore.disk.posix import PosixFilesystem
from mmstore.errors import DiskFullError, Error, FormatError
from mmstore.format import FIXED_SIZE
from simdisk import SimFilesystem

GIB = 1 << 30
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(params=["posix", "memory", "sim"])
def fs(request: pytest.FixtureRequest) -> Filesystem:
    kinds: dict[str, type[Any]] = {"posix": PosixFilesystem, "memory": MemoryFilesystem, "sim": SimFilesystem}
    made: Filesystem = kinds[request.param]()
    return made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "f")


@pytest.fixture
def disk() -> PosixFilesystem:
    return PosixFilesystem()


# --- the contract ------------------------------------------------------------------------------------


def test_names(fs: Filesystem, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open(path)
    assert not fs.exists(path) and fs.identity(path) is None
    with pytest.raises(FileNotFoundError):
        fs.unlink(path)
    first = fs.open(path, create=True, exclusive=True)
    with pytest.raises(FileExistsError):
        fs.open(path, create=True, exclusive=True)
    again = fs.open(path, create=True)
    assert fs.exists(path) and fs.identity(path) == first.identity() == again.identity()
    fs.sync_dir(path)

    other = fs.open(path + "2", create=True)
    with pytest.raises(FileExistsError):
        fs.link_exclusive(path + "2", path)
    assert fs.identity(path) == first.identity() and fs.identity(path + "2") == other.identity()
    fs.link_exclusive(path + "2", path + "3")
    assert not fs.exists(path + "2") and fs.identity(path + "3") == other.identity()
    fs.rename(path + "3", path)
    assert fs.identity(path) == other.identity()
    first.pwrite(b"still here", 0)
    assert again.pread(10, 0) == b"still here", "an open file outlives its name"
    fs.unlink(path)
    assert not fs.exists(path)


def test_bytes(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    assert backend.writable and backend.size() == 0 and backend.pread(10, 0) == b""
    backend.pwrite(b"abc", 5)
    backend.pwrite(memoryview(bytearray(b"xyz")), 1)
    backend.pwrite(memoryview((ctypes.c_uint32 * 2)()).cast("B").cast("I"), 100)
    assert backend.pread(99, 0) == b"\0xyz\0abc" + bytes(91)
    assert backend.pread(3, 5) == b"abc" and backend.pread(9, 107) == b"\0" and backend.pread(9, 108) == b""
    backend.pwrite(b"", 0)
    assert backend.size() == 108
    backend.close()
    backend.close()


def test_sizes(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    backend.allocate(0, 1 << 16)
    assert backend.size() == 1 << 16
    backend.pwrite(b"x" * 8192, 4096)
    backend.allocate(0, 1 << 17)
    assert backend.size() == 1 << 17 and backend.pread(3, 4096) == b"xxx"
    backend.allocate(0, 4096)
    assert backend.size() == 1 << 17, "allocation never shortens"
    backend.truncate(8193)
    assert backend.size() == 8193


def test_syncs(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    backend.pwrite(b"x" * 100_000, 0)
    backend.write_back(0, 100_000)
    backend.write_back(50, 0)
    backend.sync_range(5000, 70_000)
    backend.sync_range(0, 1)
    backend.sync_data()
    backend.sync_all()


def test_reopen(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    fs.unlink(path)
    again = backend.reopen()
    assert again.identity() == backend.identity() and again.fileno() != backend.fileno()
    again.pwrite(b"shared", 0)
    backend.close()
    assert again.pread(6, 0) == b"shared"


def test_read_only(fs: Filesystem, path: str) -> None:
    fs.open(path, create=True).pwrite(b"abc", 0)
    backend = fs.open(path, write=False)
    assert not backend.writable and backend.pread(3, 0) == b"abc"
    assert not backend.reopen().writable


def test_nothing_survives_exec(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    for each in (backend, backend.reopen(), fs.open(path), fs.open(path, write=False)):
        assert not os.get_inheritable(each.fileno())


def test_mode(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True, mode=0o606)
    assert backend.mode() == 0o606 or isinstance(fs, MemoryFilesystem)
    assert backend.owner() == (os.geteuid(), os.getegid())


# --- real files --------------------------------------------------------------------------------------


def test_mode_is_given_in_spite_of_the_umask(disk: PosixFilesystem, path: str) -> None:
    disk.open(path, create=True, exclusive=True, mode=0o666)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    disk.open(path, create=True, mode=0o600)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666, "an existing file keeps its own"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_owner(disk: PosixFilesystem, path: str) -> None:
    assert disk.open(path, create=True, exclusive=True, owner=(12, 34)).owner() == (12, 34)


def test_only_regular_files(disk: PosixFilesystem, tmp_path: Path, path: str) -> None:
    os.mkfifo(path)
    with pytest.raises(FormatError, match="regular file"):
        disk.open(path)  # and doesn't wait for somebody to write
    with pytest.raises(FormatError, match="regular file"):
        disk.open("/dev/null")
    with pytest.raises(IsADirectoryError):
        disk.open(str(tmp_path))


def test_writing_to_a_read_only_file_is_refused(disk: PosixFilesystem, path: str) -> None:
    disk.open(path, create=True).pwrite(b"abc", 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.open(path, write=False).pwrite(b"x", 0)


def test_reopen_without_proc_finds_the_file_by_name(
    disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def no_proc(name: str, *rest: Any) -> int:
        if name.startswith("/proc/"):
            raise FileNotFoundError(name)
        return real(name, *rest)

    backend = disk.open(path, create=True)
    monkeypatch.setattr(os, "open", no_proc)
    assert backend.reopen().identity() == backend.identity()
    disk.unlink(path)
    disk.open(path, create=True)
    with pytest.raises(FileNotFoundError, match="another file"):
        backend.reopen()


@pytest.mark.parametrize("fs", ["posix", "memory"], indirect=True)
@pytest.mark.parametrize("at", [2 * GIB, 4 * GIB])
def test_offsets_past_32_bits(fs: Filesystem, path: str, at: int) -> None:
    backend = fs.open(path, create=True)
    for off in (at - 3, at + (1 << 12)):
        backend.pwrite(b"across", off)
    assert backend.pread(8, at - 4) == b"\0across\0"
    assert backend.pread(6, at + (1 << 12)) == b"across" and backend.size() == at + (1 << 12) + 6
    backend.sync_range(at - 10, 100)
    backend.write_back(at, 100)
    backend.truncate(at + 1)
    assert backend.size() == at + 1


def test_writes_larger_than_the_system_takes_at_once(disk: PosixFilesystem, path: str) -> None:
    """Linux writes at most 0x7ffff000 bytes a call; the buffer here is one page mapped over and over."""
    n = 2 * GIB + (1 << 20)
    address = libc.map_memory(None, n, libc.PROT_READ, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_NORESERVE)
    try:
        view = memoryview((ctypes.c_ubyte * n).from_address(address)).cast("B")
        seen: list[tuple[int, int]] = []

        class Counting(posix.PosixBackend):
            pass

        def pwrite(fd: int, data: Any, off: int) -> int:
            written = min(memoryview(data).nbytes, 0x7FFF_F000)
            seen.append((off, written))
            return written

        backend = Counting(disk.open(path, create=True).fileno(), path, True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            backend.pwrite(view, 7)
        assert seen == [(7, 0x7FFF_F000), (7 + 0x7FFF_F000, n - 0x7FFF_F000)]
        backend._fd = -1
    finally:
        libc.unmap(address, n)


def test_short_writes_and_reads_are_continued(
    disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, real_read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, off: real_write(fd, bytes(data)[:7], off))
    monkeypatch.setattr(os, "pread", lambda fd, n, off: real_read(fd, min(n, 5), off))
    backend = disk.open(path, create=True)
    data = bytes(range(256))
    backend.pwrite(data, 3)
    backend.pwrite(memoryview(data).cast("I"), 300)
    assert backend.pread(1000, 0) == bytes(3) + data + bytes(41) + data


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room(disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    backend = disk.open(path, create=True)
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(libc, "allocate", full)
    monkeypatch.setattr(os, "ftruncate", full)
    for call in (lambda: backend.pwrite(b"x", 0), lambda: backend.allocate(0, 9), lambda: backend.truncate(9)):
        with pytest.raises(DiskFullError, match="nothing was changed, make room") as caught:
            call()
        assert caught.value.errno == code and caught.value.filename == path and isinstance(caught.value, Error)


def test_other_errors_pass(disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "broken")

    backend = disk.open(path, create=True)
    monkeypatch.setattr(os, "pwrite", broken)
    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(libc, "sync_mapping", broken)
    monkeypatch.setattr(libc, "write_range", broken)
    for call in (
        lambda: backend.pwrite(b"x", 0),
        backend.sync_data,
        lambda: backend.sync_range(0, 1),
        lambda: backend.write_back(0, 1),
    ):
        with pytest.raises(OSError, match="broken") as caught:
            call()
        assert not isinstance(caught.value, Error)


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """RLIMIT_FSIZE of 1 MiB; Python ignores the signal that goes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield 1 << 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_size_limit_of_the_process(disk: PosixFilesystem, path: str, file_size_limit: int) -> None:
    backend = disk.open(path, create=True)
    backend.allocate(0, file_size_limit)
    with pytest.raises(DiskFullError, match="largest size"):
        backend.allocate(0, file_size_limit + 4096)
    with pytest.raises(DiskFullError, match="largest size"):
        backend.pwrite(b"x" * 8192, file_size_limit - 4096)
    assert backend.size() == file_size_limit


def test_file_systems_without_allocation(disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "allocate", lambda fd, off, n: False)
    backend = disk.open(path, create=True)
    backend.allocate(4096, 4096)
    assert backend.size() == 8192
    backend.allocate(0, 4096)
    assert backend.size() == 8192


def test_allocation_takes_room_on_the_medium(disk: PosixFilesystem, path: str) -> None:
    backend = disk.open(path, create=True)
    backend.truncate(1 << 20)
    backend.allocate(0, 1 << 20)
    assert os.stat(path).st_blocks * 512 >= 1 << 20


def test_file_systems_without_rename_exclusive(
    disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libc, "rename_exclusive", lambda source, target: False)
    test_names(disk, path)


def test_sync_without_addresses(disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def none_left(*_: Any) -> int:
        raise OSError(errno.ENOMEM, "no addresses")

    monkeypatch.setattr(libc, "map_memory", none_left)
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append("fdatasync"))
    disk.open(path, create=True).sync_range(0, 4096)
    assert calls == ["fdatasync"]


def test_a_full_sync_where_the_drive_has_a_cache_of_its_own(
    disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(posix, "_FULLFSYNC", 51)
    monkeypatch.setattr(posix.fcntl, "fcntl", lambda fd, command: calls.append(command))
    backend = disk.open(path, create=True)
    backend.sync_all()
    backend.sync_data()
    backend.sync_range(0, 10)
    assert calls == [51, 51, 51]


def test_network_file_systems_are_recognised(
    fs: Filesystem, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fs.network(str(tmp_path)) is None
    monkeypatch.setattr(libc, "filesystem_type", lambda path: 0x6969)
    assert fs.network(path) == ("NFS" if isinstance(fs, PosixFilesystem) else None)


def test_the_type_of_a_file_system(tmp_path: Path) -> None:
    assert libc.filesystem_type("/proc") == 0x9FA0 or not libc.LINUX
    with pytest.raises(FileNotFoundError, match="statfs"):
        libc.filesystem_type(str(tmp_path / "missing"))


# --- system calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_fallocate", "_sync_file_range", "_msync"])
def test_interrupted_calls_are_asked_again(
    name: str, disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(libc, name)
    asked: list[int] = []

    def interrupted(*arguments: Any) -> int:
        asked.append(1)
        if len(asked) < 3:
            ctypes.set_errno(errno.EINTR)
            return -1
        return int(real(*arguments))

    backend = disk.open(path, create=True)
    backend.pwrite(b"x" * 4096, 0)
    monkeypatch.setattr(libc, name, interrupted)
    backend.allocate(0, 8192)
    backend.write_back(0, 4096)
    backend.sync_range(0, 4096)
    assert len(asked) == 3 and backend.size() == 8192


def test_missing_calls_are_said_to_be_missing(
    disk: PosixFilesystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    fd = disk.open(path, create=True).fileno()
    for missing in (None, unsupported):
        for name in ("_fallocate", "_renameat2"):
            monkeypatch.setattr(libc, name, missing)
        assert not libc.allocate(fd, 0, 10)
        assert not libc.rename_exclusive(path, path + "2")
    monkeypatch.setattr(libc, "_sync_file_range", None)
    assert not libc.write_range(fd, 0, 10)
    disk.open(path).write_back(0, 10)


def test_errors_say_which_call() -> None:
    with pytest.raises(OSError, match="fallocate"):
        libc.allocate(-1, 0, 10)
    with pytest.raises(OSError, match="mmap of 0 bytes"):
        libc.map_memory(None, 0, 0, libc.MAP_PRIVATE)
    with pytest.raises(OSError, match="munmap"):
        libc.unmap(1, 1)
    with pytest.raises(OSError, match="msync"):
        libc.sync_mapping(libc.PAGE * 16, libc.PAGE)


@pytest.mark.parametrize("futexes", [True, False])
def test_futex(futexes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "FUTEX", libc.FUTEX and futexes)
    word = memoryview(bytearray(64))
    assert libc.futex_wait(word, 8, 1, 5.0), "the word differs: no sleep"
    assert not libc.futex_wait(word, 8, 0, 0.01), "nobody wakes"
    assert libc.futex_wake(word, 8) == 0

    def wake() -> None:
        word[8] = 1
        while libc.futex_wake(word, 8) == 0 and thread_waits:
            pass

    thread_waits = True
    thread = threading.Thread(target=wake)
    thread.start()
    while libc.futex_wait(word.toreadonly(), 8, 0, 5.0) and word[8] == 0:
        pass
    thread_waits = False
    thread.join()
    assert word[8] == 1


def test_futex_between_processes(fs: Filesystem, path: str) -> None:
    backend = fs.open(path, create=True)
    backend.allocate(0, FIXED_SIZE)
    live = map_live(backend)
    child = os.fork()
    if child == 0:
        deadline = time.monotonic() + 10
        while live[0] == 0 and time.monotonic() < deadline:
            libc.futex_wait(live, 0, 0, 10.0)
        os._exit(0 if live[0] else 1)
    live[4] = 1  # another word
    while libc.futex_wake(live, 0) == 0:  # not asleep yet
        time.sleep(0.001)
    live[0] = 1
    libc.futex_wake(live, 0)
    assert os.waitpid(child, 0)[1] == 0


# --- memory ------------------------------------------------------------------------------------------


def test_memory_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    fs = MemoryFilesystem()
    backend = fs.open("a", create=True)
    backend.pwrite(b"abc", 0)
    assert fs.open("a").pread(3, 0) == b"abc" and not os.get_inheritable(backend.fileno())


def test_memory_is_adopted_by_descriptor() -> None:
    there, here = MemoryFilesystem(), MemoryFilesystem()
    backend = there.open("a", create=True)
    here.adopt("a", os.dup(backend.fileno()))
    here.open("a").pwrite(b"abc", 0)
    assert backend.pread(3, 0) == b"abc" and here.identity("a") == backend.identity()
    there.close()
    assert not there.exists("a") and here.open("a").pread(3, 0) == b"abc"
