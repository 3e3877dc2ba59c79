"""Byte-range locks on the data file: the only means by which processes that share a store exclude each other.

They are OFD locks: they belong to the open file description, so two handles in one process exclude each
other as two processes do, closing another descriptor of the same file loses none, and a killed process's
locks vanish.  The locked bytes lie far behind any data (``format.LOCK_*``).

::

    GATE      attach, recovery, last close: one at a time
    LIVE      shared by every handle that may write
    TURN      held by the one that is next to write: whoever wants to write, wants this byte first
    WRITER    held by the one that writes
    MAKER     who makes a store or a log, or moves or removes a log: of that very file
    SLOTS+i   held by the owner of reader slot i
    PINS+t    shared by a handle that may not write the file and reads root t

The writer lock takes two bytes because a single polled one starves: he who lets go and asks again at
once nearly always wins over sleepers.  With TURN he finds the next one in line before him.

A forked child shares the open file description, and with it the locks.  It may only close its
descriptor, which leaves them to the parent; so in a child ``unlock`` does nothing and taking a lock
raises ClosedError.  Threads that share a ``FileLocks`` are not excluded from each other.

Where there are no OFD locks (neither Linux nor macOS), classic POSIX locks stand in: there only one
handle of a store per process may be open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

from mmstore.disk.backend import Backend
from mmstore.errors import ClosedError, LockTimeout
from mmstore.format import LOCK_TURN, LOCK_WRITER

assert LOCK_WRITER == LOCK_TURN + 1  # writer_acquire takes both by one call where nobody is in the way

# struct flock, the one struct of the operating system's in mmstore
if sys.platform == "darwin":
    _FLOCK: Final = struct.Struct("=qqihh")  # start, length, pid, type, whence
    _SET, _GET = 90, 92  # F_OFD_SETLK, F_OFD_GETLK
else:
    _FLOCK: Final = struct.Struct("@hhqqi4x")  # type, whence, start, length, pid
    _LINUX = sys.platform == "linux"
    _SET = getattr(fcntl, "F_OFD_SETLK", 37 if _LINUX else fcntl.F_SETLK)
    _GET = getattr(fcntl, "F_OFD_GETLK", 36 if _LINUX else fcntl.F_GETLK)

_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})
_SHORTEST: Final = 20e-6  # seconds between two attempts
_LONGEST: Final = 300e-6
_PATIENCE: Final = 5e-3  # after so many seconds the pause is half of the longest

_generation = 0


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


def _flock(kind: int, off: int, n: int) -> bytes:
    if sys.platform == "darwin":
        return _FLOCK.pack(off, n, 0, kind, os.SEEK_SET)
    return _FLOCK.pack(kind, os.SEEK_SET, off, n, 0)


_TAKE_BOTH: Final = _flock(fcntl.F_WRLCK, LOCK_TURN, 2)
_TAKE_TURN: Final = _flock(fcntl.F_WRLCK, LOCK_TURN, 1)
_TAKE_WRITER: Final = _flock(fcntl.F_WRLCK, LOCK_WRITER, 1)
_LEAVE_TURN: Final = _flock(fcntl.F_UNLCK, LOCK_TURN, 1)
_LEAVE_WRITER: Final = _flock(fcntl.F_UNLCK, LOCK_WRITER, 1)


class FileLocks:
    """The locks that one open file description holds."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend  # asked for its descriptor each time: a closed one's number may be another file's
        self._generation = _generation

    # --- single bytes ---

    def try_exclusive(self, byte: int) -> bool:
        """Lock a byte against all others; also turns an own shared lock into an exclusive one."""
        return self._try(_flock(fcntl.F_WRLCK, byte, 1))

    def try_shared(self, byte: int) -> bool:
        """Lock a byte against exclusive locks; also turns an own exclusive lock into a shared one."""
        return self._try(_flock(fcntl.F_RDLCK, byte, 1))

    def unlock(self, byte: int) -> None:
        """Let go of a byte; nothing happens if it isn't held."""
        self._leave(_flock(fcntl.F_UNLCK, byte, 1))

    def held_by_other(self, byte: int, n: int = 1) -> bool:
        """Whether anyone else, this process's other handles included, holds one of the bytes."""
        return self.first_conflict(byte, n) is not None

    def first_conflict(self, off: int, n: int) -> tuple[int, int] | None:
        """(start, length) of a lock that another holds within [off, off + n); of several, not the lowest."""
        answer = fcntl.fcntl(self._backend.fileno(), _GET, _flock(fcntl.F_WRLCK, off, n))
        if sys.platform == "darwin":
            start, length, _, kind, _ = _FLOCK.unpack(answer)
        else:
            kind, _, start, length, _ = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            return None
        return start, length or (1 << 63) - 1 - start

    def conflicts(self, off: int, n: int) -> Iterator[tuple[int, int]]:
        """(start, length) of the parts of [off, off + n) that others hold, ascending, shared ones once each or more."""
        gaps = [(off, off + n)]
        while gaps:
            start, stop = gaps.pop()
            found = self.first_conflict(start, stop - start) if start < stop else None
            if found is None:
                continue
            low, high = max(found[0], start), min(found[0] + found[1], stop)
            if low > start and self.first_conflict(start, low - start) is not None:
                gaps += [(low, stop), (start, low)]
                continue
            yield low, high - low
            gaps.append((high, stop))

    def acquire_exclusive(self, byte: int, deadline: float | None, what: str = "the lock") -> None:
        """Lock a byte, waiting until ``deadline`` (of ``time.monotonic``; None: for ever); LockTimeout."""
        self._acquire(_flock(fcntl.F_WRLCK, byte, 1), deadline, what)

    def acquire_shared(self, byte: int, deadline: float | None, what: str = "the lock") -> None:
        """The same, shared."""
        self._acquire(_flock(fcntl.F_RDLCK, byte, 1), deadline, what)

    # --- the writer lock ---

    def writer_try(self) -> bool:
        """Take the writer lock if nobody holds it or waits for it."""
        if not self._try(_TAKE_BOTH):
            return False
        fcntl.fcntl(self._backend.fileno(), _SET, _LEAVE_TURN)
        return True

    def writer_acquire(self, deadline: float | None) -> None:
        """Take the writer lock in turn; LockTimeout when ``deadline`` (of ``time.monotonic``) has passed."""
        if self.writer_try():
            return
        what = "the writer lock"
        self._acquire(_TAKE_TURN, deadline, what)
        try:
            self._acquire(_TAKE_WRITER, deadline, what, alone=True)
        finally:
            self._leave(_LEAVE_TURN)

    def writer_release(self) -> None:
        """Let the next one write."""
        self._leave(_LEAVE_WRITER)

    def writer_waited(self) -> bool:
        """Whether somebody else stands in line for the writer lock."""
        return self.first_conflict(LOCK_TURN, 1) is not None

    # --- inner ---

    def _try(self, request: bytes) -> bool:
        if self._generation != _generation:
            raise ClosedError(f"{self._backend.name!r}: locks inherited through a fork belong to the parent; open anew")
        try:
            fcntl.fcntl(self._backend.fileno(), _SET, request)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _leave(self, request: bytes) -> None:
        if self._generation == _generation:
            fcntl.fcntl(self._backend.fileno(), _SET, request)

    def _acquire(self, request: bytes, deadline: float | None, what: str, alone: bool = False) -> None:
        began = time.monotonic()
        while not self._try(request):
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise LockTimeout(
                    f"{self._backend.name!r}: {what} was not to be had within {now - began:.1f} s; another handle or "
                    "process holds it: wait for it to finish, or open with a longer timeout="
                )
            waited = now - began
            if alone:
                pause = _SHORTEST + min(waited / 20, _LONGEST)
            else:  # who has waited long looks more often: a newcomer's chances would be better otherwise
                pause = _SHORTEST + _LONGEST * _PATIENCE / (_PATIENCE + waited)
            time.sleep(pause if deadline is None else min(pause, deadline - now))
