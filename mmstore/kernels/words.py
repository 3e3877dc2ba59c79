"""The words of the live page: single aligned words that processes share, by name.

A commit asks and sets a dozen of them, so each is one compiled call.  Words of eight bytes are loaded with acquire
and stored with release order; those of four bytes (slots, waiters, wakeups) are hints and promise no order.
``publish`` is the moment of publication (I4): see pages/live.py, which builds on this.
"""

from __future__ import annotations

from mmstore import format as fmt
from mmstore.kernels import hashing, raw
from mmstore.kernels import plain_atomics as atomics

__all__ = ["Words"]

AT = fmt.LIVE.offset
TXN, NONCE = AT["txn"], AT["nonce"]
WAITERS, WAKEUPS = AT["waiters"], AT["wakeups"]
SLOT_AT = fmt.ROOT_SLOT_AT
ROOT = fmt.ROOT.size


class Words:
    """Access to the words in ``memory``, a view of the live page."""

    def __init__(self, memory: memoryview) -> None:
        if len(memory) < fmt.LIVE_SIZE:
            raise ValueError(f"expected a live page of {fmt.LIVE_SIZE} bytes, got {len(memory)}")
        self.memory = memory

    def get(self, field: str) -> int:
        """The word of eight bytes."""
        return atomics.mms_load(self.memory, AT[field])

    def set(self, field: str, value: int) -> None:
        """Store it."""
        atomics.mms_store(self.memory, AT[field], value)

    @property
    def txn(self) -> int:
        """The newest published txn id."""
        return atomics.mms_load(self.memory, TXN)

    def half(self, field: str) -> int:
        """The word of four bytes."""
        return raw.load32(raw.address(self.memory), AT[field])

    def set_half(self, field: str, value: int) -> None:
        """Store it, wrapping."""
        raw.store32(raw.writable(self.memory), AT[field], value & 0xFFFF_FFFF)

    def publish_slot(self, txn: int, root: bytes) -> bool:
        """Put the packed ``root`` into the idle slot, swing the txn id to it, fence; whether somebody waits for it."""
        if len(root) != ROOT:
            raise ValueError(f"expected a root of {ROOT} bytes, got {len(root)}")
        source = raw.content(root)
        to = raw.writable(self.memory)
        at = SLOT_AT[txn & 1]
        raw.move(to, at, source, 0, ROOT)
        raw.store64(to, at + ROOT, hashing.hash64(source, 0, ROOT, raw.load64(to, NONCE)))
        atomics.mms_store(self.memory, TXN, txn)
        raw.store32(to, WAKEUPS, raw.load32(to, WAKEUPS) + 1 & 0xFFFF_FFFF)
        atomics.mms_fence()  # whoever begins to wait now sees it, or is seen here
        return raw.load32(to, WAITERS) != 0
