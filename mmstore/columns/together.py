"""Work in parts, by several threads at a time: for what waits for memory, and lets other threads run while it does.

Looking up a hundred thousand keys, or rows, a processor waits for one cache miss after the other; two wait half as
long.  The threads live for one call only: nothing to keep, nothing that a fork could lose, and starting one takes a
tenth of a millisecond, so little work is not shared out.  Parts are taken one by one, and only those that were begun
are waited for: a thread that gets no processor finds nothing left to do, and has held up nobody.
"""

from __future__ import annotations

import os
import threading
from _thread import start_new_thread
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

    No part is in work any more when this returns.  Raises what `work` raised first, and then no other part begins.
    """
    if n < FEW:
        work(0, n)
        return
    starts = list(range(0, n, PART))
    parts = len(starts)
    starts.reverse()
    finished: list[int] = []  # by helpers
    errors: list[BaseException] = []
    ended = threading.Semaphore(0)

    def help_out() -> None:
        while True:
            try:
                start = starts.pop()
            except IndexError:
                return
            try:
                if not errors:
                    work(start, min(n, start + PART))
            except BaseException as error:  # raised below, by the thread that asked
                errors.append(error)
            finished.append(start)
            ended.release()

    mine: list[int] = []

    def pop() -> bool:
        """Take a part and remember that in one call into C: no interrupt comes between."""
        try:
            mine.extend(map(starts.pop, (-1,)))
        except IndexError:
            return False
        return True

    try:
        for _ in range(min(parts, processors(), _MOST) - 1):
            try:
                start_new_thread(help_out, ())  # Thread.start would wait for it to get a processor
            except RuntimeError:  # no more threads: the system's limit, or the interpreter is ending
                break
        while not errors and pop():
            work(mine[-1], min(n, mine[-1] + PART))
    except BaseException as error:
        errors.append(error)
    while True:  # whatever strikes, what is in work is waited for
        try:
            while pop():
                pass
            while len(finished) < parts - len(mine):
                ended.acquire(timeout=1)
            break
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
