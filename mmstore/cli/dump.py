"""Pages and fixed structs for human eyes, drawn from the layouts in ``format``.

Everything is read with pread and printed as it is, damaged or not: what is wrong is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import xxhash

from mmstore import format as fmt

__all__ = ["Readable", "fixed", "page"]

KINDS = {fmt.KIND_DIRECTORY: fmt.DIRECTORY, fmt.KIND_NODE: fmt.NODE, fmt.KIND_BUCKET: fmt.BUCKET}
WIDTH = 16  # bytes a line of a hex dump
SHOWN = 48  # bytes of a key or value


class Readable(Protocol):
    """An open file of the disk layer."""

    def pread(self, n: int, offset: int) -> bytes:
        """`n` bytes from `offset` on, fewer at the end."""


def fixed(file: Readable) -> Iterator[str]:
    """Identity, headers and live page, line by line."""
    yield from _struct(fmt.IDENTITY, file.pread(fmt.IDENTITY.size, fmt.IDENTITY_AT), fmt.IDENTITY_AT, seed=0)
    for name, at in zip("AB", fmt.HEADER_AT, strict=True):
        data = file.pread(fmt.HEADER.size, at)
        yield from _struct(fmt.HEADER, data, at, seed=at, title=f"header {name}")
        yield from _root(data, fmt.HEADER)
    live = file.pread(fmt.LIVE_SIZE, fmt.LIVE_AT)
    yield from _struct(fmt.LIVE, live, fmt.LIVE_AT)
    if len(live) < fmt.LIVE_SIZE:
        return
    nonce = fmt.LIVE.unpack(live)["nonce"]
    for at in fmt.ROOT_SLOT_AT:
        slot = live[at : at + fmt.ROOT_SLOT.size]
        yield from _struct(fmt.ROOT_SLOT, slot, fmt.LIVE_AT + at, seed=nonce)
        yield from _root(slot, fmt.ROOT_SLOT)


def page(file: Readable, number: int, page_size: int) -> Iterator[str]:
    """One page: an index page by its kind, the start of a value run, else bytes."""
    data = file.pread(page_size, number * page_size)
    yield f"page {number} at byte {number * page_size:,}"
    if len(data) < page_size:
        yield f"  the file ends here: {len(data)} of {page_size} bytes"
        return
    header = fmt.BUCKET.unpack(data)
    kind = header["kind"]
    sound = xxhash.xxh3_64_intdigest(data[fmt.BUCKET.offset["txn"] :], number) == header["checksum"]
    if kind in KINDS and sound:
        yield from _struct(KINDS[kind], data, number * page_size)
        if kind == fmt.KIND_BUCKET:
            yield from _bucket(data, header["count"])
        elif kind == fmt.KIND_NODE:
            yield from _runs("slot", _references(data, fmt.node_slots(page_size)))
        else:
            yield from _runs("entry", _references(data, fmt.directory_entries(page_size)))
    elif data.startswith(fmt.RUN_MAGIC):
        yield from _struct(fmt.RUN, data, number * page_size)
        yield "  key   " + _text(data[fmt.RUN.size : fmt.RUN.size + fmt.RUN.unpack(data)["key_size"]])
        yield from _hex(data)
    else:
        yield "  no index page (its checksum doesn't hold) and no start of a value run: extent, run, list or free"
        yield from _hex(data)


def _struct(layout: fmt.Layout, data: bytes, at: int, *, seed: int | None = None, title: str = "") -> Iterator[str]:
    """A struct's fields; with `seed`, whether the checksum at its end holds."""
    yield f"{title or layout.name} at byte {at:,}"
    if len(data) < layout.size:
        yield f"  the file ends here: {len(data)} of {layout.size} bytes"
        return
    for field, value in layout.unpack(data).items():
        if field != "root" and not field.startswith("reserved"):  # a root is drawn by itself
            yield f"  {field:<16} {_value(value)}"
    if seed is not None:
        end = layout.offset["checksum"]
        holds = xxhash.xxh3_64_intdigest(data[:end], seed) == layout.unpack(data)["checksum"]
        yield "  the checksum holds" if holds else "  THE CHECKSUM DOES NOT HOLD"


def _root(data: bytes, layout: fmt.Layout) -> Iterator[str]:
    """The root inside a header or root slot, with its two indexes."""
    if len(data) < layout.size:
        return
    at = layout.offset["root"]
    fields = fmt.ROOT.unpack(data, at)
    for field, value in fields.items():
        if field in ("main", "catalog"):
            inner = fmt.INDEX.unpack(value)
            yield f"    {field:<16} " + " ".join(f"{name}={inner[name]}" for name in fmt.INDEX.names)
        else:
            yield f"    {field:<16} {_value(value)}"


def _references(data: bytes, count: int) -> list[int]:
    """The first `count` u32 behind a page's header."""
    starts = range(fmt.PAGE_HEADER, fmt.PAGE_HEADER + count * fmt.ENTRY_SIZE, fmt.ENTRY_SIZE)
    return [int.from_bytes(data[at : at + fmt.ENTRY_SIZE], "little") for at in starts]


def _runs(name: str, references: list[int]) -> Iterator[str]:
    """Equal neighbours on one line."""
    start = 0
    for i in range(1, len(references) + 1):
        if i == len(references) or references[i] != references[start]:
            label = f"{name} {start}" if i == start + 1 else f"{name}s {start} .. {i - 1}"
            yield f"  {label:<24} page {references[start]}"
            start = i


def _bucket(data: bytes, count: int) -> Iterator[str]:
    for position, entry in enumerate(_references(data, min(count, fmt.node_slots(len(data))))):
        tag, anchor = entry >> 16, (entry & 0xFFFF) * fmt.UNIT
        line = f"  {position:>4} tag {tag:04x} at {anchor:>5}"
        at = anchor - fmt.RECORD.size
        if at < fmt.PAGE_HEADER or anchor > len(data):
            yield f"{line}  outside the record area"
            continue
        sizes = fmt.RECORD.unpack(data, at)
        if sizes["value_size"] == fmt.LARGE_MARK:
            if anchor + fmt.LARGE.size > len(data):
                yield f"{line}  outside the record area"
                continue
            large = fmt.LARGE.unpack(data, anchor)
            yield f"{line}  large: key of {large['key_size']}, value of {large['value_size']:,} bytes in a run of " + (
                f"{large['pages']} pages from page {large['page']}"
            )
            continue
        middle = anchor + sizes["value_size"]
        end = middle + sizes["key_size"]
        yield f"{line}  {_text(data[middle:end])}: {_text(data[anchor:middle])}"


def _hex(data: bytes) -> Iterator[str]:
    """Offset, bytes, text; equal lines are left out."""
    before, same = b"", False
    for at in range(0, len(data), WIDTH):
        line = data[at : at + WIDTH]
        if line == before:
            if not same:
                yield "  *"
            same = True
            continue
        before, same = line, False
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"  {at:06x}  {line.hex(' '):<{3 * WIDTH}} {text}"


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return _text(value) if value.isascii() and value.startswith(b"mms") else value.hex()
    if value == fmt.FOREVER:
        return "all ones"
    return f"{value:,}" if value < 1 << 40 else f"0x{value:016x}"


def _text(data: bytes) -> str:
    """A bytes literal, cut."""
    return repr(data) if len(data) <= SHOWN else f"{data[:SHOWN]!r}... ({len(data):,} bytes)"
