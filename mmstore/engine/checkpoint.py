"""Checkpoint: make a root durable in the file itself, so that log space and old runs become free.

1. take the root and its place in the log together; enter it as ``making``
2. (pages carry their checksums already)
3. write the data back in slices, then sync it; the other header is durable since it was written
4. write the older header, sync it; then the other one in the same way
5. raise ``durable``; clear ``making``: log space and old runs are free

Step 1 works like a reader's pin (``making`` is infinite while the root is being chosen), so it needs no
writer lock: a long transaction delays no checkpoint.  The lock byte CHECKPOINT is held throughout; whoever
gets it and finds ``making`` set knows that the maker died, and asks the headers how far it came.

Both headers have the durable root before anything older is given up: if one of them is damaged later, the
other is as good.  With the root before last in it, a store would come back in a state whose pages are others' by now.
"""

from __future__ import annotations

import threading

from mmstore import format as fmt
from mmstore.disk.log import Log
from mmstore.disk.storefile import StoreFile
from mmstore.engine.session import Session
from mmstore.errors import DiskFullError, Error, LockTimeout, SyncError
from mmstore.kernels.atomics import fence
from mmstore.pages.root import Header, Root, newest_header, read_headers

__all__ = ["checkpoint", "create_log", "due", "resolve_making", "start_if_due"]

_SLICE = 1 << 20
_HELD_SHARE = 4  # a checkpoint is due when held pages are more than 1 / this of the file ...
_HELD_LEAST = 1024  # ... and more than this many


def checkpoint(session: Session, root: Root | None = None) -> None:
    """Make ``root`` durable; None: the newest published one.  Waits for a checkpoint under way."""
    if session.options.in_memory:
        return
    with session.hold_checkpoint():
        resolve_making(session)
        root = take_root(session, root)
        if root.txn > session.live.get("durable"):
            sync_data(session)
            write_header(session, root)
        else:
            session.live.set("making", 0)


def take_root(session: Session, root: Root | None) -> Root:
    """Step 1."""
    live = session.live
    if root is None:
        live.set("making", fmt.FOREVER)
        fence()
        root = session.published()
    live.set("making", root.txn)
    return root


def sync_data(session: Session) -> None:
    """Step 3: everything placed so far; the slices keep the sync itself, and whoever shares the disk, quick."""
    store = session.store
    end = session.live.get("file_size")
    session.sync(lambda: _write_back(store, end))
    session.sync(store.sync_all)


def _write_back(store: StoreFile, end: int) -> None:
    for start in range(fmt.FIXED_SIZE, end, _SLICE):
        store.write_back(start, min(_SLICE, end - start))


def write_header(session: Session, root: Root) -> None:
    """Steps 4 and 5."""
    at = 1 - session.live.get("durable_at")
    header = Header(session.identity.uuid, session.live.get("log_id"), root)
    place_header(session, at, header)
    try:
        place_header(session, 1 - at, header)
    except DiskFullError:
        # Where writing over takes room.  The root is durable, though nothing older may be given up: `making` stays, and
        # the next checkpoint begins with the header that is missing.
        return
    finish(session, root, at)
    session.counts["checkpoints"] += 1


def place_headers(session: Session, first: int, header: Header) -> None:
    """Write both headers, ``first`` the older one; at every moment one of them is whole."""
    for at in (first, 1 - first):
        place_header(session, at, header)


def place_header(session: Session, at: int, header: Header) -> None:
    """Write one header and sync it."""
    store = session.store
    store.write_header(fmt.HEADER_AT[at], header.pack(at))
    session.sync(lambda: store.sync_range(fmt.HEADER_AT[at], fmt.HEADER.size))


def finish(session: Session, root: Root, at: int) -> None:
    """Step 5.  ``making`` is cleared last: until then a successor reads the headers itself."""
    live = session.live
    live.set("durable_at", at)
    live.set("durable", root.txn)
    live.set("log_start", root.log_position)
    live.set("making", 0)


def resolve_making(session: Session) -> None:
    """A checkpoint's maker died, or the log's: sync, and see whether its header stands, and which log it names."""
    if not session.live.get("making"):
        return
    session.sync(session.store.sync_all)
    at, header = newest_header(read_headers(session.pread, session.identity.uuid), session.path)
    place_header(session, 1 - at, header)
    session.live.set("log_id", header.log_id)
    finish(session, header.root, at)


# --- when ------------------------------------------------------------------------------------------------


def due(session: Session, root: Root) -> bool:
    """Whether, with ``root`` the newest, the log is half full or the pages held for the durable root are many."""
    if root.log_position - session.live.get("log_start") > session.options.log_ring // 2:
        return True
    held = session.freelist.blocked_pages > max(_HELD_LEAST, root.pages // _HELD_SHARE)
    return held and session.live.get("durable") < session.freelist.reclaimed_at  # else they may be free by now


def start_if_due(session: Session, root: Root) -> None:
    """Start a checkpoint in the background (or make it now) when one is due and none is under way."""
    if session.options.in_memory or session.closed or session.checkpointing.locked() or not due(session, root):
        return
    if not session.options.background:
        _unasked(session)
    elif session.background is None or not session.background.is_alive():
        thread = threading.Thread(target=_unasked, args=(session,), name="mmstore-checkpoint", daemon=True)
        thread.start()
        session.background = thread  # not before: a close joins it, which a thread that has not started refuses


def _unasked(session: Session) -> None:
    """A checkpoint that nobody waits for.

    The commit that found it due may have been overtaken by a close: then there is nothing to do, and files may be
    closed under it at any moment (an OSError, or a ValueError where a descriptor is asked for).
    """
    if session.closed:
        return
    try:
        checkpoint(session)
    except (SyncError, LockTimeout) as error:
        # A SyncError has poisoned the store, so every writer is told; at a LockTimeout another process is making one.
        session.background_error = error
    except (OSError, ValueError, Error) as error:
        if not session.closed:
            raise
        session.background_error = error


# --- the log's birth -------------------------------------------------------------------------------------


def create_log(session: Session) -> Log:
    """Make a log and have a header name it, before any commit in it is acknowledged.

    The newest root is durable then (without a log every commit is), so both headers have the same root
    or an older one; of two that have the same, the one that names a log counts.  ``making`` is set meanwhile:
    when its maker dies, the next one takes a log that a header names already, and does not put another in its place.
    """
    with session.hold_checkpoint():
        resolve_making(session)
        live = session.live
        log = session.current_log()
        if log is not None:
            return log
        root = session.published()
        assert root.txn == live.get("durable"), "a commit without a log is durable"
        live.set("making", root.txn)
        log_id = session.new_nonce()
        path = session.new_log_path()
        try:
            log = Log.create(
                session.fs,
                path,
                log_id,
                session.identity.uuid,
                session.options.log_ring,
                session.store.backend,
                session.options.timeout,
            )
        except SyncError:
            live.set("poison", 1)
            raise
        session.drop_log()
        session.log = log
        at = 1 - live.get("durable_at")
        place_headers(session, at, Header(session.identity.uuid, log_id, root))
        live.set("log_id", log_id)
        finish(session, root, at)
        return log
