"""The write-ahead log: a ring of records beside the data file, each chained to the one before.

::

    0      header: magic, id, the store's uuid, the ring's size
    4 KiB  ring:   | record | record | record |  stale bytes  |
                   ^ log_start                ^ position

Positions are virtual: they only ever grow, and ``position % ring`` is the place.  A record is valid if and
only if (1) its length fits the ring and is a multiple of 8, (2) its checksum holds, (3) ``previous`` is
the checksum of the record before it, (4) its txn id is the next one.  The first that isn't ends the
log: what follows was never acknowledged, or belongs to an earlier lap.  Unless a later record that is
whole says that the missing one was known synced when it was written: then the medium lost it, and
that is CorruptError (I3).  A record's ``nonce``, fresh for each taker of the writer lock, changes its
checksum, so nothing that a dead writer left behind continues another writer's chain.

The file is made whole (zero-filled and synced) under another name and then renamed, so a log that has
its name can always be appended to without changing metadata.  It is filled by writes of 64 KiB, since
fallocate would leave unwritten extents and one huge write large folios, and both make later small
appends slower.

Whoever appends holds the writer lock and has checked for room: ``position - log_start`` bytes of the
ring are taken.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from xxhash import xxh3_64_intdigest as xxh3_64

from mmstore.disk.backend import Backend, Buffer, Filesystem
from mmstore.disk.locks import FileLocks
from mmstore.disk.newfile import leads_to, making, temporary
from mmstore.errors import CorruptError, SyncError
from mmstore.format import LOCK_MAKER, LOG_ALIGN, LOG_HEADER, LOG_MAGIC, LOG_RECORD, LOG_RING_AT, WAL_SUFFIX

DEFAULT_RING: Final = 4 << 20
_SMALLEST_RING: Final = 4096
_LARGEST_RING: Final = 1 << 40
_FILL: Final = bytes(64 << 10)
_CHECKSUM: Final = 8  # bytes of a record's checksum, its first field
_PADDING: Final = tuple(bytes(n) for n in range(LOG_ALIGN))
_pack_record: Final = LOG_RECORD.struct.pack
_PATIENCE: Final = 5.0  # seconds to wait for another store that moves a log: it takes some microseconds
_HASHED_LAPS: Final = 16  # how often the search for a later record may hash the whole ring


@dataclass(frozen=True, slots=True)
class Record:
    """A valid record."""

    txn: int
    payload: bytes
    start: int
    """Where it lies."""
    position: int
    """Where the next record goes."""
    chain: int
    """Its checksum, that the next record carries."""
    synced: int
    nonce: int


def record_size(payload: int) -> int:
    """Bytes that a record with so many bytes of operations takes."""
    return -(-(LOG_RECORD.size + payload) // LOG_ALIGN) * LOG_ALIGN


class Log:
    """An open log."""

    def __init__(self, backend: Backend, path: str, log_id: int, ring: int) -> None:
        self.backend = backend
        self.path = path
        self.log_id = log_id
        self.ring = ring

    # --- life ---

    @classmethod
    def create(
        cls,
        fs: Filesystem,
        path: str,
        log_id: int,
        uuid: bytes,
        ring: int = DEFAULT_RING,
        like: Backend | None = None,
        timeout: float = 5.0,
    ) -> Log:
        """Make a log that is durable, name included; the caller holds the writer lock.

        Its mode, and as root its owner, are those of the data file ``like``: whoever may commit there may here.
        A file that has the name already is replaced, since no header of this store names it; but if it
        is the log of another store, that may still hold commits, it is moved aside first.  Raises
        SyncError when the log can't be made durable, LockTimeout when another store makes its own here for longer than
        ``timeout`` seconds.
        """
        mode, owner = (like.mode(), like.owner()) if like is not None else (None, None)
        with making(fs, path, timeout, mode=mode, owner=owner) as backend:
            for at in range(0, LOG_RING_AT + ring, len(_FILL)):
                backend.pwrite(_FILL[: LOG_RING_AT + ring - at], at)
            fields = {"magic": LOG_MAGIC, "log_id": log_id, "uuid": uuid, "ring": ring, "checksum": 0}
            body = LOG_HEADER.pack(fields)[:-_CHECKSUM]
            backend.pwrite(body + xxh3_64(body).to_bytes(_CHECKSUM, "little"), 0)
            _sync(backend.sync_all, path)
            _move_stranger_aside(fs, path, uuid, timeout)
            fs.rename(temporary(path), path)
            _sync(lambda: fs.sync_dir(path), path)
        backend.name = path
        return cls(backend, path, log_id, ring)

    @classmethod
    def open(cls, fs: Filesystem, path: str, log_id: int, uuid: bytes, *, write: bool = True, links: int = 1) -> Log:
        """Open the log that a header names; CorruptError if it is missing, damaged or another's.

        ``links``: how many names the data file has.  The log lies beside the one under which it was made.
        """
        put_back = "put the log that belongs to it back beside the data file"
        if links > 1:
            put_back = (
                f"the data file has {links} names (hard links), and its log lies beside one of them: open the store "
                "under that name"
            )
        try:
            backend = fs.open(path, write=write)
        except FileNotFoundError as error:
            raise CorruptError(
                f"{path!r}: expected the log of this store, found no such file: commits since the last checkpoint are "
                f"in it; {put_back}"
            ) from error
        try:
            fields = _read_header(backend)
            expected = f"{path!r}: expected log {log_id:016x} of this store"
            if fields is None:
                raise CorruptError(f"{expected}, found a damaged header; restore both files from a backup", offset=0)
            if fields["log_id"] != log_id or fields["uuid"] != uuid:
                raise CorruptError(
                    f"{expected}, found log {fields['log_id']:016x} of store {fields['uuid'].hex()}: {put_back}",
                    offset=0,
                )
            ring = int(fields["ring"])
            if not _SMALLEST_RING <= ring <= _LARGEST_RING or ring % LOG_ALIGN:
                raise CorruptError(f"{expected}, found a ring of {ring} bytes; restore from a backup", offset=0)
            if backend.size() < LOG_RING_AT + ring:
                raise CorruptError(
                    f"{expected} with {LOG_RING_AT + ring} bytes, found {backend.size()}: it was cut short; restore "
                    "both files from a backup",
                    offset=backend.size(),
                )
        except BaseException:
            backend.close()
            raise
        return cls(backend, path, log_id, ring)

    @staticmethod
    def remove_of(fs: Filesystem, path: str, uuid: bytes) -> None:
        """Remove a log of store ``uuid`` that no header names; another store's stays."""
        with contextlib.suppress(FileNotFoundError, PermissionError):  # where it can't be removed it does no harm
            found = fs.open(path)
            try:
                fields = _read_header(found)
                if fields is not None and fields["uuid"] == uuid:
                    _unlink(fs, path, found)
            finally:
                found.close()

    def is_ours(self, fs: Filesystem, path: str) -> bool:
        """Whether the name still leads to this file."""
        return leads_to(fs, path, self.backend)

    def unlink_if_ours(self, fs: Filesystem, path: str) -> bool:
        """Remove the name if it still leads to this file; durable only after the folder is synced."""
        return self.is_ours(fs, path) and _unlink(fs, path, self.backend)

    def close(self) -> None:
        """Close the file."""
        self.backend.close()

    # --- writing ---

    def room(self, position: int, log_start: int) -> int:
        """Bytes that can be appended at ``position`` while the records from ``log_start`` on are needed."""
        return self.ring - (position - log_start)

    def append(
        self,
        txn: int,
        payload: bytes | Sequence[Buffer],
        previous: int,
        position: int,
        synced: int,
        nonce: int = 0,
    ) -> tuple[int, int]:
        """Write a record at ``position``; returns where the next one goes, and the chain to hand to it.

        Not durable before ``sync``.  The caller has made sure of ``record_size`` bytes of room.
        """
        if not isinstance(payload, bytes):
            payload = b"".join(payload)
        n = len(payload)
        length = (LOG_RECORD.size + n + LOG_ALIGN - 1) & -LOG_ALIGN
        head = _pack_record(0, previous, txn, synced, nonce, length, n)
        body = head[_CHECKSUM:] + payload + _PADDING[length - LOG_RECORD.size - n]
        chain = xxh3_64(body, self.log_id)
        self._write(chain.to_bytes(_CHECKSUM, "little") + body, position)
        return position + length, chain

    def _write(self, data: bytes, position: int) -> None:
        at = position % self.ring
        fits = self.ring - at
        if len(data) <= fits:
            self.backend.pwrite(data, LOG_RING_AT + at)
        elif len(data) <= self.ring:
            self.backend.pwrite(data[:fits], LOG_RING_AT + at)
            self.backend.pwrite(data[fits:], LOG_RING_AT)
        else:
            raise ValueError(f"a record of {len(data)} bytes in a ring of {self.ring}")

    def sync(self) -> None:
        """Make all that was appended durable; OSError says that this is not known now."""
        self.backend.sync_data()

    def cut(self, position: int) -> None:
        """Make sure that no record starts at ``position``; the caller syncs."""
        self._write(bytes(LOG_RECORD.size), position)

    # --- reading ---

    def replay(self, position: int, chain: int, txn: int) -> Iterator[Record]:
        """The valid records behind the root ``txn``, whose log place is ``position`` and ``chain``.

        No byte is trusted (I6).  Raises CorruptError where a record is missing that was known synced.
        """
        end = position + self.ring
        while True:
            record = self._record(position, end)
            if record is None or record[0] != chain or record[1].txn != txn + 1:
                self._refuse_loss(position, end, txn + 1)
                return
            yield record[1]
            position, chain, txn = record[1].position, record[1].chain, record[1].txn

    def _read(self, position: int, n: int) -> bytes:
        at = position % self.ring
        fits = self.ring - at
        data = self.backend.pread(min(n, fits), LOG_RING_AT + at)
        return data if n <= fits else data + self.backend.pread(n - fits, LOG_RING_AT)

    def _record(self, position: int, end: int) -> tuple[int, Record] | None:
        """(previous chain, record) if a whole one lies at ``position`` and ends by ``end``."""
        if end - position < LOG_RECORD.size:
            return None
        head = self._read(position, LOG_RECORD.size)
        if len(head) < LOG_RECORD.size:
            return None
        checksum, previous, txn, synced, nonce, length, n = LOG_RECORD.struct.unpack(head)
        if length != record_size(n) or length > end - position:
            return None
        body = head[_CHECKSUM:] + self._read(position + LOG_RECORD.size, length - LOG_RECORD.size)
        if len(body) != length - _CHECKSUM or xxh3_64(body, self.log_id) != checksum:
            return None
        start = LOG_RECORD.size - _CHECKSUM
        return previous, Record(txn, body[start : start + n], position, position + length, checksum, synced, nonce)

    def _refuse_loss(self, position: int, end: int, missing: int) -> None:
        """CorruptError if a whole record behind ``position`` was written when ``missing`` was known synced.

        Candidates are found by the txn id: no more of them fit into the ring than records.  Records of
        earlier laps have lower ones, so nothing stale speaks.
        """
        window = self._read(position, end - position)
        words = np.frombuffer(window, "<u8", len(window) // LOG_ALIGN)
        found, synced_then = words[:-1], words[1:]  # the fields txn and synced are neighbours
        highest = missing + self.ring // LOG_RECORD.size
        fits = (found <= highest) & (synced_then >= missing) & (synced_then < found)
        budget = _HASHED_LAPS * self.ring
        for index in np.flatnonzero(fits).tolist():
            at = index * LOG_ALIGN - LOG_RECORD.offset["txn"]
            if at < LOG_ALIGN or at + LOG_RECORD.size > len(window):
                continue
            checksum, _, _, _, _, length, n = LOG_RECORD.struct.unpack_from(window, at)
            if length != record_size(n) or at + length > len(window):
                continue
            budget -= length
            if budget < 0 or xxh3_64(window[at + _CHECKSUM : at + length], self.log_id) == checksum:
                raise CorruptError(
                    f"{self.path!r}: expected the record of transaction {missing}, which was synced, found bytes that "
                    "contradict their checksum; restore both files from a backup, or salvage the last checkpoint",
                    offset=LOG_RING_AT + position % self.ring,
                )


def _read_header(backend: Backend) -> dict[str, Any] | None:
    data = backend.pread(LOG_HEADER.size, 0)
    if len(data) < LOG_HEADER.size:
        return None
    fields = LOG_HEADER.unpack(data)
    if fields["magic"] != LOG_MAGIC or fields["checksum"] != xxh3_64(data[:-_CHECKSUM]):
        return None
    return fields


def _sync(how: Callable[[], None], path: str) -> None:
    try:
        how()
    except OSError as error:
        message = f"syncing {path} failed ({error}): close every handle of this store and open it again to recover"
        raise SyncError(error.errno or 0, message) from error


@contextlib.contextmanager
def _naming(fs: Filesystem, path: str, backend: Backend, timeout: float) -> Iterator[bool]:
    """Meanwhile nobody else takes the name from the log ``backend`` or gives it to another; whether it has it.

    The log's own store removes it, and one that has taken its data file's name moves it aside: without a lock the one
    that looked first could remove what the other has put in its place.
    """
    locks = FileLocks(backend)
    locks.acquire_exclusive(LOCK_MAKER, time.monotonic() + timeout, "another store to move or remove this log")
    try:
        yield leads_to(fs, path, backend)
    finally:
        locks.unlock(LOCK_MAKER)


def _unlink(fs: Filesystem, path: str, backend: Backend) -> bool:
    with _naming(fs, path, backend, _PATIENCE) as named:
        if named:
            fs.unlink(path)
        return named


def _move_stranger_aside(fs: Filesystem, path: str, uuid: bytes, timeout: float) -> None:
    named = False
    while not named:
        try:
            found = fs.open(path)
        except FileNotFoundError:
            return
        try:
            fields = _read_header(found)
            if fields is None or fields["uuid"] == uuid:
                return
            with _naming(fs, path, found, timeout) as named:
                if named:
                    aside = aside_path(path, fields["uuid"])
                    while fs.exists(aside):
                        aside += "~"
                    fs.link_exclusive(path, aside)
        finally:
            found.close()


def aside_path(path: str, uuid: bytes) -> str:
    """Where the log at ``path`` of store ``uuid`` is moved when another store takes its data file's name."""
    return f"{path}.{uuid.hex()[:8]}"


def log_path(fs: Filesystem, path: str) -> str:
    """The path of the log of the data file at ``path``, whatever links lead there."""
    return fs.realpath(path) + WAL_SUFFIX


def log_place(fs: Filesystem, path: str) -> int:
    """The place of the log of the data file at ``path``, as a number: the same whatever its folder is called."""
    folder = fs.identity(os.path.dirname(path))
    return xxh3_64(os.fsencode(os.path.basename(path)), 0 if folder is None else folder[1])


assert LOG_RECORD.offset["synced"] == LOG_RECORD.offset["txn"] + LOG_ALIGN
