"""Publication, the moment at which a root becomes the newest for every process (I4), and waiting for it.

Who publishes changes the words ``txn`` and ``wakeups``, fences, and looks whether there are ``waiters``.  Who waits
makes himself one of them, fences, and looks at the two words.  So one of them sees the other, and nobody sleeps through
a commit.
"""

from __future__ import annotations

import time

from mmstore import format as fmt
from mmstore.disk import libc
from mmstore.engine.session import Session
from mmstore.errors import ClosedError
from mmstore.kernels import compiled
from mmstore.kernels.atomics import fence, fetch_add32
from mmstore.pages.root import Root

__all__ = ["publish", "wait"]

_WAITERS, _WAKEUPS = fmt.LIVE.offset["waiters"], fmt.LIVE.offset["wakeups"]
_NAP = 1.0  # seconds between two looks
_UNCOMPILED = 0.05  # where two who begin to wait at once may be counted as one
_UNKNOWN = 0.01  # for who may not write, and so can't make himself known


def publish(session: Session, root: Root) -> None:
    """Write the idle root slot, swing the txn id, fence; then wake whoever waits for a commit."""
    waited = session.live.publish(root)
    session.remember(root)
    session.counts["commits"] += 1
    if waited:
        libc.futex_wake(session.live.memory, _WAKEUPS)


def wait(session: Session, txn_id: int | None, timeout: float | None) -> int:
    """Sleep until a root newer than ``txn_id`` (None: than the newest now) is published; returns the newest id.

    Returns it after ``timeout`` seconds, too.  Raises ClosedError when another thread closes the handle.
    """
    live = session.live
    if txn_id is None:
        txn_id = live.txn
    deadline = None if timeout is None else time.monotonic() + timeout
    known = not live.memory.readonly
    nap = (_NAP if compiled() else _UNCOMPILED) if known else _UNKNOWN
    if known:
        fetch_add32(live.memory, _WAITERS, 1)
    try:
        while True:
            fence()
            seen = live.half("wakeups")
            if live.txn > txn_id:
                return live.txn
            left = nap if deadline is None else min(nap, deadline - time.monotonic())
            if left <= 0:
                return live.txn
            libc.futex_wait(live.memory, _WAKEUPS, seen, left)
            if session.closed:
                raise ClosedError(f"{session.path} was closed while this thread waited for a commit; open it again")
    finally:
        if known:
            fetch_add32(live.memory, _WAITERS, 0xFFFF_FFFF)
