"""Publication: the moment at which a root becomes the newest for every process (I4)."""

from __future__ import annotations

from mmstore import format as fmt
from mmstore.disk import libc
from mmstore.engine.session import Session
from mmstore.pages.root import Root

__all__ = ["publish"]

_WAKEUPS = fmt.LIVE.offset["wakeups"]


def publish(session: Session, root: Root) -> None:
    """Write the idle root slot, swing the txn id, fence; then wake whoever waits for a commit."""
    waited = session.live.publish(root)
    session.remember(root)
    session.counts["commits"] += 1
    if waited:
        libc.futex_wake(session.live.memory, _WAKEUPS)
