"""A root: the whole committed state of the store in 160 bytes, and the two headers that make one durable.

A root is what a transaction publishes and what a header keeps.  It names the store's own keyspace and
the catalog by their index descriptors (opaque here), the free list by its places, and the place in the
log where the records behind it start.

A header is one root with the store's uuid and the id of the log that continues it.  It fits a disk
sector, so a torn write leaves it old or new; its checksum tells a damaged one.  The newer whole header
counts (I3).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import xxhash

from mmstore import format as fmt
from mmstore.errors import CorruptError, FormatError

__all__ = ["FreeState", "Header", "Identity", "Root", "newest_header", "read_headers"]


class FreeState(NamedTuple):
    """Where the free list lies: a consolidated list and a delta area, one run of pages together."""

    page: int = 0
    pages: int = 0
    bytes: int = 0
    checksum: int = 0
    delta_page: int = 0
    delta_pages: int = 0
    delta_bytes: int = 0
    delta_chain: int = 0
    consolidation: int = 0
    """Txn id that wrote the list anew; 0: never, and all pages behind the fixed area are free."""


class Root(NamedTuple):
    """One committed state."""

    txn: int
    pages: int
    log_position: int = 0
    log_chain: int = 0
    main: bytes = bytes(fmt.INDEX.size)
    catalog: bytes = bytes(fmt.INDEX.size)
    free: FreeState = FreeState()
    next_id: int = 1

    def pack(self) -> bytes:
        return fmt.ROOT.struct.pack(*self[:6], *self.free, self.next_id)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Root:
        (txn, pages, position, chain, main, catalog, *free, next_id) = fmt.ROOT.struct.unpack(data)
        return cls(txn, pages, position, chain, main, catalog, FreeState(*free), next_id)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the file is: page size, uuid, hash seed.  Written once, when the store is made."""

    page_size: int
    uuid: bytes
    seed: int

    @classmethod
    def new(cls, page_size: int) -> Identity:
        return cls(page_size, os.urandom(16), int.from_bytes(os.urandom(8), "little"))

    def pack(self) -> bytes:
        body = fmt.IDENTITY.pack(
            {
                "magic": fmt.MAGIC,
                "version": fmt.FORMAT_VERSION,
                "features": 0,
                "page_size": self.page_size,
                "reserved": 0,
                "uuid": self.uuid,
                "seed": self.seed,
                "checksum": 0,
            }
        )[:-8]
        return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Identity:
        """Read the identity, or raise FormatError (not ours, or newer) or CorruptError (ours, damaged)."""
        if len(data) < fmt.IDENTITY.size or data[: len(fmt.MAGIC)] != fmt.MAGIC:
            raise FormatError(
                f"{name}: expected an mmstore file (magic {fmt.MAGIC!r}), found {bytes(data[:8])!r}; "
                'check the path, or open with flag "n" to make a new store there'
            )
        values = fmt.IDENTITY.unpack(data)
        if xxhash.xxh3_64_intdigest(data[: fmt.IDENTITY.size - 8]) != values["checksum"]:
            raise CorruptError(f"{name}: the identity's checksum does not hold; restore a backup", page=0, offset=0)
        if values["version"] > fmt.FORMAT_VERSION or values["features"]:
            raise FormatError(
                f"{name}: format version {values['version']} with features {values['features']:#x}, this mmstore knows "
                f"version {fmt.FORMAT_VERSION} without features; open it with a newer mmstore"
            )
        size = values["page_size"]
        if size & (size - 1) or not fmt.MIN_PAGE_SIZE <= size <= fmt.MAX_PAGE_SIZE:
            raise CorruptError(f"{name}: impossible page size {size}; restore a backup", page=0, offset=0)
        return cls(size, values["uuid"], values["seed"])


@dataclass(frozen=True, slots=True)
class Header:
    """A durable root and the log that continues it (``log_id`` 0: closed cleanly, no log)."""

    uuid: bytes
    log_id: int
    root: Root

    def pack(self, at: int) -> bytes:
        """The header's bytes for place ``at`` (0 or 1)."""
        body = fmt.HEADER.pack(
            {
                "magic": fmt.HEADER_MAGIC,
                "uuid": self.uuid,
                "log_id": self.log_id,
                "root": self.root.pack(),
                "checksum": 0,
            }
        )[:-8]
        return body + xxhash.xxh3_64_intdigest(body, fmt.HEADER_AT[at]).to_bytes(8, "little")

    @classmethod
    def unpack(cls, data: bytes, at: int, uuid: bytes) -> Header | None:
        """The header found at place ``at``, or None where it isn't whole or another store's."""
        if len(data) < fmt.HEADER.size:
            return None
        values = fmt.HEADER.unpack(data)
        checksum = xxhash.xxh3_64_intdigest(data[: fmt.HEADER.size - 8], fmt.HEADER_AT[at])
        if values["magic"] != fmt.HEADER_MAGIC or values["uuid"] != uuid or values["checksum"] != checksum:
            return None
        return cls(uuid, values["log_id"], Root.unpack(values["root"]))


def read_headers(pread: Callable[[int, int], bytes], uuid: bytes) -> list[Header | None]:
    """Both headers, read by ``pread(n, offset)`` (a bad sector is an OSError then, not a fault)."""
    return [Header.unpack(pread(fmt.HEADER.size, fmt.HEADER_AT[at]), at, uuid) for at in (0, 1)]


def newest_header(headers: list[Header | None], name: str) -> tuple[int, Header]:
    """(place, header) of the newer whole header; CorruptError when neither is whole."""
    # Of two with the same root the one that names a log counts: the other was written before the log was made,
    # or by a close that did not end.
    whole = [(header.root.txn, bool(header.log_id), at, header) for at, header in enumerate(headers) if header]
    if not whole:
        raise CorruptError(
            f"{name}: expected at least one whole header, found none; restore a backup", offset=fmt.HEADER_AT[0]
        )
    _, _, at, header = max(whole, key=lambda item: item[:3])
    root = header.root
    if max(root.txn, root.log_position, root.next_id, root.free.bytes, root.free.delta_bytes) >> 62:
        raise CorruptError(
            f"{name}: the header's root has numbers that no store reaches; restore a backup", offset=fmt.HEADER_AT[at]
        )
    return at, header
