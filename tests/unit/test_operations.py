"""Operations of a transaction: what was added is decoded, within the log's limit; hostile bytes are refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstore import format as fmt
from mmstore.engine.operations import Operation, Operations, decode
from mmstore.errors import CorruptError

operation = st.builds(
    Operation, st.sampled_from(sorted(fmt.OPERATIONS)), st.binary(max_size=9), st.binary(max_size=20), st.binary()
)


def encoded(listed: list[Operation], limit: int = 1 << 20) -> Operations:
    operations = Operations(limit)
    for item in listed:
        operations.add(*item)
    return operations


def payload(operations: Operations) -> bytes:
    return b"".join(operations.payload())


@given(st.lists(operation))
def test_what_was_added_is_decoded(listed: list[Operation]) -> None:
    operations = encoded(listed)
    assert operations.complete and len(operations) == len(listed)
    assert len(payload(operations)) == operations.size
    assert list(decode(payload(operations))) == listed


def test_any_buffer_will_do() -> None:
    operations = Operations(1000)
    operations.add(fmt.OP_PUT, b"", memoryview(b"key"), bytearray(b"value"))
    assert list(decode(payload(operations))) == [Operation(fmt.OP_PUT, b"", b"key", b"value")]


def test_the_limit_is_kept_to_the_byte() -> None:
    item = Operation(fmt.OP_PUT, b"n", b"key", b"v" * 100)
    size = encoded([item]).size
    assert encoded([item] * 3, limit=3 * size).complete
    over = encoded([item] * 3, limit=3 * size - 1)
    assert not over.complete and over.payload() == []
    over.add(*item)
    assert not over.complete and over.payload() == []


def test_without_a_limit_there_is_nothing() -> None:
    operations = encoded([Operation(fmt.OP_PUT, b"", b"k", b"v")], limit=0)
    assert not operations.complete and len(operations) == 0


@given(st.lists(operation, max_size=5), st.lists(operation, max_size=5), st.lists(operation, max_size=5))
def test_a_rollback_forgets_what_came_after_the_mark(
    before: list[Operation], undone: list[Operation], after: list[Operation]
) -> None:
    operations = encoded(before)
    mark = operations.mark()
    for item in undone:
        operations.add(*item)
    operations.rollback(mark)
    for item in after:
        operations.add(*item)
    assert list(decode(payload(operations))) == before + after
    assert len(payload(operations)) == operations.size


def test_what_outgrew_the_limit_stays_incomplete_after_a_rollback() -> None:
    operations = Operations(200)
    operations.add(fmt.OP_PUT, b"", b"a", b"1")
    mark = operations.mark()
    operations.add(fmt.OP_PUT, b"", b"b", b"2" * 500)
    operations.rollback(mark)
    assert not operations.complete
    operations.add(fmt.OP_PUT, b"", b"c", b"3")
    assert not operations.complete


# --- hostile bytes ---------------------------------------------------------------------------------------


@given(st.lists(operation, min_size=1, max_size=4), st.data())
def test_a_payload_that_was_cut_is_refused(listed: list[Operation], data: st.DataObject) -> None:
    whole = payload(encoded(listed))
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = [0]
    for item in listed:
        ends.append(ends[-1] + fmt.OP.size + len(item.name) + len(item.key) + len(item.value))
    if cut in ends:
        assert list(decode(whole[:cut])) == listed[: ends.index(cut)]
    else:
        with pytest.raises(CorruptError):
            list(decode(whole[:cut]))


@pytest.mark.parametrize("code", [0, 15, 255])
def test_an_unknown_code_is_refused(code: int) -> None:
    with pytest.raises(CorruptError, match="impossible"):
        list(decode(fmt.OP.struct.pack(code, 0, 0, 0, 0)))


@pytest.mark.parametrize("sizes", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (65535, (1 << 32) - 1, (1 << 64) - 1)])
def test_sizes_beyond_the_payload_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(CorruptError):
        list(decode(fmt.OP.struct.pack(fmt.OP_PUT, 0, *sizes)))


def test_noise_ends_in_operations_or_corrupt_error() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        data = bytearray(rng.randbytes(rng.randrange(200)))
        if data:
            data[0] = rng.choice(sorted(fmt.OPERATIONS))
        try:
            found = list(decode(bytes(data)))
        except CorruptError:
            continue
        assert sum(fmt.OP.size + len(op.name) + len(op.key) + len(op.value) for op in found) == len(data)


class Ends:
    """Offsets of which only the first and the last are looked at."""

    def __getitem__(self, at: int) -> int:
        assert at in (0, -1)
        return 1000 * -at


def test_slices_that_are_too_many_are_not_listed() -> None:
    """Half a million offsets as objects take longer than to check them."""
    operations = Operations(1999)
    operations.add_slices(fmt.OP_PUT, b"", (bytes(1000), Ends()), (bytes(1000), Ends()))
    assert not operations.complete and operations.count == 1 and payload(operations) == b""
