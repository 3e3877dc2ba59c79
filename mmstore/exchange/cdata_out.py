"""Numpy arrays shown to other libraries as the structs of the Arrow C data interface, without a copy.

Each export is a block of memory with all structs of one tree, laid out here and handed over by
`mmstore.kernels.handover`::

    head | root | other structs, parents first | addresses of children | addresses of buffers

The block and the arrays belong to an owner that lives until the last struct was released, wherever the
consumer has moved it.  What is exported is checked first: a buffer that is shorter than its array claims would be
read beyond its end by others.
"""

from __future__ import annotations

import errno
import sys
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np

from mmstore.exchange.cdata_layout import (
    Buffer,
    Data,
    Field,
    Kind,
    check_children,
    check_field,
    check_shape,
    layout_of,
    size,
)
from mmstore.kernels import arrow_abi as abi
from mmstore.kernels import handover

__all__ = ["export_array", "export_schema", "export_stream"]

_SCHEMA_WORDS: Final = 9
_ARRAY_WORDS: Final = 10
_HEAD: Final = [0] * handover.HEAD
_ZERO: Final = array("q", [0])
_ZERO_ADDRESS: Final = _ZERO.buffer_info()[0]


class _Owner:
    """Keeps the memory of one block, and what its structs show."""

    __slots__ = ("__weakref__", "block", "shown")

    def __init__(self, block: array[int], shown: object) -> None:
        self.block = block
        self.shown = shown


def export_schema(field: Field) -> Any:
    """A capsule "arrow_schema" that shows `field`.

    Raises `ValueError` where the field contradicts itself.
    """
    owner, at, live = _schema_block(field)
    return handover.capsule(handover.SCHEMA, at, owner, live)


def export_array(field: Field, data: Data) -> tuple[Any, Any]:
    """Capsules "arrow_schema" and "arrow_array" that show `data`, a batch of `field`.

    The arrays are not copied; they are kept until the consumer has released them and must not change till then.

    Raises `ValueError` where the data don't fit the field or are shorter than they claim.
    """
    schema = export_schema(field)
    owner, at, live = _array_block(field, data)
    return schema, handover.capsule(handover.ARRAY, at, owner, live)


def export_stream(field: Field, batches: Iterator[Data]) -> Any:
    """A capsule "arrow_array_stream" that shows the batches of `field` one after the other.

    `batches` is asked for the next one when the consumer asks, in the consumer's thread.  An exception there, or a
    batch that doesn't fit, becomes an error code with the exception's text as its message.

    Raises `ValueError` where the field contradicts itself.
    """
    _schema_words(field)
    owner = _Stream(field, iter(batches))
    return handover.capsule(handover.STREAM, owner.at, owner, 1)


# --- schemas -----------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _schema_words(field: Field) -> tuple[array[int], tuple[int, ...], array[int], int]:
    """(words of a block, which of them are relative to the block, its strings, how many structs).

    The strings stay where they are as long as they are held; the words have their addresses.
    """
    check_field(field)
    nodes = [field]  # parents first
    for node in nodes:
        nodes += node.children if node.dictionary is None else (*node.children, node.dictionary)
    texts = bytearray(1)  # an empty name
    starts = [_texts(node, texts) for node in nodes]
    strings = array("B", texts)
    base = strings.buffer_info()[0]
    words, relative = list(_HEAD), []
    pointers = handover.HEAD + _SCHEMA_WORDS * len(nodes)  # index of the next free word behind the structs
    below = 1  # number of the next child
    children: list[int] = []
    for node, (format, name, metadata) in zip(nodes, starts, strict=True):
        n, at = len(node.children), len(words)
        flags = abi.NULLABLE if node.nullable else 0
        if node.ordered:
            flags |= abi.KEYS_SORTED if node.format == "+m" else abi.ORDERED
        words += [base + format, base + name, base + metadata if metadata else 0, flags, n]
        words += [8 * pointers if n else 0, 0, handover.callback(handover.SCHEMA), 0]
        relative += [at + 5] if n else []
        relative.append(at + 8)
        children += [8 * (handover.HEAD + _SCHEMA_WORDS * (below + i)) for i in range(n)]
        pointers += n
        below += n
        if node.dictionary is not None:
            words[at + 6] = 8 * (handover.HEAD + _SCHEMA_WORDS * below)
            relative.append(at + 6)
            below += 1
    relative += range(len(words), len(words) + len(children))
    return array("Q", words + children), tuple(relative), strings, len(nodes)


def _texts(field: Field, texts: bytearray) -> tuple[int, int, int]:
    """Where the field's format, name and metadata begin in `texts`, to which they are added."""
    starts = []
    for word in (field.format, field.name):
        if "\0" in word:
            raise ValueError(f"field {field.name!r}: expected a name without NUL")
        starts.append(len(texts) if word else 0)
        texts += word.encode() + b"\0" if word else b""
    texts += bytes(-len(texts) % 4)  # the metadata's numbers lie aligned
    metadata = len(texts) if field.metadata else 0
    if metadata:
        texts += len(field.metadata).to_bytes(4, sys.byteorder)
        for pair in field.metadata.items():
            for part in pair:
                texts += len(part).to_bytes(4, sys.byteorder) + part
    return starts[0], starts[1], metadata


def _schema_block(field: Field) -> tuple[_Owner, int, int]:
    """(owner, address of the block, how many structs are in it)."""
    words, relative, strings, n = _schema_words(field)
    block = words[:]
    at = block.buffer_info()[0]
    for i in relative:
        block[i] += at
    return _Owner(block, strings), at, n


# --- arrays ------------------------------------------------------------------------------------------


def _array_block(field: Field, data: Data) -> tuple[_Owner, int, int]:
    """(owner, address of the block, how many structs are in it).

    Raises `ValueError` where the data don't fit the field.
    """
    fields, nodes = [field], [data]  # parents first
    buffers: list[list[int]] = []
    for below, node in zip(fields, nodes, strict=True):
        buffers.append(_addresses(below, node))
        if node.children:
            fields += below.children
            nodes += node.children
        if below.dictionary is not None and node.dictionary is not None:
            fields.append(below.dictionary)
            nodes.append(node.dictionary)
    structs = len(nodes)
    total = handover.HEAD + _ARRAY_WORDS * structs + structs - 1 + sum(map(len, buffers))
    block = array("q", bytes(8 * total))
    at = block.buffer_info()[0]
    release = handover.callback(handover.ARRAY)
    words, pointers = _HEAD[:], []  # type: list[int], list[int]
    child = at + 8 * (handover.HEAD + _ARRAY_WORDS)  # the next struct that isn't the root
    pointer = child + 8 * _ARRAY_WORDS * (structs - 1)
    for node, addresses in zip(nodes, buffers, strict=True):
        n, own = len(node.children), len(addresses)
        after = child + 8 * _ARRAY_WORDS * n
        has_dictionary = node.dictionary is not None
        nulls = node.null_count if not own or addresses[0] else max(node.null_count, 0)  # none without a bitmap
        words += (node.length, nulls, node.offset if node.length else 0, own, n)
        words += (pointer, pointer + 8 * own if n else 0, after if has_dictionary else 0, release, at)
        pointers += addresses
        pointers += range(child, after, 8 * _ARRAY_WORDS)
        pointer += 8 * (own + n)
        child = after + 8 * _ARRAY_WORDS if has_dictionary else after
    words += pointers
    block[: len(words)] = array("q", words)
    return _Owner(block, (data, _ZERO)), at, structs


def _addresses(field: Field, data: Data) -> list[int]:
    """The addresses of an array's own buffers, 0 where one is absent; all of it is checked but what is below."""
    layout, buffers, length, offset = layout_of(field.format), data.buffers, data.length, data.offset
    fixed = len(layout.buffers)
    if len(buffers) != fixed if not layout.views else len(buffers) <= fixed:
        more = f" or more for the format {field.format!r}" if layout.views else f" for the format {field.format!r}"
        raise ValueError(f"field {field.name!r}: expected {fixed + layout.views} buffers{more}, found {len(buffers)}")
    check_shape(field, length, offset, data.null_count, bool(buffers) and buffers[0] is not None, len(data.children))
    if (data.dictionary is None) != (field.dictionary is None):
        raise ValueError(
            f"field {field.name!r}: {'no' if data.dictionary is None else 'a'} dictionary was not expected"
        )
    found: list[int] = []
    before: Buffer | None = None
    for kind, buffer in zip(layout.buffers, buffers, strict=False):
        if not length and kind.role == "offsets":  # may be absent, or of no length, which some consumers don't expect
            found.append(_ZERO_ADDRESS)
            continue
        need = size(field, kind, length, offset, before)
        if buffer is None and kind.role == "validity":
            need = 0
        found.append(_address(field, buffer, need))
        before = _typed(kind, buffer) if kind.role == "offsets" else None
    if layout.views:
        found += _view_buffers(field, buffers[fixed:])
    if data.children:
        check_children(field, data, before)
    return found


def _address(field: Field, buffer: Buffer | None, need: int) -> int:
    """Where the buffer's bytes lie.  Raises `ValueError` unless these are `need` bytes or more, one after the other."""
    if buffer is None:
        if need:
            raise ValueError(f"field {field.name!r}: expected a buffer of {need} bytes, found none")
        return 0
    if buffer.nbytes < need:
        raise ValueError(f"field {field.name!r}: expected a buffer of {need} bytes, found {buffer.nbytes}")
    dtype = buffer.dtype
    if not buffer.flags.c_contiguous or not dtype.isnative or dtype.hasobject:
        raise ValueError(f"field {field.name!r}: expected contiguous buffers of numbers in the machine's byte order")
    address: int = buffer.__array_interface__["data"][0]
    return address


def _typed(kind: Kind, buffer: Buffer | None) -> Buffer | None:
    """The buffer as the layout's dtype; its bytes were counted before."""
    if buffer is None or (buffer.dtype == kind.dtype and buffer.ndim == 1):
        return buffer
    whole = buffer.nbytes // kind.dtype.itemsize * kind.dtype.itemsize
    return buffer.reshape(-1).view(np.uint8)[:whole].view(kind.dtype)


def _view_buffers(field: Field, buffers: tuple[Buffer | None, ...]) -> list[int]:
    """The addresses of the data buffers of views, and of their sizes, which come last."""
    n = len(buffers) - 1
    sizes = buffers[n]
    found = _address(field, sizes, 8 * n)
    if sizes is None:
        return [found]
    numbers = sizes.reshape(-1).view(np.int64).tolist()
    if min(numbers, default=0) < 0:
        raise ValueError(f"field {field.name!r}: expected sizes of buffers, found {min(numbers)}")
    return [*(_address(field, buffer, need) for buffer, need in zip(buffers[:n], numbers, strict=False)), found]


# --- streams -----------------------------------------------------------------------------------------

_INTERRUPTED: Final = b"interrupted"


class _Stream:
    """The owner of a stream's block: what the callbacks of a stream ask."""

    __slots__ = ("__weakref__", "at", "batches", "block", "code", "error", "field")

    def __init__(self, field: Field, batches: Iterator[Data]) -> None:
        self.field = field
        self.batches: Iterator[Data] | None = batches
        self.error: bytes | None = None
        self.code = 0
        self.block = array("Q", [*_HEAD, *map(handover.callback, handover.STREAM_CALLBACKS), 0])
        self.at = self.block.buffer_info()[0]
        self.block[-1] = self.at

    def put_schema(self, out: int) -> int:
        """Put an ArrowSchema at the address `out`; returns 0 or an errno."""
        self.error = _INTERRUPTED  # seen only if that gets through to the caller
        try:
            owner, at, live = _schema_block(self.field)
        except Exception as error:
            return self._failed(error)
        handover.move(handover.SCHEMA, at, owner, live, out)
        self.error = None
        return 0

    def put_next(self, out: int) -> int:
        """Put the next batch's ArrowArray at the address `out`, which is all zeros: released, that is the end."""
        batches, self.batches = self.batches, None  # unless all goes well: a generator that raised would say next
        if batches is None:  # that it is at its end, and the rows that are missing would be missed by nobody
            return self.code
        self.code, self.error = errno.EINTR, _INTERRUPTED
        try:
            data = next(batches, None)
            if data is None:
                self.code, self.error = 0, None
                return 0
            owner, at, live = _array_block(self.field, data)
        except Exception as error:
            self.code = self._failed(error)
            return self.code
        handover.move(handover.ARRAY, at, owner, live, out)
        self.batches, self.error = batches, None
        return 0

    def _failed(self, error: Exception) -> int:
        """The errno that is nearest to the error, whose message is kept."""
        text = str(error)
        name = type(error).__name__
        self.error = (f"{name}: {text}" if text else name).replace("\0", " ").encode(errors="replace")
        if isinstance(error, MemoryError):
            return errno.ENOMEM
        if isinstance(error, OSError):
            return error.errno if error.errno and error.errno in errno.errorcode else errno.EIO
        return errno.EINVAL if isinstance(error, ValueError | TypeError) else errno.EIO
