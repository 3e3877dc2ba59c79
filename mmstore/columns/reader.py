"""Sequences as one contiguous, read-only, 64-byte aligned piece of memory over the file itself.

A handle has one `ColumnReader`.  It keeps a `SequenceMap` for each sequence that was looked at lately: its
runs, mapped side by side into reserved addresses with room behind, so that growth adds runs and keeps the address.
All views of a sequence share it; it goes with the last of them once the reader has let go.

The invariant is I2: a view points at committed bytes, which nobody overwrites (I1), and the caller's pin, given
back by ``on_release`` when the last array over the bytes is gone, keeps their pages from being freed.  A mapping
names pages and nothing else, so a snapshot and a later root share one as long as the runs of one begin the
other's; otherwise a new one is made, and the old one lives on in its views.

Arrays made over the read-only memoryview can't be made writeable.

Small columns (up to `VERIFY_LIMIT`) are checked against their checksums before they are first shown; to read a
larger one through for the sake of one element would be wrong, and ``check()`` does it on demand.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from mmstore.columns import sequence
from mmstore.columns.arrays import Known
from mmstore.columns.extents import NO_RUNS, Runs, Source
from mmstore.columns.sequence import Sequence
from mmstore.disk.backend import Backend
from mmstore.disk.mapping import SequenceMap

__all__ = ["VERIFY_LIMIT", "ColumnReader", "Mapped", "copied", "known"]

VERIFY_LIMIT: Final = 1 << 20
MAPS_KEPT: Final = 256  # least recently used ones beyond are let go: the system's mappings are limited
ALIGNMENT: Final = 64


@dataclass(slots=True, eq=False)
class Mapped:
    """One sequence's mapping, and how much of it was found whole."""

    map: SequenceMap
    runs: Runs
    verified_blocks: int = 0
    verified_tail: tuple[int, int] | None = None
    """(length, tail checksum) of the last state that was verified."""
    known: tuple[Mapped | None, Known] | None = None
    """What is known right of it together with the mapping that it points into."""


class ColumnReader:
    """Shows the sequences of one handle's file.  Threads may share it."""

    def __init__(self, backend: Backend, source: Source) -> None:
        """backend: the file to map.  source: reads committed pages."""
        self._backend = backend
        self._source = source
        self._maps: OrderedDict[tuple[int, ...], Mapped] = OrderedDict()
        self._lock = threading.Lock()

    def memory(
        self,
        key: tuple[int, ...],
        state: Sequence,
        on_release: Callable[[], object] | None = None,
        *,
        private: bool = False,
    ) -> tuple[memoryview, Mapped | None]:
        """(all bytes of a sequence as committed in `state`, the mapping they lie in or None for a copy).

        They are read-only and 64-byte aligned.

        key: names the sequence among all of the file (entry, column, part).  on_release is called once, when nobody can
        see the bytes any more, from wherever that happens, so it may only append to a deque; and also when this raises.
        private: the handle's pages are not the file's (it recovered without being allowed to write), so that the
        bytes are copied out of the source and not mapped.

        Raises `CorruptError` when a small sequence contradicts its checksums.
        """
        size = state.extent
        pending = [] if on_release is None else [on_release]

        def release() -> None:
            if pending:
                pending.pop()()

        try:
            if private or not size:
                self._verify(Mapped(SequenceMap(self._backend, self._source.page_size), NO_RUNS), state)
                memory = copied(state, self._source, 0, size)
                release()
                return memory, None
            with self._lock:
                mapped = self._mapped(key, state.runs)
                self._verify(mapped, state)
                return mapped.map.view(size, release), mapped
        except BaseException:
            release()
            raise

    def clear(self) -> None:
        """Let go of all mappings; each lives on in its views."""
        with self._lock:
            for mapped in self._maps.values():
                mapped.map.close()
            self._maps.clear()

    def rebind(self, backend: Backend, source: Source) -> None:
        """After a fork, in the child: another descriptor, and a lock that no vanished thread holds."""
        self._lock = threading.Lock()
        self._backend, self._source = backend, source
        self._maps.clear()

    def _mapped(self, key: tuple[int, ...], runs: Runs) -> Mapped:
        """The mapping of a sequence, made or grown to cover `runs`."""
        mapped = self._maps.get(key)
        if mapped is None or mapped.runs != runs:
            missing = None if mapped is None else _missing(mapped.map.runs, runs)
            if mapped is None or missing is None:
                found = SequenceMap(self._backend, self._source.page_size, _pages(runs))
                mapped = self._maps[key] = Mapped(found, runs)
                while len(self._maps) > MAPS_KEPT:
                    self._maps.popitem(last=False)[1].map.close()
            mapped.map.extend(missing or ())
            mapped.runs = runs
        self._maps.move_to_end(key)
        return mapped

    def _verify(self, mapped: Mapped, state: Sequence) -> None:
        """Raise what is wrong with a small column, looking only at what has been added since the last time."""
        tail = (state.length, state.tail_checksum)
        if state.length > VERIFY_LIMIT or mapped.verified_tail == tail:
            return
        for error in sequence.verify(state, self._source, min(mapped.verified_blocks, state.blocks)):
            raise error
        mapped.verified_tail = tail
        mapped.verified_blocks = max(mapped.verified_blocks, state.blocks)


def known(first: Mapped | None, body: Mapped | None) -> Known:
    """What is known right of the offsets, or codes, in one mapping that point into another.

    It holds as long as both are the same, however they grow: committed bytes never change.
    """
    if first is None:
        return Known()
    found = first.known
    if found is None or found[0] is not body:
        found = first.known = body, Known()
    return found[1]


def copied(state: Sequence, source: Source, start: int, stop: int) -> memoryview:
    """A read-only, aligned copy of the bytes [start, stop), for what can't be shown in place, such as uncommitted rows.

    A bitmap's last byte is the state's, not the file's.
    """
    size = stop - start
    memory = np.empty(size + ALIGNMENT, np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT
    memory = memory[skip : skip + size]
    whole = max(start, min(stop, state.length))
    memory[: whole - start] = np.frombuffer(sequence.read(state, source, start, whole), np.uint8)
    memory[whole - start :] = state.last
    return memory.data.toreadonly()


def _pages(runs: Runs) -> list[tuple[int, int]]:
    return [(run.start, run.pages) for run in runs]


def _missing(covered: list[tuple[int, int]], runs: Runs) -> list[tuple[int, int]] | None:
    """Runs to add to `covered` so that it covers `runs`; None when they are not the same pages in the same order.

    The same pages may be cut into runs differently, since neighbours are joined as a column grows.
    """
    have, want = covered[::-1], _pages(runs)[::-1]
    while have and want:
        (first, n), (start, pages) = have.pop(), want.pop()
        if first != start:
            return None
        common = min(n, pages)
        if n > common:
            have.append((first + common, n - common))
        if pages > common:
            want.append((start + common, pages - common))
    return want[::-1]
