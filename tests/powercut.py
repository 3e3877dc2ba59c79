"""Power cuts at every step of whatever a test does with a store on a simulated disk, and a judge of what is left.

A ``Bench`` is one disk, the processes that use it, and the history of what they committed.  Before each step
that any of them takes (a write, a sync, a change of a size or a name) the bench cuts the power on copies of
the disk: on each a subset of what was not synced has survived.  Each copy is opened as a restarted machine
would open it, and judged:

- its content is that of one commit, not older than the last one that was acknowledged as durable (or that a
  header or the log was claimed to have), not younger than the last one begun; nothing is half-done
- a txn id that others may have seen never returns with another content
- ``check()`` finds nothing
- it takes commits, and survives power cuts in them, too
- recovery gives the same when it is itself cut short anywhere and repeated

The main run goes on meanwhile, so one run gives the images of all its steps.  Everything is a function of the
seed: the names, ids and nonces that the engine draws come from it, too.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import simdisk
from mmstore import format as fmt
from mmstore.database import forking
from mmstore.database.database import Database, open_on
from mmstore.engine import writer as writer_module
from mmstore.engine.session import Options
from mmstore.kernels import compiled
from mmstore.pages import freelist as freelist_module
from simdisk import SimFilesystem

PATH = "/disk/store.mms"
RING = 16 << 10
LONG = os.environ.get("MMSTORE_STRESS") == "long"
SCALE = 20.0 if LONG else 1.0 if compiled() else 0.3
"""How much of the crash tests is run; uncompiled kernels take several times as long for each image."""

Columns = tuple[Any, ...]
"""A table's rows, of one with a key also which are deleted: (name, values), (name, values), ..., deleted."""


def scaled(n: float) -> int:
    return max(1, round(n * SCALE))


class Violation(AssertionError):
    """A power cut left what must never be left."""


# --- what is in a store ----------------------------------------------------------------------------------


@dataclass
class Content:
    """All of it, in Python's own terms.  Keyspace "" is the store's own."""

    spaces: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {"": {}})
    tables: dict[str, Columns] = field(default_factory=dict)
    arrays: dict[str, bytes] = field(default_factory=dict)

    def copy(self) -> Content:
        spaces = {name: space.copy() for name, space in self.spaces.items()}
        return Content(spaces, self.tables.copy(), self.arrays.copy())

    def differs(self, other: Content) -> str:
        """In few words, for a message."""
        told = []
        for name in sorted({*self.spaces, *other.spaces}):
            mine, theirs = self.spaces.get(name), other.spaces.get(name)
            if mine is None or theirs is None:
                told.append(f"keyspace {name!r} is {'missing' if mine is None else 'there'}")
            elif mine != theirs:
                keys = sorted({*mine, *theirs})
                wrong = [key for key in keys if mine.get(key) != theirs.get(key)]
                told.append(
                    f"keyspace {name!r} has {len(mine)} for {len(theirs)} records, {len(wrong)} differ: {wrong[:4]}"
                )
        for name in sorted({*self.tables, *other.tables}):
            if self.tables.get(name) != other.tables.get(name):
                mine, theirs = (
                    (str(found)[:300] if found else None) for found in (self.tables.get(name), other.tables.get(name))
                )
                told.append(f"table {name!r} has {mine} for {theirs}")
        for name in sorted({*self.arrays, *other.arrays}):
            if self.arrays.get(name) != other.arrays.get(name):
                lengths = [len(arrays[name]) if name in arrays else None for arrays in (self.arrays, other.arrays)]
                told.append(f"array {name!r} has {lengths[0]} for {lengths[1]} bytes, or others")
        return "; ".join(told)


def observe(database: Database) -> Content:
    """What a reader finds, by one snapshot."""
    with database.snapshot() as snapshot:
        spaces = {"": dict(snapshot.items())}
        for name in snapshot.keyspaces():
            spaces[name] = dict(snapshot.keyspace(name).items())
        tables = {}
        for name in snapshot.tables():
            table = snapshot.table(name)
            if table.schema.key is None:
                tables[name] = (table["a"].tobytes(), table["b"].tobytes())
            else:
                tables[name] = (*((column, table[column].tolist()) for column in table.columns), table.deleted.tolist())
        arrays = {name: np.asarray(snapshot.array(name)).tobytes() for name in snapshot.arrays()}
        return Content(spaces, tables, arrays)


@dataclass
class History:
    """The states that were committed or begun, in order, and how far they must be durable."""

    states: list[Content] = field(default_factory=lambda: [Content()])
    floor: int = -1
    """Index of the newest state that must survive; -1: not even the store's creation was acknowledged."""
    ids: dict[int, int] = field(default_factory=dict)
    """Index of the state that each txn id stands for."""
    seen: set[int] = field(default_factory=set)
    """Txn ids that were published, so that somebody may have seen them."""

    def begun(self, content: Content, txn: int) -> int:
        self.states.append(content)
        self.ids[txn] = len(self.states) - 1
        return len(self.states) - 1

    def durable(self, index: int | None) -> None:
        if index is not None:
            self.floor = max(self.floor, index)


# --- the bench -------------------------------------------------------------------------------------------


class _Entropy:
    """What the engine draws, from a seed; what it draws while images are judged changes nothing of the main run."""

    def __init__(self, seed: int) -> None:
        self.main = random.Random(seed)
        self.aside = random.Random(seed + 1)
        self.judging = 0

    def urandom(self, n: int) -> bytes:
        return (self.aside if self.judging else self.main).randbytes(n)


_entropy = _Entropy(0)


@contextmanager
def laboratory(seed: int, eager: bool = True) -> Iterator[None]:
    """Random numbers from the seed, waits that end soon; ``eager``: freed pages are used again almost at once."""
    global _entropy
    _entropy = _Entropy(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", _entropy.urandom)
        if eager:
            patch.setattr(fmt, "GRACE", 2)
            patch.setattr(freelist_module, "_GRACE", (2, 0))
            patch.setattr(freelist_module, "_BATCH", 0)
        yield


def options(durability: str = "full", ring: int = RING, timeout: float = 0.2) -> Options:
    return Options(durability=durability, timeout=timeout, background=False, log_ring=ring)


class Bench:
    """One simulated disk under observation."""

    def __init__(self, seed: int, images: int = 3, continue_share: float = 0.25, full: bool = True) -> None:
        """``images`` for each step; ``full``: every commit is durable before it is published."""
        self.rng = random.Random(f"bench {seed}")
        self.seed = seed
        self.images = images
        self.continue_share = continue_share
        self.full = full
        self.history = History()
        self.disk = simdisk._Disk()
        self.processes: list[SimFilesystem] = []
        self.judged = 0
        """Images that were opened."""
        self.built = 0
        """Images that were made; many are the same as one before."""
        self.limit: int | None = None
        """End with ``Enough`` after so many images."""
        self.violation: Violation | None = None
        self.watching = True
        self.interlude: Callable[[str, str], None] | None = None
        """Called at each step, after the power cuts: what other processes do meanwhile."""
        self.kinds: Counter[str] = Counter()
        self._live: list[Database] = []
        self._judging = False
        self._known: dict[object, Content | None] = {}

    # --- processes ----------------------------------------------------------------------------------

    def process(self, kind: type[SimFilesystem] = SimFilesystem) -> SimFilesystem:
        """A process of the machine."""
        fs = kind(self.disk)
        fs.hook = self._step
        self.processes.append(fs)
        return fs

    def open(self, fs: SimFilesystem, flag: str = "c", how: Options | None = None, page_size: int = 4096) -> Database:
        database = open_on(fs, PATH, flag, how or options(), page_size)
        self._live.append(database)
        self.history.durable(0)
        return database

    def close(self, database: Database) -> None:
        last = len(self._live) == 1
        database.close()
        self._live.remove(database)
        if last:
            self.history.durable(len(self.history.states) - 1)

    def died(self, database: Database) -> None:
        """The process of ``database`` is no more; the others go on."""
        if database in self._live:
            self._live.remove(database)
        drop(database)

    def shut(self) -> None:
        """The end of the test: no handle is left, however it went."""
        for database in self._live:
            drop(database)
        self._live.clear()
        for fs in self.processes:
            fs.hook = None
            fs.kill()

    # --- cutting the power --------------------------------------------------------------------------

    def _step(self, operation: str, name: str, off: int, n: int) -> None:
        if self._judging or self.violation is not None:
            return
        self._judging = True
        _entropy.judging += 1
        try:
            self.kinds[operation] += 1
            self._claims()
            if self.watching:
                self.cut(f"before {operation} {os.path.basename(name)} [{off}, +{n})")
        except Violation as violation:
            self.violation = violation
            raise
        except Enough:
            self.watching = False
            raise
        finally:
            self._judging = False
            _entropy.judging -= 1
        if self.interlude is not None:
            self.interlude(operation, name)

    def _claims(self) -> None:
        """What the processes tell each other is durable must be."""
        for database in self._live:
            if database._session is None or database.session.store.backend.fileno() < 0:
                continue
            live, ids = database.session.live, self.history.ids
            self.history.durable(ids.get(live.get("durable")))
            self.history.durable(ids.get(live.get("synced")))
            self.history.seen.add(live.txn)
            if self.full:
                self.history.durable(ids.get(live.txn))
            return

    def cut(self, when: str) -> None:
        """Judge copies of the disk as they would be after a power cut now."""
        for number in range(self.images):
            rng = random.Random(f"{self.seed} {self.judged} {number}")
            image = power_cut(self.disk, rng, number)
            self.built += 1
            self.judge(image, f"{when}, image {number}", rng, self.history)
            if self.limit is not None and self.judged > self.limit:
                raise Enough

    # --- judging ------------------------------------------------------------------------------------

    def judge(
        self, image: SimFilesystem, when: str, rng: random.Random, history: History, depth: int = 0
    ) -> Content | None:
        """Open an image and compare; Violation if it is what it must not be."""
        when = f"seed {self.seed}, {when}"
        signature = fingerprint(image)
        fresh = signature not in self._known
        if fresh:
            self.judged += 1
            self._known[signature] = self._examine(image, when, rng, history, depth)
        found = self._known[signature]
        low = max(history.floor, 0)
        if found is None:
            if history.floor >= 0:
                raise Violation(f"{when}: the store is gone")
        elif not any(found == state for state in history.states[low:]):
            older = [index for index, state in enumerate(history.states[:low]) if state == found]
            raise Violation(
                f"{when}: expected one of the states {low} .. {len(history.states) - 1}, "
                + (f"found state {older[-1]}" if older else f"found none: {found.differs(history.states[-1])}")
            )
        return found

    def _examine(
        self, image: SimFilesystem, when: str, rng: random.Random, history: History, depth: int
    ) -> Content | None:
        if PATH not in image.disk.names:
            return None
        again: list[SimFilesystem] = []
        if depth == 0 and rng.random() < 0.5:

            def hook(operation: str, name: str, off: int, n: int) -> None:
                if rng.random() < 0.5:
                    again.append(power_cut(image.disk, rng, rng.randrange(9)))

            image.hook = hook
        try:
            database = open_on(image, PATH, "w", options())
        except Exception as error:
            raise Violation(f"{when}: opening it raised {type(error).__name__}: {error}") from error
        image.hook = None
        try:
            found = self._look(database, when)
            txn = database.txn_id
            if txn in history.seen and txn in history.ids and history.states[history.ids[txn]] != found:
                raise Violation(f"{when}: transaction {txn} came back with another content")
            for number, interrupted in enumerate(again):
                alone = History([found], 0)
                self.judge(interrupted, f"{when}, recovery cut short {number}", rng, alone, depth + 1)
            if depth < 2 and rng.random() < self.continue_share:
                self._go_on(image, database, found, when, rng, depth)
            else:
                self._close(image, database, when)
        finally:
            drop(database)
            image.hook = None
            image.kill()
        return found

    def _look(self, database: Database, when: str) -> Content:
        try:
            found = observe(database)
            problems = database.check()
        except Exception as error:
            raise Violation(f"{when}: reading it raised {type(error).__name__}: {error}") from error
        if problems:
            raise Violation(f"{when}: check() found {len(problems)} problems: {problems[:3]}")
        return found

    def _close(self, image: SimFilesystem, database: Database, when: str) -> None:
        try:
            database.close()
        except Exception as error:
            raise Violation(f"{when}: closing it raised {type(error).__name__}: {error}") from error

    def _go_on(
        self, image: SimFilesystem, database: Database, found: Content, when: str, rng: random.Random, depth: int
    ) -> None:
        """The reopened store takes commits; the power fails in them, too."""
        history = History([found], 0)
        cuts: list[tuple[SimFilesystem, int, int]] = []

        def hook(operation: str, name: str, off: int, n: int) -> None:
            if rng.random() < 0.2:
                cuts.append((power_cut(image.disk, rng, rng.randrange(9)), history.floor, len(history.states)))

        image.hook = hook
        try:
            content = found
            for change in range(rng.choice((1, 2, 4))):
                content = content.copy()
                with database.transaction() as txn:
                    for name in rng.sample(["", "later"], 1):
                        size = rng.choice((1, 100, 6000))
                        space, mine = (txn.keyspace(name) if name else txn), content.spaces.setdefault(name, {})
                        for key in (b"after", b"after %d" % change):
                            space[key] = mine[key] = bytes([change]) * size
                    history.begun(content, txn.txn_id)
                history.durable(len(history.states) - 1)
            image.hook = None
            if self._look(database, when) != content:
                raise Violation(f"{when}: commits after recovery have another content")
            if rng.random() < 0.5:
                image.hook = hook
                database.close()
                database = open_on(image, PATH, "w", options())
                if self._look(database, f"{when}, closed and opened again") != content:
                    raise Violation(f"{when}: closing and opening changed the content")
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{when}: going on raised {type(error).__name__}: {error}") from error
        finally:
            image.hook = None
            drop(database)
        for number, (cut, floor, top) in enumerate(cuts):
            part = History(history.states[:top], floor)
            self.judge(cut, f"{when}, going on, cut {number}", rng, part, depth + 1)


class Enough(BaseException):
    """So many images were judged."""


# --- images ----------------------------------------------------------------------------------------------


def power_cut(disk: simdisk._Disk, rng: random.Random, number: int) -> SimFilesystem:
    """A disk as a restarted machine could find it: the first two say nothing and all was written, the rest parts.

    Parts are taken for each file by itself: a share of its sectors, or all but a few, or only a few.
    """
    if number < 2:
        image = disk.image(rng, float(number))
        image.capacity = None
        return SimFilesystem(image)
    names = dict(disk.durable)
    share = rng.choice((0.0, 0.5, 1.0))
    for _, change in disk.pending:
        if rng.random() < share:
            simdisk._apply(names, change)
    built: dict[int, simdisk._File] = {}
    for file in names.values():
        if id(file) not in built:
            built[id(file)] = _image(file, rng)
    image = simdisk._Disk()
    image.names = {name: built[id(file)] for name, file in names.items()}
    image.durable = dict(image.names)
    return SimFilesystem(image)


def _image(file: simdisk._File, rng: random.Random) -> simdisk._File:
    style = rng.randrange(4)
    sectors = sum(map(len, file.pending.values()))
    if style == 0 or not sectors:
        return file.image(rng, rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)))
    chosen = set(rng.sample(range(sectors), min(sectors, rng.choice((1, 1, 2, 3)))))
    pages = dict(file.pages)
    number = 0
    for page, changes in file.pending.items():
        content = bytearray(pages.get(page, bytes(4096)))
        for sector, versions in changes.items():
            if style == 1:
                written = rng.random() < 0.5
            else:
                written = (number in chosen) == (style == 2)
            if written:
                new = versions[-1] if rng.random() < 0.8 else rng.choice(versions)
                torn = 0 if rng.random() < 0.9 else rng.randrange(fmt.SECTOR)
                at = sector * fmt.SECTOR
                if rng.random() < 0.5:
                    content[at + torn : at + fmt.SECTOR] = new[torn:]
                else:
                    content[at : at + fmt.SECTOR - torn] = new[: fmt.SECTOR - torn]
            number += 1
        pages[page] = bytes(content)
    return simdisk._build(pages, rng.choice(file.sizes), file.mode)


def fingerprint(image: SimFilesystem) -> object:
    """Equal for images with equal content, whatever lies in the live page."""
    live = range(fmt.LIVE_AT // 4096, (fmt.LIVE_AT + fmt.LIVE_SIZE) // 4096)
    return frozenset(
        (name, file.sizes[0], frozenset(item for item in file.pages.items() if item[0] not in live))
        for name, file in image.disk.names.items()
    )


# --- handles of the dead ---------------------------------------------------------------------------------


def drop(database: Database) -> None:
    """Forget a handle as the death of its process does: nothing is written, nobody is told."""
    session = database._session
    if session is None:
        return
    for transaction in list(database.transactions):
        transaction._write = None
    database._session = None
    database.reader.close()
    forking.unregister(database)
    writer_module._open_here.__dict__.clear()
    session.store.close()
    session.drop_log()
