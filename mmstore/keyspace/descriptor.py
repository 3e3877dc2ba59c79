"""What a root or a catalog entry knows about an index."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmstore import format as fmt
from mmstore.errors import CorruptError

__all__ = ["EMPTY", "IndexDescriptor"]


class IndexDescriptor(NamedTuple):
    """The fields are those of format.INDEX, in its order."""

    root: int = 0
    """Reference to the top page; 0 while the index is empty."""
    nodes: int = 0
    """Nodes."""
    pages: int = 0
    """Pages in all."""
    height: int = 0
    """0 empty, 1 the root is a bucket, 2 a node, 3 and more a directory."""
    depth: int = 0
    """Bits of the hash that pick a directory entry."""
    flags: int = 0
    """0."""
    count: int = 0  # type: ignore[assignment]  # a tuple's method, which nobody needs
    """Records."""
    size: int = 0
    """Bytes of keys and values."""

    def pack(self) -> bytes:
        """The descriptor's bytes; the root must be a page number."""
        try:
            return fmt.INDEX.struct.pack(*self)
        except fmt.DoesNotFit as error:
            raise CorruptError(
                f"an index that counts less than it has: {self}; run check(), restore a backup"
            ) from error

    @classmethod
    def unpack(cls, data: Any) -> IndexDescriptor:
        """The descriptor in ``data``; page numbers and shape are checked where they are used."""
        found = cls(*fmt.INDEX.struct.unpack(data))
        if (found.count | found.size) >> 62:
            raise CorruptError(
                f"an index can't have {found.count} records of {found.size} bytes; run check(), restore a backup"
            )
        return found


EMPTY = IndexDescriptor()
