"""Roots, identities and headers: what is whole is told from what is not, and the newer whole header counts."""

from __future__ import annotations

import random

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mmstore import format as fmt
from mmstore.errors import CorruptError, FormatError
from mmstore.pages.root import FreeState, Header, Identity, Root, newest_header, read_headers

UUID = bytes(range(16))
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
index = st.binary(min_size=fmt.INDEX.size, max_size=fmt.INDEX.size)
free_states = st.builds(FreeState, u32, u32, u64, u64, u32, u32, u64, u64, u64)
roots = st.builds(Root, u64, u64, u64, u64, index, index, free_states, u64)


@given(roots)
def test_a_root_is_what_it_was(root: Root) -> None:
    assert len(root.pack()) == fmt.ROOT.size
    assert Root.unpack(root.pack()) == root


@given(roots, u64, st.integers(0, 1))
def test_a_header_is_what_it_was(root: Root, log_id: int, at: int) -> None:
    header = Header(UUID, log_id, root)
    assert Header.unpack(header.pack(at), at, UUID) == header
    assert Header.unpack(header.pack(at), 1 - at, UUID) is None
    assert Header.unpack(header.pack(at), at, bytes(16)) is None


def test_fields_lie_where_the_format_says() -> None:
    root = Root(5, 600, 7, 8, b"m" * fmt.INDEX.size, b"c" * fmt.INDEX.size, FreeState(*range(10, 19)), 20)
    fields = fmt.ROOT.unpack(root.pack())
    assert list(fields.values()) == [5, 600, 7, 8, root.main, root.catalog, *range(10, 19), 20]


@pytest.mark.parametrize("at", [0, 1])
def test_each_flipped_bit_of_a_header_is_found(at: int) -> None:
    data = bytearray(Header(UUID, 9, Root(3, 512)).pack(at))
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert Header.unpack(bytes(data), at, UUID) is None
        data[bit // 8] ^= 1 << bit % 8


def test_a_torn_header_is_old_or_new_or_not_whole() -> None:
    old, new = Header(UUID, 9, Root(3, 512)), Header(UUID, 10, Root(900, 1024, log_position=5))
    before, after = old.pack(0), new.pack(0)
    for n in range(len(before) + 1):
        for torn in (after[:n] + before[n:], before[:n] + after[n:]):
            assert Header.unpack(torn, 0, UUID) in (old, new, None)
        assert Header.unpack(after[:n], 0, UUID) in ((new, None) if n == len(after) else (None,))


def test_the_newer_whole_header_counts() -> None:
    older, newer = Header(UUID, 9, Root(3, 512)), Header(UUID, 9, Root(4, 512))
    assert newest_header([older, newer], "f") == (1, newer)
    assert newest_header([newer, older], "f") == (0, newer)
    assert newest_header([older, None], "f") == (0, older)
    assert newest_header([None, older], "f") == (1, older)
    with pytest.raises(CorruptError, match="found none"):
        newest_header([None, None], "f")


def test_of_two_with_one_root_the_one_that_names_a_log_counts() -> None:
    closed, open_ = Header(UUID, 0, Root(4, 512)), Header(UUID, 9, Root(4, 512))
    assert newest_header([closed, open_], "f") == (1, open_)
    assert newest_header([open_, closed], "f") == (0, open_)


def test_headers_are_read_from_their_places() -> None:
    data = bytearray(fmt.FIXED_SIZE)
    header = Header(UUID, 1, Root(2, 512))
    for at in (0, 1):
        data[fmt.HEADER_AT[at] : fmt.HEADER_AT[at] + fmt.HEADER.size] = header.pack(at)

    def pread(n: int, offset: int) -> bytes:
        return bytes(data[offset : offset + n])

    assert read_headers(pread, UUID) == [header, header]
    data[fmt.HEADER_AT[0]] ^= 1
    assert read_headers(pread, UUID) == [None, header]
    assert read_headers(lambda n, offset: b"", UUID) == [None, None]


# --- identity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 8192, 65536])
def test_an_identity_is_what_it_was(page_size: int) -> None:
    identity = Identity.new(page_size)
    assert Identity.unpack(identity.pack(), "f") == identity
    assert Identity.new(page_size).uuid != identity.uuid


def signed(**changes: object) -> bytes:
    """An identity with other fields and a right checksum."""
    fields = fmt.IDENTITY.unpack(Identity.new(4096).pack()) | changes
    body = fmt.IDENTITY.pack(fields)[:-8]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def test_what_is_not_ours_or_newer_is_a_format_error() -> None:
    for data in (b"", b"SQLite format 3\0" * 8, bytes(64), signed(magic=b"mmstore\0"), Identity.new(4096).pack()[:20]):
        with pytest.raises(FormatError, match="expected an mmstore file"):
            Identity.unpack(data, "f")
    for data in (signed(version=2), signed(features=1)):
        with pytest.raises(FormatError, match="newer mmstore"):
            Identity.unpack(data, "f")


@pytest.mark.parametrize("size", [0, 1, 512, 2048, 4097, 6144, 131072, 1 << 31])
def test_an_impossible_page_size_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptError, match="page size"):
        Identity.unpack(signed(page_size=size), "f")


def test_each_flipped_bit_of_an_identity_is_found() -> None:
    data = bytearray(Identity.new(4096).pack())
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptError, FormatError)):
            Identity.unpack(bytes(data), "f")
        data[bit // 8] ^= 1 << bit % 8


def test_noise_is_never_whole() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        data = rng.randbytes(fmt.SECTOR)
        assert Header.unpack(data, 0, UUID) is None
        with pytest.raises(FormatError):
            Identity.unpack(data, "f")
