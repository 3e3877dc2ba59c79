"""Damaged and hostile stores: made from a sound one, opened, read through, judged.

A *sample* is a small store as bytes, with all states that it may rightly show.  ``Image`` holds it as sparse
files; ``examine`` opens one in memory files and reads everything by every way there is.  It must find the right data,
or raise an error of mmstore's; what is wrong it calls by raising ``Misread``.  It runs in child
processes (``batch``), since what it looks for includes signals and endless loops.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import resource
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import xxhash

from children import say
from mmstore import format as fmt
from mmstore.columns.types import nullable
from mmstore.database.database import Database, open_on
from mmstore.disk.memory import MemoryFilesystem
from mmstore.engine.session import Options
from mmstore.errors import Error
from mmstore.keyspace.values import Large, value_at
from mmstore.pages.root import Header, Root

PATH = "data.mms"
LOG = PATH + fmt.WAL_SUFFIX
OPTIONS = Options(durability="full", timeout=2.0, background=False, log_ring=64 << 10)
PIECE = 4096
TABLES = {"wide": {"a": "u1", "v": ("f4", 3), "t": "datetime64[us]"}, "long": {"x": "i8"}}
RICH: dict[str, Any] = {
    "id": "i8",
    "n": nullable("f4"),
    "t": nullable("utf8"),
    "c": nullable("category"),
    "l": "list(i2)",
    "d": "decimal128(9,2)",
}


class Misread(Exception):
    """Wrong data was shown without an error."""


# --- stores as bytes ---------------------------------------------------------------------------------------


@dataclass
class Image:
    """Files as their sizes and the pieces of 4 KiB that are not zero."""

    sizes: dict[str, int] = field(default_factory=dict)
    pieces: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, fs: MemoryFilesystem) -> Image:
        image = cls()
        for name in (PATH, LOG):
            if not fs.exists(name):
                continue
            file = fs.open(name)
            size = image.sizes[name] = file.size()
            image.pieces[name] = {}
            for at in range(0, size, PIECE):
                piece = file.pread(PIECE, at)
                if any(piece):
                    image.pieces[name][at // PIECE] = piece
            file.close()
        return image

    def copy(self) -> Image:
        return Image(dict(self.sizes), {name: dict(pieces) for name, pieces in self.pieces.items()})

    def read(self, name: str, at: int, n: int) -> bytes:
        first, last = at // PIECE, (at + n - 1) // PIECE
        pieces = self.pieces[name]
        data = b"".join(pieces.get(number, bytes(PIECE)) for number in range(first, last + 1))
        return data[at - first * PIECE : at - first * PIECE + n]

    def write(self, name: str, at: int, data: bytes) -> None:
        for number in range(at // PIECE, (at + len(data) - 1) // PIECE + 1):
            piece = bytearray(self.pieces[name].get(number, bytes(PIECE)))
            start = max(at, number * PIECE)
            stop = min(at + len(data), (number + 1) * PIECE)
            piece[start - number * PIECE : stop - number * PIECE] = data[start - at : stop - at]
            self.pieces[name][number] = bytes(piece)

    def flip(self, name: str, bit: int) -> None:
        self.write(name, bit // 8, bytes([self.read(name, bit // 8, 1)[0] ^ 1 << bit % 8]))

    def truncate(self, name: str, size: int) -> None:
        self.sizes[name] = size
        for number in list(self.pieces[name]):
            if (number + 1) * PIECE > size:
                self.pieces[name][number] = self.pieces[name][number][: max(0, size - number * PIECE)]

    def filesystem(self, may_write: bool = True) -> MemoryFilesystem:
        fs = MemoryFilesystem() if may_write else _ReadOnly()
        for name, size in self.sizes.items():
            file = MemoryFilesystem.open(fs, name, create=True)
            file.truncate(size)
            for number, piece in self.pieces[name].items():
                if piece:
                    file.pwrite(piece, number * PIECE)
            file.close()
        return fs


class _ReadOnly(MemoryFilesystem):
    """Files that this user may not write."""

    def open(self, path: str, *, write: bool = True, **options: Any) -> Any:
        if write:
            raise PermissionError(13, "Permission denied", path)
        return super().open(path, write=False, **options)


# --- samples -----------------------------------------------------------------------------------------------

State = dict[str, Any]  # name ("" for the main keyspace) -> dict, {column: array or list}, or an array


@dataclass
class Sample:
    image: Image
    page_size: int
    states: list[State]
    """Of the last state, and before it those that it may be instead if a certain part is damaged."""
    last_record: range = range(0)
    """Bytes of the log's last record: nothing behind it says that it was synced, so damage there is its end."""

    @property
    def used(self) -> list[int]:
        """Pieces of the data file with anything in them, without the live page."""
        live = range(fmt.LIVE_AT // PIECE, (fmt.LIVE_AT + fmt.LIVE_SIZE) // PIECE)
        return sorted(number for number in self.image.pieces[PATH] if number not in live)

    def root(self) -> Root:
        return self.headers()[0][1].root

    def headers(self) -> list[tuple[int, Header]]:
        """(which, header), the newer first."""
        uuid = fmt.IDENTITY.unpack(self.image.read(PATH, 0, fmt.IDENTITY.size))["uuid"]
        found = [
            (at, Header.unpack(self.image.read(PATH, fmt.HEADER_AT[at], fmt.HEADER.size), at, uuid)) for at in (0, 1)
        ]
        whole = [(at, header) for at, header in found if header is not None]
        return sorted(whole, key=lambda item: (item[1].root.txn, bool(item[1].log_id)), reverse=True)


def state_of(db: Database) -> State:
    state: State = {"": dict(db)}
    for name in db.keyspaces():
        state[name] = dict(db.keyspace(name))
    for name in db.tables():
        table = db.table(name)
        state[name] = {column: column_of(db, name, column) for column in table.columns}
        if name == "rich":
            state[name]["deleted"] = np.array(table.deleted)
    for name in db.arrays():
        state[name] = np.array(db.array(name))
    return state


def column_of(db: Database, name: str, column: str) -> Any:
    """A column as an array, or where none shows it all as a list of plain values."""
    if column == "deleted":
        return np.array(db.table(name).deleted)
    found = db.table(name)[column]
    if isinstance(found, np.ndarray):
        return np.array(found)
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in found.tolist()]


def rich_rows(rng: random.Random, ids: range) -> dict[str, list[Any]]:
    """Rows for the table "rich"."""
    return {
        "id": list(ids),
        "n": [rng.choice([None, 0.5 * i]) for i in ids],
        "t": [rng.choice([None, "", "short", "ä" * (i % 40)]) for i in ids],
        "c": [rng.choice([None, "red", "green", f"colour {i % 70}"]) for i in ids],
        "l": [[i % 99] * (i % 4) for i in ids],
        "d": list(ids),
    }


def change_rich(db: Database, rng: random.Random) -> None:
    """One change of each kind, in a transaction of its own each."""
    table = db.table("rich")
    rows = np.flatnonzero(~table.deleted)
    some = rows[:: max(1, len(rows) // 5)].tolist()
    more = {"extra": ["more", None, ""]} if "extra" in table.columns else {}
    table.append(rich_rows(rng, range(100_000 + len(table), 100_003 + len(table))) | more)
    table.append(rich_rows(rng, range(3)) | more, on_conflict="replace")
    if some:
        table.update(some, {"n": [None] * len(some), "t": ["new"] * len(some), "c": ["new too"] * len(some)})
        table.update(some[:1], {"id": [200_000 + len(table)]})
        table.delete(some[1:])
    if "extra" not in table.columns:
        table.add_column("extra", nullable("utf8"), "everywhere")
    else:
        table.drop_column("extra")
    array = db.array("field")
    if len(array) > 3:
        array[1:3] = 7
    array.append(np.ones((2, 5), "f4"))


def fill(db: Database, seed: int) -> None:
    """Something of every kind, with pages of every kind, and a past."""
    rng = random.Random(seed)
    db.update({b"k%d" % n: rng.randbytes(rng.randrange(60)) for n in range(150)})
    db.keyspace("deep").put_many(np.arange(6000), np.arange(6000))
    db.keyspace("few")[b"one"] = b"1"
    large = db.keyspace("large")
    for size in (2000, 5000, 70_000, 200_000):
        large[b"v%d" % size] = rng.randbytes(size)
    for name, schema in TABLES.items():
        table = db.create_table(name, schema)
        for count in (3, 500, 9000):
            data = {
                column: rng.randbytes(count * np.zeros((), part.dtype).itemsize * int(np.prod(part.shape[1:])))
                for column, part in ((column, table[column]) for column in table.columns)
            }
            table.append(
                {
                    column: np.nan_to_num(np.frombuffer(data[column], part.dtype).reshape(count, *part.shape[1:]))
                    if part.dtype.kind == "f"
                    else np.frombuffer(data[column], part.dtype).reshape(count, *part.shape[1:])
                    for column, part in ((column, table[column]) for column in table.columns)
                }
            )
    rich = db.create_table("rich", RICH, key="id")
    for ids in (range(3), range(3, 40), range(40, 1500)):
        rich.append(rich_rows(rng, ids))
    rich.update(range(30, 50), {"n": [None] * 20, "t": ["changed"] * 20, "c": ["other"] * 20, "l": [[1, 2]] * 20})
    rich.delete(range(0, 1400, 9))
    field_ = db.create_array("field", "f4", (0, 5))
    field_.append(np.arange(30_000, dtype="f4").reshape(-1, 5))
    field_[100:200] = 1
    for n in range(80):
        db[b"k%d" % (n * 7 % 150)] = rng.randbytes(rng.randrange(60))
    db.keyspace("gone").update({b"%d" % n: bytes(n) for n in range(300)})
    db.drop("gone")
    del large[b"v5000"]
    db.keyspace("deep").delete_many(np.arange(0, 6000, 7))


def sample(kind: str, page_size: int = 4096, seed: int = 1) -> Sample:
    """``kind``: "clean" closed; "young" crashed before the first checkpoint; "log" behind one; "old" after several,
    when the pages of the durable root before the last were used again."""
    fs = MemoryFilesystem()
    states: list[State] = []
    last = range(0)
    # The same uuid, hash seed and log id each time, so that the seed of a failed run leads to the same pages again.
    with (
        mock.patch("os.urandom", random.Random(f"{kind} {seed}").randbytes),
        open_on(fs, PATH, "c", OPTIONS, page_size) as db,
    ):
        if kind != "young":
            fill(db, seed)
        if kind != "clean":
            for turn in range({"young": 0, "log": 1, "old": 4}[kind]):
                for n in range(turn * 30):
                    db.keyspace("deep")[(n * 13).to_bytes(8, "little")] = b"%d" % turn * n
                    db.keyspace("large")[b"v2000"] = b"%d" % turn * 2000
                db.checkpoint()
            for n in range(25 if kind != "old" else 90):
                db[b"k%d" % (n * 3 % 150)] = b"logged%d" % n
                db.keyspace("deep")[n.to_bytes(8, "little")] = b"logged" * (n % 25)
                if kind != "young":
                    db.table("long").append({"x": [n, n + 1]})
                    if n % 12 == 0:
                        change_rich(db, random.Random(n))
                    if n == 13:
                        db.table("rich").compact()
            states.append(state_of(db))
            before = db.session.published().log_position
            db[b"last"] = b"record"
            log = db.session.current_log()
            assert log is not None
            ring = fmt.LOG_RING_AT
            last = range(ring + before % log.ring, ring + db.session.published().log_position % log.ring)
            states.append(state_of(db))
            image = Image.of(fs)
        else:
            states.append(state_of(db))
    if kind == "clean":
        image = Image.of(fs)
    fs.close()
    return Sample(image, page_size, states, last)


# --- judging -----------------------------------------------------------------------------------------------


def differs(found: Any, right: Any) -> bool:
    if isinstance(right, np.ndarray):
        return not np.array_equal(found, right)
    return bool(found != right)


def read_all(db: Database, state: State, wrong: list[str], errors: list[Error]) -> None:
    """Read everything by every way; what differs from ``state`` is named in ``wrong``."""

    def attempt(what: str, call: Callable[[], Any], right: Any) -> None:
        try:
            found = call()
        except Error as error:
            errors.append(error)
        except KeyError:
            wrong.append(f"{what}: KeyError")
        except TypeError as error:
            if "is a " not in str(error):
                raise
            wrong.append(f"{what}: {error}")
        else:
            if differs(found, right):
                wrong.append(what)

    tables = {name for name in state if name in TABLES or name == "rich"}
    others = {*tables, "", "field"}
    attempt("names of keyspaces", db.keyspaces, sorted(name for name in state if name not in others))
    attempt("names of tables", db.tables, sorted(tables))
    attempt("names of arrays", db.arrays, ["field"] if "field" in state else [])
    for name, content in state.items():
        if name in tables:
            for column, array in content.items():
                attempt(f"{name}.{column}", lambda name=name, column=column: column_of(db, name, column), array)
            attempt(f"len of {name}", lambda name=name: len(db.table(name)), len(next(iter(content.values()))))
            if name == "rich":
                read_rich(db, content, attempt)
            continue
        if name == "field":
            attempt(name, lambda: np.array(db.array("field")), content)
            attempt(f"rows of {name}", lambda: np.array(db.array("field")[50:60]), content[50:60])
            continue
        space = db.keyspace(name) if name else db
        keys = sorted(content)[:: max(1, len(content) // 200)]
        attempt(f"items of {name!r}", lambda space=space: dict(space), content)
        attempt(f"len of {name!r}", lambda space=space: len(space), len(content))
        attempt(
            f"get_many of {name!r}", lambda space=space, keys=keys: space.get_many(keys), [content[k] for k in keys]
        )
        for key in keys[::5]:
            attempt(f"get {key!r} of {name!r}", lambda space=space, key=key: space.get(key), content[key])
            attempt(f"view {key!r} of {name!r}", lambda space=space, key=key: bytes(space.view(key)), content[key])
        attempt(f"missing in {name!r}", lambda space=space: space.get(b"never there"), None)


def read_rich(db: Database, content: dict[str, Any], attempt: Callable[[str, Callable[[], Any], Any], None]) -> None:
    """By key, by number, by condition."""
    ids, deleted = content["id"], content["deleted"]
    live = np.flatnonzero(~deleted)
    attempt("rich.find", lambda: db.table("rich").find(ids[live]), live)
    attempt("rich.find of a missing key", lambda: db.table("rich").find([10**9]).tolist(), [-1])
    some = live[:: max(1, len(live) // 50)]

    def taken() -> Any:
        table = db.table("rich")
        return [table[row]["t"] if row < len(table) else "no such row" for row in some.tolist()]

    attempt("rich's rows", taken, [content["t"][row] for row in some])
    large = [row for row in live if content["n"][row] is not None and content["n"][row] > 100]

    def scanned() -> Any:
        return [
            id for part in db.table("rich").scan(["id"], [("n", ">", 100)]) for id in np.asarray(part["id"]).tolist()
        ]

    attempt("rich.scan", scanned, ids[large].tolist())


def write_rich(db: Database) -> None:
    """Change the rich table and the array; each change for itself."""
    for seed in range(2):
        with contextlib.suppress(Error):
            change_rich(db, random.Random(seed))
    for change in (
        lambda: db.table("rich").delete(np.arange(len(db.table("rich")))[::2]),
        lambda: db.table("rich").rename_column("t", "text"),
        lambda: db.table("rich").allow_nulls("l"),
        lambda: db.table("rich").compact(),
        lambda: db.array("field").resize(10),
        lambda: db.array("field").resize(20),
    ):
        with contextlib.suppress(Error, KeyError):
            change()


def write_all(db: Database, state: State) -> None:
    """Change everything, each in its own transaction; errors of mmstore's are fine, everything else is not."""
    if "rich" in state:
        with contextlib.suppress(Error, KeyError):
            write_rich(db)
    for name, content in state.items():
        if name in ("rich", "field"):
            continue
        with contextlib.suppress(Error, KeyError, TypeError):
            if name in TABLES:
                table = db.table(name)
                table.append(
                    {column: np.zeros((300, *table[column].shape[1:]), table[column].dtype) for column in table.columns}
                )
                continue
            space = db.keyspace(name) if name else db
            for change in (
                lambda space=space: space.put(b"new", b"x" * 100),
                lambda space=space: space.put(b"large", b"x" * 10_000),
                lambda space=space, content=content: space.delete_many(list(content)[::3]),
                lambda space=space: space.put_many(np.arange(1500), np.arange(1500)),
                lambda space=space: space.clear(),
            ):
                with contextlib.suppress(Error, TypeError):
                    change()
    for name in state:
        with contextlib.suppress(Error, KeyError):
            db.drop(name or "none")
    with contextlib.suppress(Error):
        db.checkpoint()


def examine(image: Image, states: list[State], *, right: bool, write: bool = True, may_write: bool = True) -> str:
    """Open ``image`` and use everything; returns how it went: "refused", "errors" or "right" (or "wrong").

    ``right``: what is shown without an error must be one of ``states``, and where there are errors, ``check()``
    must name problems.
    """
    fs = image.filesystem(may_write)
    options = OPTIONS if may_write else Options(writable=False, timeout=2.0, background=False)
    outcome = "right"
    try:
        try:
            db = open_on(fs, PATH, "w" if may_write else "r", options)
        except Error:
            return "refused"
        try:
            found = []
            for state in states[::-1]:
                wrong: list[str] = []
                errors: list[Error] = []
                read_all(db, state, wrong, errors)
                found.append(wrong)
                if not wrong:
                    break
            else:
                if right:
                    raise Misread("; ".join(found[0][:10]))
                outcome = "wrong"
            try:
                problems = db.check()
            except Error as error:
                problems = [error]
            if errors:
                if right and not problems:
                    raise Misread(f"check() finds nothing, but reading raises {errors[0]!r}")
                outcome = "errors"
            db.stats() if not problems else None
            if write and may_write:
                write_all(db, states[-1])
        finally:
            with contextlib.suppress(Error):
                db.close()
        return outcome
    finally:
        fs.close()
        db = None
        gc.collect()


# --- hostile changes, under checksums that hold ------------------------------------------------------------

Change = Callable[[Image], None]


def fix_page(image: Image, page: int, page_size: int, content: bytearray) -> None:
    """Put an index page with its checksum made right."""
    content[:8] = xxhash.xxh3_64_intdigest(bytes(content[8:]), page).to_bytes(8, "little")
    image.write(PATH, page * page_size, bytes(content))


def fix_headers(image: Image, root: Root, log_id: int) -> None:
    """Put a root into both headers."""
    uuid = fmt.IDENTITY.unpack(image.read(PATH, 0, fmt.IDENTITY.size))["uuid"]
    for at in (0, 1):
        image.write(PATH, fmt.HEADER_AT[at], Header(uuid, log_id, root).pack(at))


def index_pages(it: Sample) -> dict[int, int]:
    """Page number -> kind of the pages that are whole index pages."""
    found = {}
    size = it.page_size
    for number in sorted({piece * PIECE // size for piece in it.used}):
        content = it.image.read(PATH, number * size, size)
        kind = content[fmt.BUCKET.offset["kind"]]
        checksum = int.from_bytes(content[:8], "little")
        if kind in (1, 2, 3) and xxhash.xxh3_64_intdigest(content[8:], number) == checksum:
            found[number] = kind
    return found


def nasty(rng: random.Random, bits: int, pages: list[int], total: int) -> int:
    """A number that hurts."""
    most = (1 << bits) - 1
    choices = [0, 1, 2, 63, 64, most, most >> 1, most - 1, 1 << (bits - 1), total, total - 1, total + 1, fmt.PRIVATE]
    choices += [fmt.PRIVATE | 1, rng.choice(pages), rng.choice(pages), rng.choice(pages), rng.getrandbits(bits)]
    return rng.choice(choices) & most


def hostile_page(it: Sample, pages: dict[int, int], rng: random.Random) -> tuple[str, Image]:
    """Some fields of some index page changed."""
    image = it.image.copy()
    weights = {1: 30, 2: 10, 3: 1}
    page = rng.choices(list(pages), [weights[kind] for kind in pages.values()])[0]
    content = bytearray(image.read(PATH, page * it.page_size, it.page_size))
    told = [f"page {page} of kind {pages[page]}"]
    total = it.root().pages
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        bits = rng.choice([8, 16, 32, 64])
        head = rng.random() < 0.4
        count = int.from_bytes(content[18:20], "little") if pages[page] == 3 else it.page_size // 8
        stop = 32 if head else min(it.page_size, 32 + 4 * count) if rng.random() < 0.6 else it.page_size
        at = rng.randrange(8, stop) // (bits // 8) * (bits // 8)
        value = nasty(rng, bits, list(pages), total)
        content[at : at + bits // 8] = value.to_bytes(bits // 8, "little")
        told.append(f"u{bits} at {at} = {value:#x}")
    if rng.random() < 0.1:  # one page in another's place
        other = rng.choice(list(pages))
        content = bytearray(image.read(PATH, other * it.page_size, it.page_size))
        told.append(f"content of page {other}")
    fix_page(image, page, it.page_size, content)
    return ", ".join(told), image


def hostile_root(it: Sample, pages: dict[int, int], rng: random.Random) -> tuple[str, Image]:
    """A field of the root changed, in both headers."""
    image = it.image.copy()
    _, header = it.headers()[0]
    data = bytearray(header.root.pack())
    field, offset, size = rng.choice([(name, at, n) for at, n, name, _ in fmt.ROOT.rows()])
    if size > 8:  # an index descriptor
        at, n, inner, _ = rng.choice(list(fmt.INDEX.rows()))
        field, offset, size = f"{field}.{inner}", offset + at, n
    value = nasty(rng, 8 * size, list(pages), header.root.pages)
    if rng.random() < 0.3:
        value = (int.from_bytes(data[offset : offset + size], "little") + rng.choice([-1, 1, 2])) % (1 << 8 * size)
    data[offset : offset + size] = value.to_bytes(size, "little")
    fix_headers(image, Root.unpack(bytes(data)), header.log_id)
    return f"root's {field} = {value:#x}", image


def hostile_free_list(it: Sample, pages: dict[int, int], rng: random.Random) -> tuple[str, Image]:
    """An entry of the consolidated free list or of its first delta changed."""
    image = it.image.copy()
    _, header = it.headers()[0]
    root = header.root
    free = root.free
    size = it.page_size
    body = bytearray(image.read(PATH, free.page * size, free.bytes)) if free.bytes else bytearray()
    area = bytearray(image.read(PATH, free.delta_page * size, free.delta_bytes)) if free.delta_bytes else bytearray()
    target, name = (area, "deltas") if area and rng.random() < 0.6 or not body else (body, "list")
    if not target:
        return "no free list", image
    bits = rng.choice([32, 32, 64])
    at = rng.randrange(0, len(target) - 8) // 4 * 4
    value = nasty(rng, bits, list(pages), root.pages)
    target[at : at + bits // 8] = value.to_bytes(bits // 8, "little")
    checksum = xxhash.xxh3_64_intdigest(bytes(body))
    chain, at_delta = checksum, 0
    while at_delta + fmt.DELTA.size <= len(area):
        _, _, taken, given = fmt.DELTA.struct.unpack_from(area, at_delta)
        stop = at_delta + fmt.DELTA.size + (taken + given) * fmt.FREE_ENTRY.size
        if stop > len(area):
            break
        chain = xxhash.xxh3_64_intdigest(bytes(area[at_delta + 8 : stop]), chain)
        area[at_delta : at_delta + 8] = chain.to_bytes(8, "little")
        at_delta = stop
    if body:
        image.write(PATH, free.page * size, bytes(body))
    if area:
        image.write(PATH, free.delta_page * size, bytes(area))
    free = free._replace(checksum=checksum, delta_chain=chain)
    fix_headers(image, root._replace(free=free), header.log_id)
    return f"free {name} at {at}: u{bits} = {value:#x}", image


def hostile_catalog(it: Sample, pages: dict[int, int], rng: random.Random) -> tuple[str, Image]:
    """Bytes of a catalog entry changed, in the bucket that has it."""
    image = it.image.copy()
    root = it.root()
    page = struct.unpack_from("<I", root.catalog)[0]
    content = bytearray(image.read(PATH, page * it.page_size, it.page_size))
    count = fmt.BUCKET.unpack(content)["count"]
    entry = rng.randrange(count)
    anchor = (int.from_bytes(content[32 + 4 * entry : 34 + 4 * entry], "little")) * 8
    _, value_size = fmt.RECORD.struct.unpack_from(content, anchor - 4)
    bits = rng.choice([8, 16, 32, 64])
    if value_size == fmt.LARGE_MARK:  # in a run of its own
        large = Large.unpack(bytes(content[anchor : anchor + fmt.LARGE.size]))
        start = value_at(large.key_size)
        run = bytearray(image.read(PATH, large.page * it.page_size, start + large.value_size))
        at = start + rng.randrange(0, large.value_size - 8) // 4 * 4
        value = nasty(rng, bits, list(pages), root.pages)
        run[at : at + bits // 8] = value.to_bytes(bits // 8, "little")
        image.write(PATH, large.page * it.page_size, bytes(run))
        packed = large._replace(checksum=xxhash.xxh3_64_intdigest(bytes(run))).pack()
        content[anchor : anchor + len(packed)] = packed
        fix_page(image, page, it.page_size, content)
        return f"large catalog entry {entry}: u{bits} at {at - start} = {value:#x}", image
    at = anchor + rng.randrange(0, max(1, value_size - 8)) // 4 * 4
    value = nasty(rng, bits, list(pages), root.pages)
    content[at : at + bits // 8] = value.to_bytes(bits // 8, "little")
    fix_page(image, page, it.page_size, content)
    return f"catalog entry {entry}: u{bits} at {at - anchor} = {value:#x}", image


def hostile_log(it: Sample, pages: dict[int, int], rng: random.Random) -> tuple[str, Image]:
    """Bytes of a log record changed, all records behind it chained anew."""
    image = it.image.copy()
    _, header = it.headers()[0]
    at = fmt.LOG_RING_AT + header.root.log_position % OPTIONS.log_ring
    previous, target, number = header.root.log_chain, rng.randrange(40), 0
    told = "no record"
    while True:
        _, old, txn, synced, nonce, length, payload = fmt.LOG_RECORD.struct.unpack(
            image.read(LOG, at, fmt.LOG_RECORD.size)
        )
        if not length or at + length > image.sizes[LOG]:
            return told, image
        record = bytearray(image.read(LOG, at, length))
        if number == target:
            bits = rng.choice([8, 16, 32, 64])
            low = fmt.LOG_RECORD.offset["txn"] if rng.random() < 0.2 else fmt.LOG_RECORD.size
            where = rng.randrange(low, max(low + 1, length - 8))
            value = nasty(rng, bits, list(pages), it.root().pages)
            record[where : where + bits // 8] = value.to_bytes(bits // 8, "little")
            del record[length:]
            told = f"log record {number}: u{bits} at {where} = {value:#x}"
        record[8:16] = previous.to_bytes(8, "little")
        previous = xxhash.xxh3_64_intdigest(bytes(record[8:]), header.log_id)
        record[:8] = previous.to_bytes(8, "little")
        image.write(LOG, at, bytes(record))
        at += length
        number += 1


HOSTILE: dict[str, Callable[[Sample, dict[int, int], random.Random], tuple[str, Image]]] = {
    "pages": hostile_page,
    "root": hostile_root,
    "free list": hostile_free_list,
    "catalog": hostile_catalog,
    "records": hostile_log,
}


# --- in child processes ------------------------------------------------------------------------------------


def damaged(it: Sample, how: str, rng: random.Random) -> Iterator[tuple[str, Image, list[State]]]:
    """(what was done, the damaged image, states that it may show) without end."""
    names = sorted(it.image.sizes)
    fixed = [fmt.IDENTITY.size, *(at + fmt.HEADER.size for at in fmt.HEADER_AT)]
    while True:
        image = it.image.copy()
        states = it.states[-1:]
        if how == "identity":
            bit = rng.randrange(8 * fixed[0])
            image.flip(PATH, bit)
            yield f"bit {bit} of the identity", image, states
        elif how == "headers":
            which = rng.randrange(2)
            bit = 8 * fmt.HEADER_AT[which] + rng.randrange(8 * fmt.HEADER.size)
            image.flip(PATH, bit)
            yield f"bit {bit - 8 * fmt.HEADER_AT[which]} of header {which}", image, states
        elif how == "data":
            piece = rng.choice(it.used)
            bit = 8 * PIECE * piece + rng.randrange(8 * PIECE)
            image.flip(PATH, bit)
            yield f"bit {bit % (8 * it.page_size)} of page {bit // 8 // it.page_size}", image, states
        elif how == "log":
            piece = rng.choice(sorted(image.pieces[LOG]))
            bit = 8 * PIECE * piece + rng.randrange(8 * PIECE)
            image.flip(LOG, bit)
            if bit // 8 in it.last_record:
                states = it.states
            yield f"bit {bit} of the log", image, states
        elif how == "truncation":
            name = rng.choice(names)
            size = rng.choice([rng.randrange(image.sizes[name]), rng.randrange(image.sizes[name]) // PIECE * PIECE])
            if rng.random() < 0.2:
                size = rng.choice([0, 1, 4095, 4096, *fixed, fmt.FIXED_SIZE - 1, fmt.FIXED_SIZE]) % image.sizes[name]
            image.truncate(name, size)
            yield f"{name} cut to {size} bytes", image, states
        else:
            raise AssertionError(how)


def batch(path: str, how: str, seed: int, count: int, start: int = 0) -> None:
    """Damage the sample pickled at ``path`` ``count`` times; say each number before, and in the end how it went."""
    resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))  # whoever believes a hostile length learns here
    with open(path, "rb") as file:
        it: Sample = pickle.load(file)
    rng = random.Random(seed)
    pages = index_pages(it)
    endless = damaged(it, how, rng) if how not in HOSTILE else None
    outcomes: dict[str, int] = {}
    failures = []
    for number in range(count):
        may_write = rng.random() > 0.15
        write = endless is None or rng.random() < 0.2
        if endless is not None:
            told, image, states = next(endless)
        else:
            (told, image), states = HOSTILE[how](it, pages, rng), it.states
        if number < start:
            continue
        say([number, told])
        began = time.monotonic()
        try:
            outcome = examine(image, states, right=endless is not None, write=write, may_write=may_write)
        except BaseException as error:
            outcome = "failed"
            where = traceback.format_exc().splitlines()
            failures.append(f"#{number} ({told}, may_write={may_write}): {error!r}\n" + "\n".join(where[-7:]))
            if len(failures) >= 5:
                break
        took = time.monotonic() - began
        if took > 10:
            failures.append(f"#{number} ({told}) took {took:.1f} s")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    say({"outcomes": outcomes, "failures": failures})
    sys.stdout.flush()
    os._exit(0)  # what finalizers do after all this is not the question
