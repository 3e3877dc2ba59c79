"""Handles across fork, spawn and the end of the interpreter (I9).

OFD locks belong to the open file, which a child shares with its parent; so the child must neither use nor
unlock the parent's descriptors, and close them at once.  Before a fork each handle opens the file a second
time, takes LIVE and, if pins are alive, a slot with a copy of them; the child adopts that descriptor, the
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
from mmstore.engine import attach
from mmstore.engine.session import Options, Session
from mmstore.pages.pins import Pins

if TYPE_CHECKING:
    from mmstore.database.database import Database

__all__ = ["reduce_memory", "register", "unregister"]

_handles: weakref.WeakSet[Database] = weakref.WeakSet()
_guard = threading.RLock()
_twins: list[tuple[Database, Backend, Pins]] = []


def register(database: Database) -> None:
    """``database`` is open: it follows its process through forks, and is closed when the interpreter ends."""
    with _guard:
        _handles.add(database)


def unregister(database: Database) -> None:
    with _guard:
        _handles.discard(database)


def _before() -> None:
    _guard.acquire()
    _twins.clear()
    for database in list(_handles):
        session = database.session
        backend = session.store.backend.reopen()
        locks = FileLocks(backend)
        locks.try_shared(fmt.LOCK_LIVE)
        _twins.append((database, backend, session.pins.copy_to(locks)))


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
    for database in list(_handles):
        if database in adopted:
            database.adopt(*adopted[database])
        else:  # its second descriptor could not be had: without one the handle can't be used here
            database.disown()


def _at_exit() -> None:
    for database in list(_handles):
        with contextlib.suppress(OSError):  # a clean close is a courtesy; the next to open recovers otherwise
            database.close()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
atexit.register(_at_exit)


def reduce_memory(database: Database) -> tuple[Any, ...]:
    """Pickle a store in memory, for a child that multiprocessing is spawning."""
    from multiprocessing import context, reduction

    if context.get_spawning_popen() is None:
        raise TypeError(
            "a store in memory has no name to open it by; pass it to a child process that multiprocessing starts, "
            "or use a file"
        )
    session = database.session
    descriptor = reduction.DupFd(session.store.backend.fileno())
    return _adopt_memory, (descriptor, session.options)


def _adopt_memory(descriptor: Any, options: Options) -> Database:
    from mmstore.database.database import MEMORY, Database

    fs = MemoryFilesystem()
    fs.adopt(MEMORY, descriptor.detach())
    return Database(attach.attach(fs, MEMORY, options), "w")


def inherited_session(old: Session, backend: Backend, pins: Pins) -> Session:
    """The child's session on its own descriptor; the parent's is closed, its mappings stay for views."""
    locks = FileLocks(backend)
    session = Session(old.fs, old.path, backend, old.identity, old.options, locks)
    old.pins.adopt(pins, session.live, locks, session.published, backend)
    session.pins.disown()
    session.pins = old.pins
    old.store.backend.close()
    old.drop_log()
    return session
