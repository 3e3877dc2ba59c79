"""Attaching to a store, making one, and leaving it.

GATE lets one process at a time attach, recover or leave.  LIVE is held shared by every handle that goes by the
live page; whoever gets it exclusively under GATE is alone, so the live page is stale: a newcomer rebuilds it
(after recovery, unless the store was closed cleanly), and a leaver closes the store cleanly, which leaves one file.

A store is made complete under a temporary name and then linked to its own, so a crash leaves a whole store
or none; its directory entry is synced before anyone can commit to it.
"""

from __future__ import annotations

import errno
import os
import time

from mmstore import format as fmt
from mmstore.disk.backend import Backend, Filesystem
from mmstore.disk.locks import FileLocks
from mmstore.disk.log import Log, log_place
from mmstore.disk.newfile import making, remove_left_over, temporary
from mmstore.engine import checkpoint, recovery
from mmstore.engine.publish import publish
from mmstore.engine.session import Options, Session
from mmstore.engine.write import WriteState
from mmstore.errors import CorruptError, Error, ReadOnlyError
from mmstore.pages.root import Header, Identity, Root, newest_header, read_headers

__all__ = ["attach", "create", "detach"]

_FIRST = 1  # txn id of a store that was never written to
_WORTH_CUTTING = 16  # a file is cut when more than 1 / this of it is free at its end


def create(fs: Filesystem, path: str, page_size: int, timeout: float, *, replace: bool) -> None:
    """Make an empty store at ``path``; who is making one there is waited for up to ``timeout`` seconds (LockTimeout).

    An existing file is replaced whole if ``replace`` (those who have it open keep it), else FileExistsError.
    """
    with making(fs, path, timeout) as backend:
        write_new(backend, Identity.new(page_size), Root(txn=_FIRST, pages=fmt.ZONE_SIZE // page_size))
        move = fs.rename if replace else fs.link_exclusive
        move(temporary(path), path)
    backend.close()
    fs.sync_dir(path)


def write_new(backend: Backend, identity: Identity, root: Root) -> None:
    """Fill an empty file with an empty store, durably."""
    backend.allocate(0, root.pages * identity.page_size)
    backend.pwrite(identity.pack(), fmt.IDENTITY_AT)
    header = Header(identity.uuid, 0, root)
    for at in (0, 1):
        backend.pwrite(header.pack(at), fmt.HEADER_AT[at])
    backend.sync_all()


def attach(fs: Filesystem, path: str, options: Options) -> Session:
    """Attach to the store at ``path``; recovers it first when its last user did not close it.

    Raises FileNotFoundError, FormatError, CorruptError, LockTimeout or SyncError; the file is closed then.
    """
    deadline = time.monotonic() + options.timeout
    while True:
        backend = open_file(fs, path, options)
        locks = FileLocks(backend)
        try:
            if backend.writable:
                locks.acquire_exclusive(fmt.LOCK_GATE, deadline, "another process to attach or leave")
            else:
                locks.acquire_shared(fmt.LOCK_GATE, deadline, "another process to attach or leave")
            if fs.identity(path) != backend.identity():  # replaced while we waited
                backend.close()
                continue
            attach_as = attach_under_gate if backend.writable else attach_without_writing
            return attach_as(fs, path, backend, locks, options)
        except BaseException:
            backend.close()
            raise


def open_file(fs: Filesystem, path: str, options: Options) -> Backend:
    """Open for writing even to read, since readers share the live page; for reading where that is not permitted."""
    try:
        return fs.open(path, write=True)
    except OSError as error:
        if options.writable or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return fs.open(path, write=False)


def attach_under_gate(fs: Filesystem, path: str, backend: Backend, locks: FileLocks, options: Options) -> Session:
    """The caller holds GATE; it is released here."""
    identity = read_identity(backend, path)
    session = Session(fs, path, backend, identity, options, locks)
    if locks.try_exclusive(fmt.LOCK_LIVE):
        start_session(session)
        for made in (path, path + fmt.WAL_SUFFIX):
            remove_left_over(fs, made)
        session.live.set("place", log_place(fs, path))
    else:
        refuse_second_name(session)
    if not locks.try_shared(fmt.LOCK_LIVE):
        raise CorruptError(f"{path}: the LIVE lock is held by someone who does not hold GATE; is it another program?")
    session.published()
    locks.unlock(fmt.LOCK_GATE)
    return session


def refuse_second_name(session: Session) -> None:
    """Others are attached: their log lies beside the name under which they opened the file, and so must ours.

    Under another hard link this handle would look for the log beside that one, and make another there, which they
    wouldn't find.
    """
    links = session.store.backend.links()
    if links > 1 and session.live.get("place") not in (0, log_place(session.fs, session.path)):
        raise Error(
            f"{session.path} is one of {links} names (hard links) of a file that is open under another one, beside "
            "which its log lies: open it under that name, or wait until all handles are closed"
        )


def attach_without_writing(fs: Filesystem, path: str, backend: Backend, locks: FileLocks, options: Options) -> Session:
    """Attach to a file that may only be read; the caller holds GATE shared, which is released here.

    Where others are attached, their live page tells the newest root, and pins are shared lock bytes.  LIVE is held
    then, too: a recovery would write over pages of roots that only the live page and this handle's pins know.  Alone,
    the durable state is pinned and, if need be, recovered, in private memory: it is what this handle shows
    from then on, whatever others do to the file later.
    """
    identity = read_identity(backend, path)
    locks.try_shared(fmt.LOCK_READERS)
    alone = not locks.held_by_other(fmt.LOCK_LIVE)
    if not alone:
        locks.try_shared(fmt.LOCK_LIVE)
    session = Session(fs, path, backend, identity, options, locks, private=alone)
    if alone:
        _, header = newest_header(read_headers(session.pread, identity.uuid), path)
        session.pins.hold(header.root.txn)
        start_session(session)
    session.published()
    locks.unlock(fmt.LOCK_GATE)
    return session


def read_identity(backend: Backend, path: str) -> Identity:
    """Identity of a file that is long enough to be a store."""
    identity = Identity.unpack(backend.pread(fmt.IDENTITY.size, fmt.IDENTITY_AT), path)
    if backend.size() < fmt.FIXED_SIZE:
        raise CorruptError(
            f"{path}: expected at least {fmt.FIXED_SIZE} bytes, found {backend.size()}: the file was cut short; "
            "restore a backup",
            offset=backend.size(),
        )
    return identity


def start_session(session: Session) -> None:
    """Alone: find the newest committed root and build the live page on it."""
    live = session.live
    if session.options.in_memory and live.txn:
        live.set("committing", live.txn)  # the memory outlived who wrote it; what it published stands
        return
    headers = read_headers(session.pread, session.identity.uuid)
    at, header = newest_header(headers, session.path)
    root = header.root
    size = session.store.backend.size()
    if root.pages * session.page_size > size:
        raise CorruptError(
            f"{session.path}: expected {root.pages * session.page_size} bytes, found {size}: the file was cut short; "
            "restore a backup",
            offset=size,
        )
    session.live.rebuild(session.new_nonce(), root, at, header.log_id, size)
    if not session.store.private:
        make_durable(session, at, headers)
    if header.log_id:
        root = recovery.recover(session, at, header)
        session.live.rebuild(session.new_nonce(), root, 1 - at, 0, session.store.size)
        session.forget()


def make_durable(session: Session, at: int, headers: list[Header | None]) -> None:
    """What a newcomer builds on must survive: its makers may have died before they knew that it would.

    Headers that differ: one is damaged, or its writer died before the other.  No header that names a log, and a
    log: its last user died before he knew that both headers were durable.  What the cache has may even be marked
    clean by a sync that failed.  So the headers are written again before pages of an older root are used again,
    and before a new log takes the name of the one that a header on the medium may still name.
    """
    header = headers[at]
    assert header is not None
    if header.root.txn == _FIRST:  # nobody has committed, so nobody has had to know that the file's name is durable
        session.sync(lambda: session.fs.sync_dir(session.path))
    path, _ = session.log_paths()
    left_over = not header.log_id and not session.store.private and session.fs.exists(path)
    if headers[0] != headers[1] or left_over:
        session.sync(session.store.sync_all)
        checkpoint.place_headers(session, at, header)
    if left_over:
        Log.remove_of(session.fs, path, session.identity.uuid)


def detach(session: Session) -> None:
    """Leave the store; the last to leave closes it cleanly.

    While views are alive the file stays attached for them (their pins and mappings), until the last dies.
    Whatever fails, the handle has left afterwards, if need be as a crash would leave it.
    """
    session.closed = True
    session.pins.shut()
    try:
        if session.background is not None:
            session.background.join()
        if session.store.backend.writable:
            leave(session)
    finally:
        with session.checkpointing:  # a late one in the background must not go on in a live page that is others'
            session.left = True
            session.drop_log()
            session.pins.give_up_slot()
            if session.pins.alive:
                session.pins.let_go()
                session.store.mapped.close()
            else:
                session.store.close()


def leave(session: Session) -> None:
    """Close cleanly if nobody else is attached."""
    session.locks.acquire_exclusive(fmt.LOCK_GATE, time.monotonic() + session.options.timeout)
    try:
        if session.locks.try_exclusive(fmt.LOCK_LIVE):
            if not session.options.in_memory and not session.live.get("poison"):
                close_cleanly(session)
    finally:
        if session.pins.alive:
            session.locks.try_shared(fmt.LOCK_LIVE)
        else:  # not by closing the file a moment later: whoever gets GATE first must not find LIVE held
            session.locks.unlock(fmt.LOCK_LIVE)
        session.locks.unlock(fmt.LOCK_GATE)


def close_cleanly(session: Session) -> None:
    """The last close: everything durable in one file, which no header says a log continues."""
    live = session.live
    if live.get("committing") > live.txn:
        recovery.settle(session)
    log = session.current_log()
    if log is not None:
        checkpoint.checkpoint(session)
    cut = shrink(session)
    root = session.published()
    if log is not None or cut:
        live.set("log_id", 0)
        checkpoint.place_headers(session, 1 - live.get("durable_at"), Header(session.identity.uuid, 0, root))
    if log is not None:
        recovery.retire_log(session, log)
    if cut:  # no header knows the pages behind any more
        session.store.truncate(root.pages * session.page_size)


def shrink(session: Session) -> bool:
    """Give up the free zones at the end of the store, if they are worth a checkpoint; the file is not cut yet."""
    if session.freelist.state is None or session.pins.alive or session.locks.held_by_other(fmt.LOCK_READERS):
        return False
    base = session.published()
    write = WriteState(session, base, base.txn + 1, limit=0)
    session.freelist.reclaim(alone=True)
    if session.freelist.cut() <= base.pages // _WORTH_CUTTING:
        write.abort()
        session.freelist.forget()
        return False
    root = write.build()
    session.live.set("committing", root.txn)
    checkpoint.checkpoint(session, root)
    publish(session, root)
    return True


def require_writable(session: Session) -> None:
    if not session.options.writable:
        raise ReadOnlyError(f'{session.path} was opened with flag "r"; open it with "w" or "c" to write')


def absolute(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """The path by which handles, logs and pickles name a store."""
    return os.path.realpath(os.fsdecode(path))
