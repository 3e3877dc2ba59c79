"""Columns of every type against plain Python values: appends, updates, cuts; older states keep theirs (I1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from columnspace import ColumnFile
from mmstore import format as fmt
from mmstore.columns import batch as batches
from mmstore.columns import bitmap, extents, keys, sequence, state
from mmstore.columns.schema import Column, Schema
from mmstore.columns.sequence import EMPTY, Sequence
from mmstore.columns.state import ColumnState
from mmstore.columns.types import nullable
from mmstore.columns.verify import verify
from mmstore.columns.words import read_words
from mmstore.errors import CorruptError, SchemaError
from mmstore.exchange import convert
from mmstore.exchange.view import ColumnView

TEXTS = ["", "a", "a\0", "ä", "text that is longer than sixteen bytes", "text that is longer than any", "\U0001f600"]
VALUES: dict[str, Callable[[random.Random], Any]] = {
    "i8": lambda rng: rng.choice([0, -1, 2**63 - 1, -(2**63), rng.randrange(1000)]),
    "u1": lambda rng: rng.randrange(256),
    "?": lambda rng: rng.random() < 0.5,
    "f4": lambda rng: rng.choice([0.0, -0.0, 1.5, float("inf"), rng.randrange(99) / 4]),
    "M8[s]": lambda rng: np.datetime64(rng.randrange(10**9), "s"),
    "S3": lambda rng: rng.choice([b"", b"ab", b"abc"]),
    "decimal128(20,2)": lambda rng: rng.randrange(-(10**15), 10**15),
    "date32": lambda rng: np.datetime64(rng.randrange(-9999, 9999), "D"),
    "utf8": lambda rng: rng.choice(TEXTS),
    "binary": lambda rng: rng.choice([b"", b"\0", rng.randbytes(40)]),
    "category": lambda rng: rng.choice([*TEXTS, f"word {rng.randrange(50)}"]),
    "list(i2)": lambda rng: [rng.randrange(99) for _ in range(rng.randrange(4))],
}


def draw(name: str, missing: bool, n: int, rng: random.Random) -> list[Any]:
    """Values of a type, some of them None if rows may be missing."""
    gone = rng.choice([0.0, 0.0, 0.3, 1.0]) if missing else 0.0
    return [None if rng.random() < gone else VALUES[name](rng) for _ in range(n)]


def plain(values: list[Any]) -> list[Any]:
    """Values that compare: lists for arrays."""
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


def shown(column: Column, found: ColumnState, rows: int, file: ColumnFile) -> list[Any]:
    """A column's rows as Python values, by way of `read`."""
    parts = dict(state.read(column.kind, found, file.space(), 0, rows))
    return listed(column, found, parts, rows, file)


def listed(column: Column, found: ColumnState, parts: dict[str, Any], rows: int, file: ColumnFile) -> list[Any]:
    if column.kind.layout == "category":
        words = [found.part(column.kind, name) for name in ("word_offsets", "words")]
        parts["word_offsets"], parts["words"] = read_words(*words, file.space())
    if "validity" in parts:
        parts["validity"] = np.packbits(parts["validity"], bitorder="little")
    return plain(ColumnView(column, 0, rows, parts).tolist())


def wanted(column: Column, values: list[Any]) -> list[Any]:
    """What `ColumnView` makes of values that were never stored."""
    n, parts = convert.column_parts(column, values)
    found = dict(parts)
    if "validity" in found:
        found["validity"] = np.packbits(found["validity"], bitorder="little")
    return plain(ColumnView(column, 0, n, found).tolist())


@pytest.mark.parametrize("missing", [False, True], ids=["", "nullable"])
@pytest.mark.parametrize("name", VALUES)
def test_columns_do_as_lists_do(name: str, missing: bool) -> None:
    column = Column.of("x", nullable(name) if missing else name)
    kind = column.kind
    for seed in range(4):
        rng, file = random.Random(f"{name} {seed}"), ColumnFile(rng_page(seed))
        found, model = state.new(kind), []
        held: list[tuple[ColumnState, list[Any]]] = []
        for _ in range(9):
            action = rng.choice(["append", "append", "update", "update", "commit", "long", "cut"])
            if action in ("append", "long"):
                values = draw(name, missing, rng.choice([1, 3, 20] if action == "append" else [5000]), rng)
                n, parts = convert.column_parts(column, values)
                found = state.append(kind, found, len(model), n, parts, file.space())
                model = model + wanted(column, values)
            elif action == "update" and model:
                rows = sorted(rng.sample(range(len(model)), min(len(model), rng.choice([1, 2, 30]))))
                values = draw(name, missing, len(rows), rng)
                parts = convert.column_parts(column, values)[1]
                found = state.update(kind, found, len(model), np.array(rows), parts, file.space())
                model = list(model)
                for row, value in zip(rows, wanted(column, values), strict=True):
                    model[row] = value
            elif action == "commit":
                held.append((found, model))
                file.txn += 1
            elif action == "cut" and kind.layout == "fixed" and model:
                rows_left = rng.randrange(len(model))
                found = state.truncate(kind, found, rows_left, file.space())
                model = model[:rows_left]
            assert state.unpack(kind, len(model), found.pack(), 0, file.page_size, file.pages)[0] == found
            for known, values in [*held, (found, model)]:
                assert shown(column, known, len(values), file) == values
            assert list(verify(kind, found, len(model), file.space())) == []
            if model:
                rows = np.array([rng.randrange(len(model)) for _ in range(20)])
                parts = dict(state.take(kind, found, file.space(), rows))
                assert listed(column, found, parts, len(rows), file) == [model[row] for row in rows]
        for known, values in held:
            assert list(verify(kind, known, len(values), file.space())) == []


def rng_page(seed: int) -> int:
    return (4096, 16384, 65536, 4096)[seed]


def test_no_rows_leave_no_first_offset() -> None:
    for name in ("utf8", "list(i2)", "category", "i8"):
        column, file = Column.of("x", name), ColumnFile()
        empty = batches.empty(column.kind)
        found = state.append(column.kind, state.new(column.kind), 0, 0, empty, file.space())
        assert found == state.new(column.kind) and not file.taken


def test_damage_is_not_written_anew() -> None:
    """Text is rewritten from the first changed row on: a damaged block must not get a checksum that holds."""
    column, file = Column.of("x", "utf8"), ColumnFile()
    n, parts = convert.column_parts(column, [f"{i:100}" for i in range(4000)])
    found = state.append(column.kind, state.new(column.kind), 0, n, parts, file.space())
    data, offsets = found.part(column.kind, "data"), found.part(column.kind, "offsets")
    one = convert.column_parts(column, ["new"])[1]
    for part, at in ((data, 300_000), (offsets, 20_000)):
        file.txn += 1
        place = next(extents._segments(part.runs, 4096, at, at + 1))[0]
        file.flip(place)
        with pytest.raises(CorruptError):
            state.update(column.kind, found, n, np.array([1000]), one, file.space())
        file.flip(place)
    state.update(column.kind, found, n, np.array([1000]), one, file.space())


@pytest.mark.parametrize("first", [-1, -(1 << 62), 1 << 62, 401, (1 << 63) - 1])
def test_hostile_offsets_are_corrupt(first: int) -> None:
    """Under checksums that hold, as whoever made the file could write them."""
    for name in ("utf8", "list(f8)"):
        column, file = Column.of("x", name), ColumnFile()
        values: list[Any] = ["abcd"] * 100 if name == "utf8" else [[1.0]] * 100
        n, parts = convert.column_parts(column, values)
        ends = parts["offsets"].copy()
        ends[50] = first
        found = state.append(column.kind, state.new(column.kind), 0, n, parts, file.space())
        bad = sequence.append(EMPTY, ends.view(np.uint8).data, file.space())
        forged = ColumnState((bad, found.parts[1]), found.blocks, found.tail)
        one = convert.column_parts(column, values[:1])[1]
        with pytest.raises(CorruptError):
            state.read(column.kind, forged, file.space(), 0, n)
        with pytest.raises(CorruptError):
            state.take(column.kind, forged, file.space(), np.array([49]))
        for row in (49, 50):
            with pytest.raises(CorruptError):
                state.update(column.kind, forged, n, np.array([row]), one, file.space())
        assert list(verify(column.kind, forged, n, file.space()))


# --- bitmaps ---------------------------------------------------------------------------------------------


def noise_behind(file: ColumnFile, found: Sequence) -> None:
    """What a transaction that was rolled back leaves: other bits above the shown ones, other bytes behind."""
    if not found.bits:
        return
    offset = next(extents._segments(found.runs, file.page_size, found.length, found.extent))[0]
    byte = file.read(offset, 1)[0]
    file.backend.pwrite(bytes([byte | 0xFF << found.bits & 0xFF]), offset)


BITS = st.lists(st.booleans(), max_size=30)
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "update", "truncate", "commit", "garbage", "long"]), BITS),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_bitmaps_do_as_lists_of_booleans_do(actions: list[tuple[str, list[bool]]]) -> None:
    file = ColumnFile()
    found: Sequence = EMPTY
    model: list[bool] = []
    held: list[tuple[Sequence, list[bool]]] = []
    for number, (action, bits) in enumerate(actions):
        if action in ("append", "long"):
            bits = bits if action == "append" else (bits or [True]) * 3000
            found, model = bitmap.append(found, np.array(bits, np.bool_), file.space()), model + bits
        elif action == "truncate":
            n = sum(1 << i % 14 for i, bit in enumerate(bits) if bit) % (len(model) + 1)
            found, model = bitmap.truncate(found, n, file.space()), model[:n]
        elif action == "update" and model and bits:
            rng = random.Random(number)
            rows = sorted(rng.sample(range(len(model)), min(len(bits), len(model))))
            found = bitmap.update(found, np.array(rows), np.array(bits[: len(rows)], np.bool_), file.space())
            model = list(model)
            for row, bit in zip(rows, bits, strict=False):
                model[row] = bit
        elif action == "commit":
            held.append((found, model))
            file.txn += 1
        elif action == "garbage":
            noise_behind(file, found)
        assert bitmap.count(found) == len(model)
        for known, values in [*held, (found, model)]:
            assert bitmap.read(known, file.space(), 0, len(values)).tolist() == values
            assert not list(bitmap.verify(known, file.space()))
        start, stop = len(model) // 3, len(model) - len(model) // 4
        if start <= stop:
            assert bitmap.read(found, file.space(), start, stop).tolist() == model[start:stop]


@pytest.mark.parametrize("n", [0, 1, 8, 63, 64, 65, 200, 1000])
def test_set_bits_are_made_in_pieces(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmap, "_STEP", 64)
    file = ColumnFile()
    found = bitmap.ones(n, file.space())
    assert bitmap.read(found, file.space(), 0, n).tolist() == [True] * n
    assert not list(bitmap.verify(found, file.space())) and not list(sequence.verify(found, file.space()))


def test_other_bits_in_the_last_byte_are_told() -> None:
    file = ColumnFile()
    found = bitmap.append(EMPTY, np.array([True] * 11), file.space())
    offset = next(extents._segments(found.runs, 4096, 1, 2))[0]
    file.flip(offset, 8)  # above the shown ones
    assert not list(bitmap.verify(found, file.space()))
    file.flip(offset, 4)
    assert list(bitmap.verify(found, file.space()))
    assert bitmap.read(found, file.space(), 0, 11).all()  # the state's bits are the truth


# --- the log's batches -----------------------------------------------------------------------------------

EVERYTHING = Schema.of({f"{n} {name}": nullable(name) if n else name for n in (0, 1) for name in VALUES})


def some_batch(rows: int, rng: random.Random) -> batches.Batch:
    data = {column.name: draw(column.name[2:], column.nullable, rows, rng) for column in EVERYTHING}
    (found,) = convert.batches(EVERYTHING, data)
    return found


def same(a: batches.Batch, b: batches.Batch) -> bool:
    if a.rows != b.rows:
        return False
    for column, mine, theirs in zip(EVERYTHING, a.columns, b.columns, strict=True):
        for name in column.kind.parts:
            x, y = mine.get(name), theirs.get(name)
            if name == "validity":
                x, y = batches.valid(mine), batches.valid(theirs)
                if (x is None) != (y is None) or (x is not None and not np.array_equal(x, y)):
                    return False
            elif x is None or y is None or batches.raw(x).tobytes() != batches.raw(y).tobytes():
                return False
    return True


@pytest.mark.parametrize("rows", [0, 1, 2, 9, 500])
def test_batches_survive_the_log(rows: int) -> None:
    made = some_batch(rows, random.Random(rows))
    payload = b"".join(batches.encode(EVERYTHING.columns, made))
    assert same(batches.decode(EVERYTHING.columns, rows, payload), made)
    assert same(batches.decode(EVERYTHING.columns, rows, memoryview(b"?" + payload)[1:]), made)
    for wrong in (rows + 1, rows + 8, max(rows - 1, 0), 1 << 40, 1 << 63):
        if wrong != rows:
            with pytest.raises(CorruptError):
                batches.decode(EVERYTHING.columns, wrong, payload)


def test_hostile_batches_are_corrupt_or_fit() -> None:
    """Whatever is decoded can be appended: offsets inside their bytes, codes inside their words."""
    rng = random.Random(1)
    whole = b"".join(batches.encode(EVERYTHING.columns, some_batch(5, rng)))
    file = ColumnFile()
    fits = 0
    for _ in range(1500):
        payload = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            at, size = rng.randrange(len(payload) - 8), rng.choice([1, 1, 4, 8])
            value = rng.choice([0, 1, 2, 1 << 62, (1 << 64) - 1, 1 << 63, rng.getrandbits(64)])
            payload[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        if rng.random() < 0.1:
            del payload[rng.randrange(len(payload)) :]
        try:
            found = batches.decode(EVERYTHING.columns, 5, bytes(payload))
        except CorruptError:
            continue
        fits += 1
        for column, parts in zip(EVERYTHING, found.columns, strict=True):
            state.append(column.kind, state.new(column.kind), 0, 5, parts, file.space())
    assert fits > 50


# --- keys ------------------------------------------------------------------------------------------------

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "i1": st.integers(-128, 127),
    "u8": st.integers(0, 2**64 - 1),
    "?": st.booleans(),
    "S3": st.binary(max_size=3).map(lambda b: b.rstrip(b"\0")),
    "U2": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=2),
    "V2": st.binary(min_size=2, max_size=2),
    "utf8": st.text(max_size=5),
    "binary": st.binary(max_size=9),
    "M8[s]": st.integers(0, 9).map(lambda n: np.datetime64(n, "s")),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3), st.data())
def test_different_rows_have_different_keys_and_equal_ones_the_same(names: list[str], data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.tuples(*(KEYS[name] for name in names)), min_size=1, max_size=8))
    drawn += drawn[: data.draw(st.integers(0, 2))]
    schema = Schema.of({str(n): name for n, name in enumerate(names)}, key=tuple(map(str, range(len(names)))))

    def packed(rows: list[Any]) -> list[bytes]:
        (batch,) = convert.batches(schema, {str(n): [row[n] for row in rows] for n in range(len(names))})
        bytes_, offsets = keys.pack(schema.columns, batch.columns)
        assert offsets[0] == 0 and offsets[-1] == len(bytes_) and len(offsets) == len(rows) + 1
        return [bytes_[a:b].tobytes() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]

    together = packed(drawn)
    alone = [packed([row])[0] for row in drawn]
    assert together == alone  # whoever comes along
    for i, row in enumerate(drawn):
        for j, other in enumerate(drawn):
            assert (together[i] == together[j]) == (row == other)


def test_a_key_of_s_never_has_its_padding() -> None:
    """The last of several, or the only one, was taken to its column's width."""
    column = Column.of("k", "S8")
    for values in ([b"ab"], [b"abcdefgh", b"ab"], [b"ab", b"abcdefgh"], [b"abcdefgh"] * 2, [b""]):
        data, offsets = keys.pack([column], [{"values": np.array(values, "S8")}])
        found = [data[a:b].tobytes() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        assert found == values


def test_keys_that_are_too_long() -> None:
    column = Column.of("k", "binary")
    for n in (65_535, 65_536):
        parts = convert.column_parts(column, [b"x", b"y" * n])[1]
        if n == 65_535:
            assert len(keys.pack([column], [parts])[0]) == n + 1
        else:
            with pytest.raises(SchemaError, match="column 'k' has 65,536 bytes at position 1 of the data"):
                keys.pack([column], [parts])


def test_layouts_are_all_here() -> None:
    assert {Column.of("x", name).kind.layout for name in VALUES} == {"fixed", "utf8", "binary", "category", "list"}
    assert fmt.BLOCK_ROWS == 65_536
