"""The right to build, which is given back exactly once, whatever strikes the thread that has it.

An exception such as KeyboardInterrupt may be raised between any two bytecodes: also between a lock's
``acquire()`` and the statement that remembers its result, or on the way into the ``finally`` that would
release it.  It is never raised inside one call into C.  So here the lock is taken and that is remembered in one
such call, and released and that is remembered in another; and who drops the last reference to a ``Right``
without having released it releases it thereby.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

__all__ = ["Right"]


class Right:
    """One attempt to get ``mutex``, and the holding of it."""

    __slots__ = ("__weakref__", "_got", "_mutex", "_once", "_releases")

    def __init__(self, mutex: threading.Lock) -> None:
        self._mutex = mutex
        self._got: list[bool] = []
        self._once: Any = iter(self._got)  # gives what is in the list once, then never anything again
        release: Any = mutex.__exit__  # takes any arguments
        self._releases = map(release, filter(None, self._once))

    def acquire(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the mutex; returns whether it was got.  Once only."""
        timeout = max(0.0, min(timeout, threading.TIMEOUT_MAX))
        self._got.extend(map(self._mutex.acquire, (True,), (timeout,)))
        return self._got[0]

    @property
    def held(self) -> bool:
        """Whether the mutex was got and not yet released."""
        return self._got == [True] and bool(self._once.__length_hint__())

    def release(self) -> None:
        """Release the mutex, if it is held by this right; a second time does nothing."""
        deque(self._releases, 0)

    def __del__(self) -> None:
        deque(getattr(self, "_releases", ()), 0)  # it may have been struck before it had any
