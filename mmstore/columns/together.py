"""Work in parts, by several threads at a time: for what waits for memory, and lets other threads run while it does.

Looking up a hundred thousand keys, or rows, a processor waits for one cache miss after the other; two wait half as
long.  The threads live for one call only: nothing to keep, nothing that a fork could lose, and starting one takes a
tenth of a millisecond, so little work is not shared out.  Parts are taken one by one, so that a thread that gets no
processor holds up nobody by more than one of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["FEW", "in_parts", "processors"]

PART: Final = 1 << 14  # keys or rows
FEW: Final = 2 * PART
"""Fewer than these are not shared out."""
_MOST: Final = 4  # threads: more of them wait for the same memory


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parts(n: int, work: Callable[[int, int], object]) -> None:
    """Do `work(start, stop)` for [0, n) in parts of up to `PART`, in no order; where n is small for all of it.

    All threads have ended when this returns.  Raises what `work` raised first, and then no other part begins.
    """
    if n < FEW:
        work(0, n)
        return
    starts = list(range(0, n, PART))
    starts.reverse()
    errors: list[BaseException] = []

    def some() -> None:
        while not errors:
            try:
                start = starts.pop()
            except IndexError:
                return
            try:
                work(start, min(n, start + PART))
            except BaseException as error:  # raised below, by the thread that asked
                errors.append(error)

    helpers: list[threading.Thread] = []
    try:
        for _ in range(min(len(starts), processors(), _MOST) - 1):
            helper = threading.Thread(target=some, name="mmstore")
            try:
                helper.start()
            except RuntimeError:  # no more threads: the system's limit, or the interpreter is ending
                break
            helpers.append(helper)
        some()
    finally:
        starts.clear()
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]
