"""Large values: records too large for a bucket, each whole in a run of pages of its own.

::

    0            64    64 + key size   next multiple of 64                         pages * page size
    | run header | key |               | value                        | zeros       |

The bucket keeps a LARGE struct: the key's hash, sizes, place, and a checksum over the run up to the value's
end.  A run is written once, before any root refers to it, and never again (I1), so a view of the value stays
as it is while the run is held (I2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from xxhash import xxh3_64, xxh3_64_intdigest

from mmstore import format as fmt
from mmstore.errors import CorruptError

__all__ = ["Large", "Runs", "read", "value_at", "write"]

_LARGE = fmt.LARGE.struct


class Large(NamedTuple):
    """The fields of a large record, as format.LARGE has them."""

    hash: int
    value_size: int
    checksum: int
    born: int
    page: int
    pages: int
    key_size: int
    reserved: int = 0

    @classmethod
    def unpack(cls, record: bytes) -> Large:
        return cls(*_LARGE.unpack(record))

    def pack(self) -> bytes:
        return _LARGE.pack(*self)


class Runs(Protocol):
    """What writing a value needs of a transaction."""

    page_size: int

    @property
    def txn(self) -> int: ...
    def write_run(self, pieces: Iterator[Any], npages: int) -> int: ...


def value_at(key_size: int) -> int:
    """Where in its run a value lies, in bytes."""
    return -(-(fmt.RUN.size + key_size) // fmt.RUN_ALIGN) * fmt.RUN_ALIGN


def write(work: Runs, key: bytes, value: Any, h: int) -> bytes:
    """Write a run for ``key`` and ``value`` and return its large record; ``h`` is the key's hash."""
    data = memoryview(value).cast("B") if not isinstance(value, bytes) else value
    start = value_at(len(key))
    pages = -(-(start + len(data)) // work.page_size)
    header = fmt.RUN.struct.pack(fmt.RUN_MAGIC, h, len(data), work.txn, len(key), pages, bytes(24))
    head = (header + key).ljust(start, b"\0")
    hasher = xxh3_64(head)
    hasher.update(data)
    page = work.write_run(iter((head, data)), pages)
    return Large(h, len(data), hasher.intdigest(), work.txn, page, pages, len(key)).pack()


def read(mem: Any, page_size: int, record: bytes) -> bytes:
    """The value of a large record; CorruptError if its run does not have its checksum."""
    large = Large.unpack(record)
    at = large.page * page_size
    start = value_at(large.key_size)
    size = start + large.value_size
    run = mem[at : at + size]
    if size > large.pages * page_size or len(run) < size or xxh3_64_intdigest(run) != large.checksum:
        raise CorruptError(
            f"the value in pages {large.page}+{large.pages} contradicts its record's checksum or size; "
            "run check(), restore a backup",
            page=large.page,
            offset=at,
        )
    return bytes(run[start:])
