"""The right to write: one builder at a time over the threads of a handle, the handles and the processes.

Within a handle a mutex passes from builder to builder.  A builder gives it up as soon as its record is in
the log, so the next one builds on a root that is not yet durable while the one before is being synced;
whoever reaches the sync first carries the others along (group commit).  Roots are published in order, and
only when durable.

Between handles the writer lock of the file is held from the first build until nothing is pending; it is
handed over after GROUPS_KEPT groups at the latest when another handle waits for its turn.  Whoever takes it
and finds ``committing`` beyond ``txn`` finishes or cuts off what a dead writer left (recovery.settle).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from mmstore.engine import recovery
from mmstore.engine.publish import publish
from mmstore.engine.session import Session
from mmstore.errors import ClosedError, LockTimeout, SyncError, TransactionError
from mmstore.pages.root import Root

__all__ = ["Writer"]

GROUPS_KEPT = 8

_open_here = threading.local()  # .stores: (device, inode) -> [whether this thread's transaction on it is open]


class Writer:
    """The right to write of one handle."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.fresh = False
        """The next record is the first since the file's writer lock was taken: it carries a nonce."""
        self._mutex = threading.Lock()
        self._state = threading.Lock()
        self._leader = threading.Lock()
        self._pending: deque[Root] = deque()
        self._newest: Root | None = None
        self._holds = False
        self._active = 0
        self._waiting = 0
        self._groups = 0
        self._token = [False]
        self._identity = session.store.backend.identity()
        self._shut = False
        self.forgotten: deque[Any] = deque()
        """What transactions that were dropped without an end have built: to be rolled back by the next call."""

    # --- building -----------------------------------------------------------------------------------

    def begin(self, timeout: float) -> Root:
        """Get the right to build and return the root to build on.

        Raises LockTimeout after ``timeout`` seconds, TransactionError when this thread has a transaction on
        the same store open, SyncError when the store is poisoned.
        """
        mine: dict[tuple[int, int], list[bool]] = _open_here.__dict__.setdefault("stores", {})
        if mine.get(self._identity, [False])[0]:
            raise TransactionError(
                "this thread has a transaction open on this store, and a second one would wait for it forever; "
                "write through that transaction, or use a savepoint inside it"
            )
        deadline = time.monotonic() + timeout
        with self._state:
            self._waiting += 1
        got = self._mutex.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        with self._state:
            self._waiting -= 1
            self._active += got
        try:
            if not got:
                raise LockTimeout(
                    f"another thread has been writing for {timeout} s; end its transaction, "
                    "or open with a longer timeout"
                )
            if self._shut:
                raise ClosedError("this database is closed; open it again")
            self.session.check_poison()
            if self._holds and self._groups >= GROUPS_KEPT and self.session.locks.writer_waited():
                self._hand_over()
            if not self._holds:
                self._take(deadline)
            self._token = mine[self._identity] = [True]
            root = self._newest
            if root is None or not self._pending and root.txn != self.session.live.txn:
                root = self._newest = self.session.published()
            return root
        except BaseException:
            self.end(building=got)
            raise

    def _take(self, deadline: float) -> None:
        self.session.locks.writer_acquire(deadline)
        self._holds, self.fresh, self._groups = True, True, 0
        live = self.session.live
        if live.get("committing") > live.txn:
            recovery.settle(self.session)

    def _hand_over(self) -> None:
        with self._state:
            last = self._pending[-1].txn if self._pending else 0
        self.wait_durable(last)
        self._release_file()

    def end(self, building: bool = True) -> None:
        """Give up the right to build; pending roots are still to be published."""
        if building:
            self._token[0] = False  # by whichever thread ends it
        with self._state:
            if building:
                self._active = 0
                self._mutex.release()
            self._release_if_idle()

    def _release_if_idle(self) -> None:
        if self._holds and not self._active and not self._pending and not self._waiting:
            self._release_file()

    def _release_file(self) -> None:
        self._holds = False
        self.session.locks.writer_release()

    def disown(self) -> None:
        """In a forked child: the transaction that this thread may have open is the parent's."""
        self._token[0] = False

    def shut(self, timeout: float) -> None:
        """The handle is being closed: wait for the transaction under way, and let nobody begin another."""
        if not self._mutex.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            raise LockTimeout(
                f"another thread has had a transaction open for {timeout} s; end it before closing, "
                "or open with a longer timeout"
            )
        self._shut = True
        self._mutex.release()

    def finish(self) -> None:
        """After ``shut``: see what is being committed to its end, and let go of the file."""
        with self._mutex:
            with self._state:  # whoever ended just now has let go of the file
                holds = self._holds
            if holds:
                self._hand_over()

    # --- publishing ---------------------------------------------------------------------------------

    def built(self, root: Root) -> None:
        """``root``'s record is in the log: others may build on it, and it waits for publication."""
        self._newest = root
        self.fresh = False
        with self._state:
            self._pending.append(root)

    def wait_durable(self, txn: int) -> None:
        """Return when root ``txn`` is durable and published; syncs for all that are pending."""
        session = self.session
        while session.live.txn < txn:
            with self._leader:
                with self._state:
                    batch = list(self._pending)
                if session.live.txn >= txn:
                    break
                if not batch or batch[-1].txn < txn:
                    session.check_poison()
                    raise SyncError(0, f"commit {txn} was cut off by a failure of another thread's; repeat it")
                log = session.current_log()
                assert log is not None
                try:
                    session.sync(log.sync)
                except SyncError:
                    with self._state:  # none of them will be published by this handle
                        self._pending.clear()
                        self._release_if_idle()
                    raise
                session.live.set("synced", batch[-1].txn)
                self._publish(batch)
        with self._state:
            self._release_if_idle()

    def publish_relaxed(self) -> None:
        """Publish what is pending without a sync."""
        with self._leader:
            with self._state:
                batch = list(self._pending)
            self._publish(batch)

    def publish_now(self, root: Root) -> None:
        """Publish a root that is durable by a checkpoint (or needs no durability)."""
        self._newest = root
        publish(self.session, root)

    def _publish(self, batch: list[Root]) -> None:
        for root in batch:
            if root.txn > self.session.live.txn:
                publish(self.session, root)
            with self._state:
                self._pending.popleft()
        self._groups += 1

    # --- when a commit is interrupted ---------------------------------------------------------------

    def abandon(self) -> None:
        """An exception struck between log and publication: finish as a successor would, or cut it off."""
        with self._leader:
            with self._state:
                self._pending.clear()
                self._newest = None
            self.session.freelist.forget()
            if not self.session.live.get("poison"):
                try:
                    recovery.settle(self.session)
                except BaseException:
                    self.session.live.set("poison", 1)
                    raise
                self.fresh = True
