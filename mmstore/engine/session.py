"""A session: one handle's attachment to a store, with everything that the protocols work on.

It owns the open file and its mapping, the locks, the live page, the pins, the free list, the log and the
private pages of the one transaction that the handle may be building.  ``attach`` makes it, the protocols
(``commit``, ``checkpoint``, ``recovery``) move it, the database package wraps it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.disk.backend import Backend, Filesystem
from mmstore.disk.locks import FileLocks
from mmstore.disk.log import Log, aside_path
from mmstore.disk.newfile import leads_to
from mmstore.disk.storefile import StoreFile
from mmstore.errors import ClosedError, CorruptError, DiskFullError, SyncError
from mmstore.keyspace.index import Index
from mmstore.pages.freelist import FreeList
from mmstore.pages.live import LivePage
from mmstore.pages.pins import Pins
from mmstore.pages.readers import Interval, needed_intervals
from mmstore.pages.root import Identity, Root
from mmstore.pages.workspace import Workspace

__all__ = ["Options", "Session"]

_KNOWN = 64  # entries that are kept from one transaction to the next


@dataclass(frozen=True, slots=True)
class Options:
    """How a handle was opened."""

    writable: bool = True
    durability: str = "full"
    timeout: float = 5.0
    """Seconds to wait for a lock."""
    in_memory: bool = False
    network: bool = False
    """Whether the file may lie on a network file system."""
    background: bool = True
    """Checkpoints that are due run in a thread of their own; else inside the commit that finds them due."""
    log_ring: int = 4 << 20
    """Bytes of log."""


class Session:
    """One handle's attachment.  ``root`` is the newest published root this handle has seen."""

    def __init__(
        self,
        fs: Filesystem,
        path: str,
        backend: Backend,
        identity: Identity,
        options: Options,
        locks: FileLocks,
        private: bool = False,
    ) -> None:
        """``private``: changes (a recovery's) stay in this process' memory."""
        self.fs = fs
        self.path = path
        self.identity = identity
        self.options = options
        self.locks = locks
        self.page_size = identity.page_size
        self.store = StoreFile(backend, identity.page_size, private=private)
        self.live = LivePage(self.store.live)
        self.pins = Pins(self.live, locks, self.published, backend.writable, backend)
        self.freelist = FreeList(self, self.needed, lambda: self.live.txn)
        self.workspace = self._new_workspace()
        self.log: Log | None = None
        self.spare_indexes: list[Index] = []
        self.words: dict[int, Any] = {}
        """The words of category columns, as `columns.words` has them, of states that were committed or are being."""
        self.tails: dict[tuple[int, int], Any] = {}
        """Running hashes of the ends of columns, as `columns.sequence` has them, whatever becomes of a transaction."""
        self.disk_full = False
        """The file could not grow since the last transaction began."""
        self.closed = False
        """Set before the handle leaves; another thread may still be inside."""
        self.left = False
        """Whether its files are closed, too."""
        self._prepared = False
        self._newest: Root | None = None
        self._known: tuple[Root | None, dict[bytes, Entry]] = (None, {})
        self._nonces = count(int.from_bytes(os.urandom(8), "little") | 1, 2)
        self.checkpointing = threading.Lock()
        self.background: threading.Thread | None = None
        self.background_error: Exception | None = None
        self.counts = {"commits": 0, "large_commits": 0, "syncs": 0, "checkpoints": 0, "settled": 0}

    def new_nonce(self) -> int:
        """A number that is not 0 and that no other session gives: odd ones from a random one on."""
        return next(self._nonces) & 0xFFFF_FFFF_FFFF_FFFF

    @contextmanager
    def hold_checkpoint(self) -> Iterator[None]:
        """The right to write headers, among the threads and processes; raises LockTimeout."""
        deadline = time.monotonic() + self.options.timeout
        with self.checkpointing:
            self.locks.acquire_exclusive(fmt.LOCK_CHECKPOINT, deadline)
            try:
                yield
            finally:
                self.locks.unlock(fmt.LOCK_CHECKPOINT)

    # --- roots --------------------------------------------------------------------------------------

    def published(self) -> Root:
        """The newest published root, with the file mapped as far as it goes."""
        root = self._newest
        if root is None or root.txn != self.live.txn:
            root = self.live.read_root()
            self.follow(root)
            self._newest = root
        return root

    def remember(self, root: Root) -> None:
        """``root`` was just published by this handle."""
        self._newest = root

    def know(self, root: Root, entries: dict[bytes, Entry]) -> None:
        """This handle has built `root`, and these entries of its catalog need not be read again."""
        self._known = (root, entries if len(entries) <= _KNOWN else {})

    def learn(self, root: Root, name: bytes, entry: Entry) -> None:
        """One more entry, read from a `root` that was pinned."""
        about, entries = self._known
        if about is not root:
            self._known = (root, {name: entry})
        elif len(entries) < _KNOWN:
            entries[name] = entry

    def known(self, root: Root) -> Mapping[bytes, Entry]:
        """What `know` was told of this very root."""
        about, entries = self._known
        return entries if about is root else {}

    def forget(self) -> None:
        """A new session has begun: nothing known so far holds."""
        self._newest = None
        self.discard()

    def discard(self) -> None:
        """Drop what a transaction has left behind in memory; what it may be is not looked at.

        So nothing of it is kept and used again: an exception may have struck while it was being set up.
        """
        self.freelist.forget()
        self.workspace = self._new_workspace()
        self.spare_indexes.clear()
        self.words.clear()
        self.tails.clear()

    def _new_workspace(self) -> Workspace:
        return Workspace(self.store, self.freelist, self.page_size, self.identity.seed)

    def follow(self, root: Root) -> None:
        """Map what other processes grew."""
        if root.pages * self.page_size > self.store.size:
            self.store.follow(root.pages * self.page_size)

    def prepare_to_write(self) -> None:
        """Before the first write: allocate the whole file again, since one that was copied may have holes."""
        if not self._prepared:
            self.store.allocate_again()
            self._prepared = True

    # --- what the free list asks --------------------------------------------------------------------

    def needed(self) -> tuple[list[Interval], list[Interval]]:
        self.pins.drain()
        return needed_intervals(self.live, self.locks, self.pins.slot, durable=not self.options.in_memory)

    def pread(self, n: int, offset: int) -> bytes:
        return self.store.read(offset, n)

    def grow(self, to: int) -> None:
        try:
            self.store.grow(to)
        except DiskFullError:
            self.disk_full = True
            raise
        self.live.set("file_size", max(self.store.size, self.live.get("file_size")))

    # --- the log ------------------------------------------------------------------------------------

    def log_paths(self) -> tuple[str, str]:
        """The log's name, and the other that it may have: in this order, whoever looks for it misses no move.

        Flag "n" gives the data file's name to a new store while this one is open.  From then on the log's
        name belongs to that store, and our log lies, or is moved by it, aside.
        """
        name = self.path + fmt.WAL_SUFFIX
        return name, aside_path(name, self.identity.uuid)

    def new_log_path(self) -> str:
        """The name for a log that is to be made."""
        name, aside = self.log_paths()
        return name if leads_to(self.fs, self.path, self.store.backend) else aside

    def current_log(self) -> Log | None:
        """The log that the live page names, opened when another process made it; None if there is none."""
        log_id = self.live.get("log_id")
        if not log_id:
            return None
        log = self.log
        if log is None or log.log_id != log_id:
            # Another thread may be using the one before: it is closed when nobody refers to it any more.
            log = self.log = self.open_log(log_id)
        return log

    def open_log(self, log_id: int) -> Log:
        """Open log ``log_id`` under either of its names; CorruptError if it isn't there."""
        writable = self.store.backend.writable
        first, second = self.log_paths()
        uuid, links = self.identity.uuid, self.store.backend.links()
        try:
            return Log.open(self.fs, first, log_id, uuid, write=writable, links=links)
        except CorruptError:
            if not self.fs.exists(second):
                raise
            return Log.open(self.fs, second, log_id, uuid, write=writable, links=links)

    def drop_log(self) -> None:
        if self.log is not None:
            self.log.close()
            self.log = None

    # --- failed syncs (I7) --------------------------------------------------------------------------

    def sync(self, how: Callable[[], None]) -> None:
        """Run a sync; if it fails, poison the store for every handle (a retried sync can lie)."""
        self.check_poison()
        try:
            how()
        except OSError as error:
            if self.left:  # by another thread just now: that says nothing about the disk
                raise ClosedError(f"{self.path} was closed while it was being synced; open it again") from None
            self.live.set("poison", 1)
            raise SyncError(
                error.errno or 0,
                f"syncing {self.path} failed ({error}): what reached the disk is unknown and nothing more will be "
                "acknowledged; close every handle of this store and open it again to recover",
            ) from error
        self.counts["syncs"] += 1

    def check_poison(self) -> None:
        if self.live.get("poison"):
            raise SyncError(
                0,
                f"{self.path} takes no writes since a sync failed in this session; "
                "close every handle of this store and open it again to recover",
            )
