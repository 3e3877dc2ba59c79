"""Processes that die at a given instant: between any two steps, in the middle of a write, between any two stores.

An *instant* is what lies before a step of a process (a write, a sync, a change of size or name) or before a
store of its into the live page.  ``Life.end(at)`` runs something that dies at instant ``at``: its writes stay
in the file, its locks vanish, and what Python does while the exception leaves the engine never happened: the
dead process takes no further step, and the live page is put back as it was at its death.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mmstore import format as fmt
from mmstore.database.database import Database
from mmstore.pages.live import LivePage
from mmstore.pages.root import Root
from powercut import PATH, Bench
from simdisk import SimCrash, SimFilesystem

_LIVE = fmt.LIVE.offset


class MortalFilesystem(SimFilesystem):
    """A process whose steps are instants."""

    life: Life | None = None

    def step(self, operation: str, name: str, off: int = 0, n: int = 0) -> bool:
        self.alive()
        if self.life is not None and not self.life.instant(f"{operation} {name}", torn=operation == "pwrite"):
            self.life.die()
            self.frozen = True
            return False
        return super().step(operation, name, off, n)


class Life:
    """What is left of the life of one process with one handle."""

    current: Life | None = None

    def __init__(self, bench: Bench, fs: MortalFilesystem, database: Database | None = None) -> None:
        """``database``: its handle, if it has one by then."""
        self.bench = bench
        self.fs = fs
        self.database = database
        self.instants: list[str] = []
        self.at: int | None = None
        self.torn = False
        self.live: bytes | None = None
        """The live page as it was at the death."""
        fs.life = self

    def instant(self, what: str, torn: bool = False) -> bool:
        """Count one more; dies here if this is the one.  False: do a part of the write, then die."""
        if self.live is not None or self.bench._judging or Life.current is not self:
            return True
        self.instants.append(what)
        if len(self.instants) - 1 != self.at:
            return True
        if torn and self.torn:
            return False
        self.die()
        self.fs.frozen = True
        raise SimCrash(f"died before {what}")

    def die(self) -> None:
        file = self.bench.disk.names.get(PATH)
        self.live = b"" if file is None else os.pread(file.fd, fmt.LIVE_SIZE, fmt.LIVE_AT)

    def end(self, action: Callable[[], object], at: int | None, torn: random.Random | None = None) -> bool:
        """Run ``action``, which dies at instant ``at``; returns whether it did (else it ran to its end)."""
        self.at, self.torn, self.fs.torn = at, torn is not None, torn
        self.instants = []
        Life.current = self
        try:
            action()
        except BaseException:
            if self.live is None:
                raise
            self.bury()
        finally:
            Life.current = None
        if self.bench.violation is not None:
            raise self.bench.violation
        return self.live is not None

    def bury(self) -> None:
        """Undo what Python did after the death, and give back what the system takes from a dead process."""
        assert self.live is not None
        if self.live:
            os.pwrite(self.bench.disk.names[PATH].fd, self.live, fmt.LIVE_AT)
        if self.database is not None:
            self.bench.died(self.database)
        self.fs.kill()


@contextmanager
def stores_are_instants() -> Iterator[None]:
    """Count each store into the live page by the process whose life it is."""
    set_word, publish, set_half = LivePage.set, LivePage.publish, LivePage.set_half

    def counted(live: LivePage, field: str, value: int) -> None:
        if Life.current is not None:
            Life.current.instant(f"store {field} {value:#x}")
        set_word(live, field, value)

    def published(live: LivePage, root: Root) -> bool:
        """One call into C, whose stores are made here one by one: on a copy first, then what it has changed there."""
        life = Life.current
        if life is None:
            return publish(live, root)
        life.instant(f"root slot of {root.txn}")
        at, size = fmt.ROOT_SLOT_AT[root.txn & 1], fmt.ROOT_SLOT.size
        if life.at == len(life.instants) and life.live is None:  # dies in the middle of the slot
            half = root.pack()[: fmt.ROOT.size // 2]
            live.memory[at : at + len(half)] = half
        life.instant(f"half of the root slot of {root.txn}")
        twin = LivePage(memoryview(bytearray(live.memory)))
        waited = publish(twin, root)
        for field, start, n in (("", at, size), ("txn", _LIVE["txn"], 8), ("wakeups", _LIVE["wakeups"], 4)):
            if field:
                life.instant(f"store {field}")
            live.memory[start : start + n] = twin.memory[start : start + n]
        assert live.memory == twin.memory
        return waited

    def half(live: LivePage, field: str, value: int) -> None:
        if Life.current is not None:
            Life.current.instant(f"store {field}")
        set_half(live, field, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LivePage, "set", counted)
        patch.setattr(LivePage, "publish", published)
        patch.setattr(LivePage, "set_half", half)
        yield
