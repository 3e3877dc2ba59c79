"""Handles across fork, spawn and the end of the interpreter (I9).

OFD locks belong to the open file, which a child shares with its parent; so the child must neither use nor
unlock the parent's descriptors, and close them at once.  Before a fork each handle opens the file a second
time, takes LIVE if it has it and, if pins are alive, a slot with a copy of them; the child adopts that descriptor, the
parent closes its copy.  Between the two, whoever is killed, the pins hold.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from mmstore import format as fmt
from mmstore.disk.backend import Backend
from mmstore.disk.locks import FileLocks
from mmstore.disk.memory import MemoryFilesystem
from mmstore.disk.posix import PosixFilesystem
from mmstore.engine import attach
from mmstore.engine.session import Options, Session
from mmstore.errors import Error, FormatError
from mmstore.pages.pins import Pins

if TYPE_CHECKING:
    from mmstore.database.database import Database

__all__ = ["reduce", "register", "unregister"]

_handles: weakref.WeakKeyDictionary[Database, weakref.ref[Session]] = weakref.WeakKeyDictionary()
_guard = threading.RLock()
_twins: list[tuple[Database, Backend, Pins]] = []


def register(database: Database) -> None:
    """``database`` is open: it follows its process through forks, and is closed when the interpreter ends."""
    with _guard:
        _handles[database] = weakref.ref(database.session)


def unregister(database: Database) -> None:
    with _guard:
        _handles.pop(database, None)


def _before() -> None:
    _guard.acquire()
    _twins.clear()
    failed: Exception | None = None
    for database in list(_handles):
        session = database._session
        if session is None:  # another thread is closing it
            continue
        try:
            _twins.append((database, *_twin(session)))
        except (OSError, ValueError, Error) as error:  # the other handles go on in the child
            failed = error
    if failed is not None:
        raise failed  # reported by Python, which forks all the same


def _twin(session: Session) -> tuple[Backend, Pins]:
    """A second descriptor with the locks that the handle has, and a copy of its pins."""
    backend = session.store.backend.reopen()
    try:
        locks = FileLocks(backend)
        if not session.store.private:  # private memory doesn't go by the live page, and must not vouch for it
            locks.try_shared(fmt.LOCK_LIVE)
        if not backend.writable:
            locks.try_shared(fmt.LOCK_READERS)
        return backend, session.pins.copy_to(locks)
    except BaseException:
        backend.close()
        raise


def _after_in_parent() -> None:
    for _, backend, _ in _twins:
        backend.close()
    _twins.clear()
    _guard.release()


def _after_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    adopted = {database: (backend, pins) for database, backend, pins in _twins}
    _twins.clear()
    for database, reference in list(_handles.items()):
        if database in adopted:
            database.adopt(*adopted[database])
            _handles[database] = weakref.ref(database.session)
        else:  # its second descriptor could not be had, or it was being closed: it can't be used here
            del _handles[database]
            database.disown()
            session = reference()
            if session is not None and not session.pins.alive:  # else the parent's descriptor holds them here as well
                session.store.backend.close()


def _at_exit() -> None:
    for database in list(_handles):
        with contextlib.suppress(OSError):  # a clean close is a courtesy; the next to open recovers otherwise
            database.close()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
atexit.register(_at_exit)


def reduce(database: Database, flag: str) -> tuple[Any, ...]:
    """Pickle a handle: its path and how it was opened; whoever unpickles it opens the store anew with ``flag``.

    A store in memory can only be pickled for a child that multiprocessing is spawning; else TypeError.
    """
    session = database.session
    if not session.options.in_memory:
        return _reopen, (session.path, flag, session.options, session.identity.uuid)
    from multiprocessing import context, reduction

    if context.get_spawning_popen() is None:
        raise TypeError(
            "a store in memory has no name to open it by; pass it to a child process that multiprocessing starts, "
            "or use a file"
        )
    return _adopt_memory, (reduction.DupFd(session.store.backend.fileno()), session.options)


def _reopen(path: str, flag: str, options: Options, uuid: bytes) -> Database:
    from mmstore.database.database import open_on

    database = open_on(PosixFilesystem(), path, flag, options)
    if database.session.identity.uuid != uuid:
        database.close()
        raise FormatError(f"{path} is another store than the one that was pickled; open it by hand if that is meant")
    return database


def _adopt_memory(descriptor: Any, options: Options) -> Database:
    from mmstore.database.database import MEMORY, Database

    fs = MemoryFilesystem()
    fs.adopt(MEMORY, descriptor.detach())
    return Database(attach.attach(fs, MEMORY, options), "w")


def inherited_session(old: Session, backend: Backend, pins: Pins) -> Session:
    """The child's session on its own descriptor; the parent's is closed, its mappings stay for views."""
    locks, inherited = FileLocks(backend), old.store.backend
    session = Session(old.fs, old.path, backend, old.identity, old.options, locks, private=old.store.private)
    if old.store.private:  # what was recovered is in this memory only
        session.store.mapped.close()
        session.store, session.live = old.store, old.live
        session.store.adopt(backend)
    old.pins.adopt(pins, session.live, locks, session.published, backend)
    session.pins.disown()
    session.pins = old.pins
    inherited.close()
    old.drop_log()
    return session
