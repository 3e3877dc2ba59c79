"""Reading ahead: an iterator that is run by a thread, so that parsing and appending overlap.

A queue of two keeps the memory bounded: at most four batches are alive, one being appended, two waiting, one
being made.  What the thread raises is raised to the reader, after the batches before it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, Final, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
DEPTH: Final = 2
_PATIENCE: Final = 0.05  # seconds until the thread looks whether anybody still reads


def ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """The same items; `items` is run and closed in a thread of its own, which ends with this generator."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((item, error), timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item, None):
                    break
            else:
                put(None, None)
        except BaseException as error:
            put(None, error)
        finally:
            close: Any = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=run, name="mmstore read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
            del item
    finally:
        stopped.set()
        thread.join()
