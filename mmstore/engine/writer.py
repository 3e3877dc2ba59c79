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
import weakref
from collections import deque

from mmstore.engine import recovery
from mmstore.engine.publish import publish
from mmstore.engine.right import Right
from mmstore.engine.session import Session
from mmstore.errors import ClosedError, LockTimeout, SyncError, TransactionError
from mmstore.pages.root import Root

__all__ = ["Writer"]

GROUPS_KEPT = 8

_open_here = threading.local()  # .stores: (device, inode) -> the right by which this thread built on it last


def _is_held(reference: weakref.ref[Right]) -> bool:
    right = reference()
    return right is not None and right.held


class Writer:
    """The right to write of one handle."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.fresh = False
        """The next record is the first since the file's writer lock was taken: it carries a nonce."""
        self.mutex = threading.Lock()
        """Held by a ``Right`` from ``begin`` to ``end``."""
        self._state = threading.Lock()
        self._leader = threading.Lock()
        self._pending: deque[Root] = deque()
        self._newest: Root | None = None
        self._holds = False
        self._builder: weakref.ref[Right] | None = None
        self._waiting: set[Right] = set()
        self._tidy = True  # False while someone builds: whoever gets the right then finds what he left behind
        self._groups = 0
        self._identity = session.store.backend.identity()
        self._shut = False

    # --- building -----------------------------------------------------------------------------------

    def begin(self, right: Right, timeout: float) -> Root:
        """Get the right to build and return the root to build on.

        Raises LockTimeout after ``timeout`` seconds, TransactionError when this thread has a transaction on
        the same store open, SyncError when the store is poisoned.  Whatever is raised, ``end(right)`` is due.
        """
        mine: dict[tuple[int, int], weakref.ref[Right]] = _open_here.__dict__.setdefault("stores", {})
        before = mine.get(self._identity)
        if before is not None and _is_held(before):
            raise TransactionError(
                "this thread has a transaction open on this store, and a second one would wait for it forever; "
                "write through that transaction, or use a savepoint inside it"
            )
        deadline = time.monotonic() + timeout
        try:
            self._waiting.add(right)
            got = right.acquire(timeout)
        finally:
            self._waiting.discard(right)
        if not got:
            raise LockTimeout(
                f"another thread has been writing for {timeout} s; end its transaction, or open with a longer timeout"
            )
        me = weakref.ref(right)
        with self._state:
            self._builder = me
        if self._shut:
            raise ClosedError("this database is closed; open it again")
        self.session.check_poison()
        if self._holds and self._groups >= GROUPS_KEPT and self.session.locks.writer_waited():
            self._hand_over()
        if not self._tidy:
            self._tidy_up()
        live = self.session.live
        if not self._holds:
            self._take(deadline)
        elif not self._pending and live.get("committing") > live.txn:  # whoever failed could not settle it himself
            recovery.settle(self.session)
            self.fresh = True
        mine[self._identity] = me
        root = self._newest
        if root is None or not self._pending and root.txn != self.session.live.txn:
            root = self._newest = self.session.published()
        self._tidy = False
        return root

    def _tidy_up(self) -> None:
        """Whoever built last vanished: an exception struck where nothing could be undone any more."""
        self._finish_pending()
        self._newest = None
        self.session.discard()
        live = self.session.live
        if self._holds and live.get("committing") > live.txn:
            recovery.settle(self.session)
            self.fresh = True
        self._tidy = True

    def _take(self, deadline: float) -> None:
        self.session.locks.writer_acquire(deadline)
        self._holds, self.fresh, self._groups = True, True, 0
        live = self.session.live
        if live.get("committing") > live.txn:
            recovery.settle(self.session)

    def _hand_over(self) -> None:
        self._finish_pending()
        self._release_file()

    def _finish_pending(self) -> None:
        with self._state:
            last = self._pending[-1].txn if self._pending else 0
        self.wait_durable(last)

    def end(self, right: Right | None) -> None:
        """Give up the right to build, if ``right`` has it; pending roots are still to be published."""
        with self._state:
            if right is not None and right.held:
                self._tidy = True
                right.release()
            self._release_if_idle()

    def _release_if_idle(self) -> None:
        building = self._builder is not None and _is_held(self._builder)
        if self._holds and not building and not self._pending and not self._waiting:
            self._release_file()

    def _release_file(self) -> None:
        self._holds = False
        try:
            self.session.locks.writer_release()
        except BaseException:
            self.session.locks.writer_release()
            raise

    def disown(self) -> None:
        """In a forked child: the transaction that this thread may have open is the parent's."""
        right = self._builder() if self._builder is not None else None
        if right is not None:
            right.release()

    def shut(self, timeout: float) -> None:
        """The handle is being closed: wait for the transaction under way, and let nobody begin another."""
        right = Right(self.mutex)
        if not right.acquire(timeout):
            raise LockTimeout(
                f"another thread has had a transaction open for {timeout} s; end it before closing, "
                "or open with a longer timeout"
            )
        self._shut = True
        right.release()

    def finish(self) -> None:
        """After ``shut``: see what is being committed to its end, and let go of the file."""
        with self.mutex:
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

    def see_through(self, txn: int) -> None:
        """Return when root ``txn``, if it is pending, is durable and published."""
        with self._state:
            pending = any(root.txn == txn for root in self._pending)
        if pending:
            self.wait_durable(txn)

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
            self.session.discard()
            if not self.session.live.get("poison"):
                recovery.settle(self.session)
                self.fresh = True
