"""The live page: what the processes that have the store open tell each other, and nothing else.

It lies in the file only because the file is what they share; a newcomer who is alone throws it away
and builds it anew with a new nonce.  Fields are single aligned words, stored with release and loaded
with acquire order, so each is whole at every moment, whoever dies.

Publication (I4): write the idle root slot, then release-store the txn id whose lowest bit picks it, then
a full fence.  A reader that loads the txn id, copies the slot and finds the id unmoved (or moved by one:
the other slot was written) has one whole root.
"""

from __future__ import annotations

import xxhash

from mmstore import format as fmt
from mmstore.errors import CorruptError
from mmstore.kernels.atomics import fence, load_acquire
from mmstore.kernels.words import Words
from mmstore.pages.root import Root

__all__ = ["LivePage"]

_TXN = fmt.LIVE.offset["txn"]


class LivePage(Words):
    """Typed access to the mapped live page.

    ``memory`` is the mapping of the live page (writable unless the handle may not write the file).
    """

    # --- a new session ------------------------------------------------------------------------------

    def rebuild(self, nonce: int, root: Root, durable_at: int, log_id: int, file_size: int) -> None:
        """Start a session: called by whoever is alone under GATE."""
        self.memory[: fmt.LIVE_SIZE] = bytes(fmt.LIVE_SIZE)
        self.memory[: len(fmt.LIVE_MAGIC)] = fmt.LIVE_MAGIC
        self.set("nonce", nonce)
        self.set("durable", root.txn)
        self.set("durable_at", durable_at)
        self.set("log_id", log_id)
        self.set("log_start", root.log_position)
        self.set("synced", root.txn)
        self.set("file_size", file_size)
        self.set("committing", root.txn)
        self.publish(root)

    # --- roots --------------------------------------------------------------------------------------

    def publish(self, root: Root) -> bool:
        """Make ``root`` the newest for every process; whether somebody waits for that.

        Its txn id must have the idle slot's parity.
        """
        return self.publish_slot(root.txn, root.pack())

    def read_root(self) -> Root:
        """The newest published root, whole.

        Raises CorruptError when a published slot is not whole though nothing was published meanwhile.
        """
        while True:
            txn = load_acquire(self.memory, _TXN)
            at = fmt.ROOT_SLOT_AT[txn & 1]
            slot = bytes(self.memory[at : at + fmt.ROOT_SLOT.size])
            nonce = self.get("nonce")
            fence()
            now = load_acquire(self.memory, _TXN)
            if now - txn > 1:
                continue
            data = slot[: fmt.ROOT.size]
            if xxhash.xxh3_64_intdigest(data, nonce) == int.from_bytes(slot[fmt.ROOT.size :], "little"):
                root = Root.unpack(data)
                if root.txn == txn:
                    return root
            if load_acquire(self.memory, _TXN) == txn and now == txn:
                raise CorruptError(
                    f"the published root {txn} is not whole; close every handle and open again to recover",
                    offset=fmt.LIVE_AT + at,
                )
