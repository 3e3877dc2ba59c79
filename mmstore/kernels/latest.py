"""Reading one key of the newest state in one call, without a lock and without a pin.

The txn id is loaded, the key looked up in that root's tree, and the id loaded again: if it has moved by at
most ``grace``, no page that the lookup saw has been used again, and what was found stands.  Everything
unusual (a new root, a large value, a writer too quick, bytes that contradict each other) is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmstore.errors import CorruptError
from mmstore.kernels import plain_atomics as atomics
from mmstore.kernels.tree import Tree, plain

__all__ = ["Latest", "PinNeeded"]


MAX_KEY = 0xFFFF


class PinNeeded(Exception):
    """A large value was asked of a state that is not pinned."""


class Latest:
    """One index of the newest root.

    ``refresh()`` must set ``tree`` (None: no such index), and then ``txn``, to those of the newest root;
    ``otherwise(key)`` must look the key up however long it takes.
    """

    def __init__(self, grace: int, refresh: Callable[[], object], otherwise: Callable[[Any], Any]) -> None:
        self.grace = grace
        self.refresh = refresh
        self.otherwise = otherwise
        self.txn = 0
        self.tree: Tree | None = None

    def bind(self, word: memoryview) -> None:
        """Find the txn id in ``word``, eight bytes of the live page."""
        self.word_view = word.cast("Q")
        self.word = atomics.word(self.word_view)
        self.txn = 0
        self.tree = None

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        value = self.look(key, True)
        return default if value is None else value

    def contains(self, key: Any) -> bool:
        """Whether there is a value of ``key``; a large one isn't copied for that."""
        return self.look(key, False) is not None

    def look(self, key: Any, whole: bool) -> Any:
        """The value of ``key``, or unless ``whole`` anything in its place; None if there is none."""
        data = key if type(key) is bytes else plain(key)
        if len(data) > MAX_KEY:
            raise ValueError(f"a key has at most {MAX_KEY} bytes, this one has {len(data)}")
        try:
            if atomics.mms_load_u64(self.word) != self.txn:
                self.refresh()  # reads the catalog, which may be recycled meanwhile like any page
            txn = self.txn
            tree = self.tree
            value = None
            if tree is not None:
                value = tree.get(data) if whole else tree.contains(data) or None
        except (CorruptError, PinNeeded):
            return self.otherwise(data)
        atomics.mms_fence_acquire()
        if atomics.mms_load_u64(self.word) - txn > self.grace:
            return self.otherwise(data)
        return value
