"""Strings in columns: gathered from anywhere and from Arrow's views, and checked; each against Python's own."""

from __future__ import annotations

import random
from array import array
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmstore
from bothkernels import BOTH, IDS

both = pytest.mark.parametrize("kernels", BOTH, ids=IDS)


def ends(lengths: list[int], start: int = 0) -> Any:
    return np.array([start, *accumulate(lengths, initial=start)][1:], np.int64)


# --- slices ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("longest", [0, 1, 16, 32, 33, 300])
def test_copy_slices(kernels: Any, longest: int) -> None:
    """Rows of any length in any order, also where source or out ends; nothing else in out is touched."""
    rng = random.Random(longest)
    source = rng.randbytes(1000)
    for n in (0, 1, 2, 15, 16, 17, 18, 200):
        lengths = [rng.randint(0, longest) for _ in range(n)]
        starts = [rng.choice([0, 1000 - length, rng.randint(0, 1000 - length)]) for length in lengths]
        for before, behind in ((0, 0), (5, 0), (0, 7), (20, 40)):
            offsets = ends(lengths, before)
            out = bytearray(b"." * (before + sum(lengths) + behind))
            copied = kernels.strings.copy_slices(source, np.array(starts, np.int64), offsets, out)
            rows = b"".join(source[at : at + length] for at, length in zip(starts, lengths, strict=True))
            assert copied == -1 and out == b"." * before + rows + b"." * behind


HUGE = (1 << 63) - 1
SLICES: list[tuple[list[int], list[int], int]] = [  # starts, offsets, the first that is wrong; source and out have 20
    ([0, -1, 0], [0, 1, 2, 3], 1),
    ([0, 20, 0], [0, 1, 2, 3], 1),
    ([0, 15, 0], [0, 1, 7, 8], 1),
    ([0, HUGE, 0], [0, 1, 2, 3], 1),
    ([0, -HUGE - 1, 0], [0, 1, 2, 3], 1),
    ([0, 0, 0], [0, 1, 0, 3], 1),
    ([0, 0, 0], [-1, 1, 2, 3], 0),
    ([0, 0, 0], [-HUGE - 1, HUGE, 2, 3], 0),
    ([0, 0, 0], [0, 5, 10, 21], 2),
    ([0, 0, 0], [0, 5, 10, HUGE], 2),
    ([0, 0, 0], [0, 5, 10, -5], 2),
    ([0, 0, 0], [0, 5, 20, -HUGE - 1], 2),
    ([0, 0, 0], [15, 20, 20, -HUGE - 1], 2),
    ([0, 0, 0], [5, HUGE, HUGE, HUGE], 0),
    ([0, 0, 0], [20, 20, 20, 21], 2),
    ([0, 30, -5], [5, 10, 10, 10], -1),  # empty slices may begin anywhere
    ([20, 20, 20], [20, 20, 20, 20], -1),
    ([0, 10, 0], [0, 0, 10, 20], -1),
]


@both
@pytest.mark.parametrize(("starts", "offsets", "wrong"), SLICES, ids=str)
def test_slices_out_of_bounds(kernels: Any, starts: list[int], offsets: list[int], wrong: int) -> None:
    memory = np.full(60, 255, np.uint8)
    source, out = bytes(20), memory[20:40]
    assert kernels.strings.copy_slices(source, array("q", starts), array("q", offsets), out) == wrong
    assert (memory[:20] == 255).all() and (memory[40:] == 255).all()


@both
def test_arguments_of_copy_slices(kernels: Any) -> None:
    copy = kernels.strings.copy_slices
    one = np.zeros(1, np.int64)
    for starts, offsets in [(one, one), (one, np.zeros(3, np.int64)), (one, one[:0]), (one[:0], one[:0])]:
        with pytest.raises(ValueError, match="expected"):
            copy(b"abc", starts, offsets, bytearray(3))
    for starts, offsets in [(np.zeros(1, "i4"), np.zeros(2, "i8")), (one, np.zeros(2, "u8")), (one, np.zeros(4)[::2])]:
        with pytest.raises(ValueError, match="int64"):
            copy(b"abc", starts, offsets, bytearray(3))
    for source, out in [(b"abc", bytes(3)), (np.zeros(6)[::2], bytearray(3))]:
        with pytest.raises(ValueError, match="contiguous"):
            copy(source, one, ends([1]), out)
    with pytest.raises(TypeError):
        copy("abc", one, ends([1]), bytearray(3))
    wide = np.zeros(2, np.int64)
    assert copy(np.array([7, 8]), np.array([8, 0]), ends([8, 8]), wide) == -1 and wide.tolist() == [8, 7]
    for odd in (np.frombuffer(bytes(9), np.int64, 1, 1), memoryview(bytes(9))[1:].cast("q")):  # not aligned
        assert copy(b"abc", odd, ends([3]), bytearray(3)) == -1


# --- views -------------------------------------------------------------------------------------------


def view(row: bytes, buffer: int, at: int) -> bytes:
    """Arrow's string view of ``row``, at that place if it is long."""
    if len(row) <= 12:
        return len(row).to_bytes(4, "little") + row.ljust(12, b"\0")
    return b"".join((len(row).to_bytes(4, "little"), row[:4], buffer.to_bytes(4, "little"), at.to_bytes(4, "little")))


@both
def test_copy_views(kernels: Any) -> None:
    rng = random.Random(1)
    buffers = [rng.randbytes(500), bytearray(rng.randbytes(40)), np.frombuffer(rng.randbytes(100), "f4"), b""]
    for n in (0, 1, 300):
        rows, views = [], b""
        for _ in range(n):
            buffer = rng.randrange(3)
            data = bytes(memoryview(buffers[buffer]).cast("B"))
            length = rng.choice([0, 1, 11, 12, 13, 14, 30])
            at = rng.randint(0, len(data) - length)
            rows.append(data[at : at + length])
            views += view(rows[-1], buffer, at)
        lengths = kernels.strings.view_lengths(views, n)
        assert lengths.dtype == np.int64 and lengths.tolist() == [len(row) for row in rows]
        out = bytearray(int(lengths.sum()) + 5)
        assert kernels.strings.copy_views(views, buffers, ends(lengths.tolist(), 2), out) == -1
        assert out == bytes(2) + b"".join(rows) + bytes(3)
        nulls = [0 if rng.random() < 0.3 else len(row) for row in rows]
        out = bytearray(sum(nulls))
        assert kernels.strings.copy_views(views, buffers, ends(nulls), out) == -1
        assert out == b"".join(row[:length] for row, length in zip(rows, nulls, strict=True))


@both
def test_views_out_of_bounds(kernels: Any) -> None:
    buffers = [bytes(50), bytes(20)]
    good = view(b"x" * 20, 1, 0)
    for wrong, length in [
        (view(b"x" * 21, 1, 0), 21),
        (view(b"x" * 20, 1, 1), 20),
        (view(b"x" * 20, 2, 0), 20),
        (view(b"x" * 20, (1 << 32) - 1, 0), 20),
        (view(b"x" * 20, 0, (1 << 32) - 1), 20),
        (view(b"x" * 20, 0, 1 << 31), 20),
        (view(b"abc", 0, 0), 2),
        (view(b"abc", 0, 0), 4),
        (view(b"abc", 0, 0), 20),
        (view(b"x" * 20, 0, 0), 12),
        (b"\xff" * 16, 1),
        (b"\xff" * 16, 16),
    ]:
        out = bytearray(100)
        assert kernels.strings.copy_views(good + wrong + good, buffers, ends([20, length, 20]), out) == 1
        assert not any(out[20 + max(length, 20) :])
    for offsets, first in [
        ([0, 20, 40, 61], 2),
        ([-1, 20, 40, 60], 0),
        ([0, 20, 19, 39], 1),
        ([0, HUGE, 0, 0], 0),
        ([0, 20, 60, -HUGE - 1], 1),
    ]:
        assert kernels.strings.copy_views(good * 3, buffers, array("q", offsets), bytearray(60)) == first
    assert kernels.strings.copy_views(good, [], ends([20]), bytearray(20)) == 0
    for call in (
        lambda: kernels.strings.copy_views(good, buffers, ends([1, 1]), bytearray(20)),
        lambda: kernels.strings.copy_views(good[:15], buffers, ends([1]), bytearray(20)),
        lambda: kernels.strings.copy_views(b"", buffers, array("q"), bytearray(20)),
        lambda: kernels.strings.view_lengths(good, 2),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()


# --- UTF-8 -------------------------------------------------------------------------------------------

PIECES = [
    *(b"a", b"\x7f", b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xc2", b"\xdf", b"\xe0", b"\xed", b"\xef", b"\xf0", b"\xf4"),
    *(b"\xf5", b"\xff", b"\x9f", b"\xa0", b"\x8f", b"\x90", "é".encode(), "€".encode(), "😀".encode(), b"\xed\x9f\xbf"),
    *(b"\xed\xa0\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"x" * 70),
]
texts = st.one_of(
    st.text(max_size=6).map(str.encode),
    st.lists(st.sampled_from(PIECES), max_size=3).map(b"".join),
    st.binary(max_size=5),
    st.just(b""),
)


def is_utf8(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(rows=st.lists(texts, max_size=8), before=st.sampled_from([b"", b"\xff", b"abcdefghij"]))
def test_check_utf8(rows: list[bytes], before: bytes) -> None:
    """As decoding each row by itself."""
    expected = next((i for i, row in enumerate(rows) if not is_utf8(row)), -1)
    offsets = ends([len(row) for row in rows], len(before))
    for kernels in BOTH:
        assert kernels.strings.check_utf8(before + b"".join(rows) + b"\xff", offsets) == expected


@given(text=st.text(max_size=30).map(str.encode), cuts=st.lists(st.integers(0, 90), max_size=6), data=st.data())
def test_a_code_point_does_not_cross_rows(text: bytes, cuts: list[int], data: Any) -> None:
    if text and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.binary(min_size=1, max_size=2)) + text[at + 1 :]
    offsets = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    rows = [text[i:j] for i, j in zip(offsets, offsets[1:], strict=False)]
    expected = next((i for i, row in enumerate(rows) if not is_utf8(row)), -1)
    for kernels in BOTH:
        assert kernels.strings.check_utf8(text, array("q", offsets)) == expected


def test_code_points_and_every_pair_of_bytes() -> None:
    for kernels in BOTH:
        text = "".join(map(chr, [*range(0x900), *range(0x900, 0xD800, 31), *range(0xD7FF, 0x110000, 2049), 0x10FFFF]))
        offsets = ends([len(char.encode()) for char in text])
        assert kernels.strings.check_utf8(text.encode(), offsets) == -1
        for first in range(0xC0, 256):
            for second in range(256):
                row = bytes([first, second])
                for tail in (b"", b"\x80", b"\xbf\xbf", b"\xbfx"):
                    bad = -1 if is_utf8(row + tail) else 1
                    if kernels is BOTH[0] and mmstore.compiled() or second % 37 == 0:
                        assert kernels.strings.check_utf8(b"ok" + row + tail, ends([2, 2 + len(tail)])) == bad


def test_a_bad_byte_anywhere() -> None:
    """Behind any number of ASCII blocks."""
    for at in [*range(140), 1000, 1023, 1024]:
        text = bytearray(b"a" * 1100)
        text[at] = 0x80
        for kernels in BOTH:
            assert kernels.strings.check_utf8(text, ends([1] * 1100)) == at
            assert kernels.strings.check_utf8(text, ends([at, 1100 - at])) == 1


@both
def test_offsets_of_check_utf8(kernels: Any) -> None:
    """A row that leaves data is a bad row; what isn't of int64 is an error."""
    check = kernels.strings.check_utf8
    for offsets, row in [([-1, 3], 0), ([0, 2, 1], 1), ([0, 4], 0), ([0, HUGE], 0), ([0, 1, 2, 9, 3], 2), ([5, 2], 0)]:
        assert check(b"abc", array("q", offsets)) == row
        assert check(b"\xffbc", array("q", offsets)) == 0
    assert check(b"ab\xffd", array("q", [0, 2, 3, 2])) == 1
    for nothing in ([], [0], [7], [-1]):
        assert check(b"abc", array("q", nothing)) == -1
    with pytest.raises(ValueError, match="int64"):
        check(b"abc", np.zeros(2, "i4"))
    assert kernels.strings.check_offsets(array("q", [0, 3, 3]), 3) == -1
    assert kernels.strings.check_offsets(array("q", [0, 3, 2]), 3) == 2


# --- codes -------------------------------------------------------------------------------------------


@given(
    codes=st.lists(st.one_of(st.integers(0, 9), st.sampled_from([-1, 10, 2**31 - 1, -(2**31)])), max_size=8),
    count=st.sampled_from([0, 1, 10, 2**31 - 1, 2**31, 2**40, -5]),
    before=st.sampled_from([0, 1020, 1025]),
)
def test_check_codes(codes: list[int], count: int, before: int) -> None:
    codes = [0] * before + codes
    expected = next((i for i, code in enumerate(codes) if not 0 <= code < count), -1)
    for kernels in BOTH:
        assert kernels.strings.check_codes(np.array(codes, np.int32), count) == expected


@both
def test_codes_are_int32(kernels: Any) -> None:
    for wrong in (np.zeros(3, "i8"), np.zeros(3, "u4"), np.zeros((2, 2), "i4"), np.zeros(4, "i4")[::2]):
        with pytest.raises(ValueError, match="int32"):
            kernels.strings.check_codes(wrong, 5)


# --- smallest and largest ----------------------------------------------------------------------------


@both
@given(
    rows=st.lists(st.binary(max_size=20) | st.sampled_from([b"", b"a", b"a" * 17, b"\0", b"\xff" * 8])),
    seed=st.integers(),
)
def test_extremes(kernels: Any, rows: list[bytes], seed: int) -> None:
    """The first of the smallest, the first of the largest by 16 bytes; rows may lie anywhere and share bytes."""
    data = b"".join(rows)
    starts = ends([len(row) for row in rows])[:-1] if rows else np.zeros(0, np.int64)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    begin = np.array([starts[i] for i in order], np.int64)
    stop = np.array([starts[i] + len(rows[i]) for i in order], np.int64)
    keys = [rows[i][:16].ljust(16, b"\0") for i in order]
    expected = (keys.index(min(keys)), keys.index(max(keys))) if rows else (-1, -1)
    assert kernels.strings.extremes(data, begin, stop) == expected


@both
def test_extremes_out_of_bounds(kernels: Any) -> None:
    for begin, stop in (([0, -1], [1, 2]), ([0, 3], [1, 2]), ([0, 0], [1, 11]), ([0, HUGE], [1, HUGE])):
        with pytest.raises(ValueError, match="row 1 leaves the 10 bytes"):
            kernels.strings.extremes(bytes(10), np.array(begin, np.int64), np.array(stop, np.int64))
    with pytest.raises(ValueError, match="as many stops as starts"):
        kernels.strings.extremes(b"", np.zeros(1, np.int64), np.zeros(2, np.int64))
