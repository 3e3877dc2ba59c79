"""What may be a key, a value and a name, and how numpy arrays stand for many keys."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

import mmstore
from mmstore.database.database import Database
from mmstore.database.keys import key_list, packed_keys

BYTES_LIKE = [
    b"key",
    bytearray(b"key"),
    memoryview(b"key"),
    memoryview(b"xkxexyx")[1::2],
    array.array("b", b"key"),
    np.frombuffer(b"key", np.uint8),
    np.array([b"key"], "S3"),
]


@pytest.mark.parametrize("key", BYTES_LIKE, ids=lambda key: type(key).__name__)
def test_any_bytes_like_key_is_the_same_key(db: Database, key: Any) -> None:
    db[b"key"] = b"first"
    assert db[key] == b"first"
    db[key] = b"second"
    assert key in db and db.get(key) == b"second" and bytes(db.view(key)) == b"second"
    assert dict(db) == {b"key": b"second"}
    del db[key]
    assert len(db) == 0


@pytest.mark.parametrize("value", BYTES_LIKE, ids=lambda value: type(value).__name__)
def test_any_bytes_like_value_is_stored_as_bytes(db: Database, value: Any) -> None:
    db[b"k"] = value
    assert db[b"k"] == b"key" and type(db[b"k"]) is bytes


def test_many_dimensions_are_stored_in_order(db: Database) -> None:
    grid = np.arange(12, dtype="i4").reshape(3, 4)
    db[b"c"], db[b"f"], db[b"empty"] = grid, np.asfortranarray(grid), np.empty((0, 4))
    assert db[b"c"] == db[b"f"] == grid.tobytes() and db[b"empty"] == b""


@pytest.mark.parametrize("wrong", ["text", 1, None, 1.5, ("a",), ...], ids=repr)
def test_what_is_not_bytes_like_is_a_type_error(db: Database, wrong: Any) -> None:
    db[b"k"] = b"v"
    calls = [
        lambda: db[wrong],
        lambda: db.get(wrong),
        lambda: wrong in db,
        lambda: db.view(wrong),
        lambda: db.pop(wrong),
        lambda: db.pop(wrong, None),
        lambda: db.setdefault(wrong, b""),
        lambda: db.put(wrong, b""),
        lambda: db.put(b"k", wrong),
        lambda: db.update({wrong: b""}),
        lambda: db.update({b"k": wrong}),
        lambda: db.get_many([b"k", wrong]),
        lambda: db.put_many([wrong], [b""]),
        lambda: db.put_many([b"a", b"k"], [b"", wrong]),
        lambda: db.delete_many([b"k", wrong]),
        lambda: db.__delitem__(wrong),
        lambda: db.keyspace("other").__setitem__(wrong, b""),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert dict(db) == {b"k": b"v"} and db.keyspaces() == []


def test_the_message_for_str_says_what_to_do(db: Database) -> None:
    with pytest.raises(TypeError, match=r"expected a bytes-like key, found str; encode it"):
        db["key"] = b""
    with pytest.raises(TypeError, match=r"expected a bytes-like value, found str; encode it"):
        db[b"key"] = "text"


@pytest.mark.parametrize("size", [0, 1, 7, 8, 255, 256, 1000, 4096, 65534, 65535])
def test_keys_of_every_length(db: Database, size: int) -> None:
    keys = [bytes([fill]) * size for fill in (b"a\x00\xff" if size else b"a")]
    for position, key in enumerate(keys):
        db[key] = b"%d" % position
    assert [db[key] for key in keys] == [b"%d" % position for position in range(len(keys))]
    assert sorted(db) == sorted(keys)
    for key in keys:
        del db[key]
    assert len(db) == 0


def test_a_longer_key_is_a_value_error(db: Database) -> None:
    long = bytes(65536)
    for call in (
        lambda: db.put(long, b""),
        lambda: db.get(long),
        lambda: long in db,
        lambda: db.get_many([long]),
        lambda: db.put_many([b"", long], [b"", b""]),
        lambda: db.get_many(np.zeros(1, "V65536")),
        lambda: db.get_many(np.full(1, b"x" * 65536)),
    ):
        with pytest.raises(ValueError, match="at most 65535 bytes"):
            call()
    assert len(db) == 0


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_values_of_every_length_round_every_threshold(page_size: int) -> None:
    sizes = {0, 1, 100_000, 1_000_000}
    for edge in (page_size // 4, page_size, 2 * page_size, 65535, 65536):
        sizes |= {edge + offset for offset in range(-70, 3)}
    with mmstore.open(":memory:", page_size=page_size) as db:
        expected = {b"%d" % size: (b"%d," % size * (size // 2 + 1))[:size] for size in sizes}
        db.update(expected)
        assert all(db[key] == value for key, value in expected.items())
        assert dict(db) == expected
        with db.snapshot() as snapshot:
            assert all(snapshot.view(key) == value for key, value in expected.items())
        assert db.check() == []


# --- arrays of keys ----------------------------------------------------------------------------------


def test_s_keys_lose_trailing_nuls(db: Database) -> None:
    keys = np.array([b"a", b"ab\0", b"", b"\0c"], "S4")
    db.put_many(keys, [b"1", b"2", b"3", b"4"])
    assert dict(db) == {b"a": b"1", b"ab": b"2", b"": b"3", b"\0c": b"4"}
    assert db.get_many(keys) == [b"1", b"2", b"3", b"4"]


def test_v_keys_are_taken_at_full_width(db: Database) -> None:
    keys = np.array([b"a\0\0\0", b"ab\0\0"], "V4")
    db.put_many(keys, [b"1", b"2"])
    assert dict(db) == {b"a\0\0\0": b"1", b"ab\0\0": b"2"}
    assert db.delete_many(keys[:1]) == 1 and len(db) == 1


@pytest.mark.parametrize("kind", ["<i8", ">i8", "<u8", ">u8"])
def test_integers_are_eight_bytes_little_endian(db: Database, kind: str) -> None:
    keys = np.array([0, 1, 258, 2**40], kind)
    db.put_many(keys, [b"a", b"b", b"c", b"d"])
    assert set(db) == {int(key).to_bytes(8, "little") for key in keys}
    assert db.get_many(keys) == [b"a", b"b", b"c", b"d"]
    if kind == "<i8":
        assert db.get_many(np.array([-1])) == [None]
        db.put_many(np.array([-1]), [b"e"])
        assert db[b"\xff" * 8] == b"e"


def test_strided_and_empty_arrays_of_keys(db: Database) -> None:
    keys = np.arange(20)[::2]
    db.put_many(keys, [b"%d" % key for key in keys])
    assert db.get_many(np.arange(4)) == [b"0", None, b"2", None]
    assert db.get_many(np.empty(0, "i8")) == [] == db.get_many([])
    assert db.get_many(np.zeros(2, "V0")) == [None, None] and db.get_many(np.zeros(2, "S1")) == [None, None]


@pytest.mark.parametrize("kind", ["i4", "u2", "f8", "U3", "bool", "M8[ns]", "O", [("a", "i8")], "c16"], ids=str)
def test_other_arrays_are_no_keys(db: Database, kind: Any) -> None:
    with pytest.raises(TypeError, match="expected keys of dtype S, V, int64 or uint64"):
        db.get_many(np.zeros(2, kind))


def test_keys_have_one_dimension(db: Database) -> None:
    for shape in ((2, 2), ()):
        with pytest.raises(ValueError, match="one dimension"):
            db.get_many(np.zeros(shape, "i8"))


def test_rows_of_an_array_are_values(db: Database) -> None:
    block = np.arange(12, dtype="f4").reshape(4, 3)
    db.put_many(np.arange(4), block)
    assert db.get_many(np.arange(4)) == [row.tobytes() for row in block]
    db.put_many([b"a", b"b"], np.array([b"x", b"yz"]))
    assert db.get_many([b"a", b"b"]) == [b"x", b"yz"]
    db.put_many([b"a", b"b"], np.array([1, 2], "u1"))
    assert db.get_many([b"a", b"b"]) == [b"\1", b"\2"]
    db.put_many(np.arange(2), np.empty((2, 0)))
    assert db.get_many(np.arange(2)) == [b"", b""]


def test_keys_and_values_are_as_many(db: Database) -> None:
    for keys, values in (([b"a"], []), ([], [b"a"]), (np.arange(3), np.zeros((2, 8)))):
        with pytest.raises(ValueError, match="as many values as keys"):
            db.put_many(keys, values)
        with db.transaction() as txn, pytest.raises(ValueError, match="as many values as keys"):
            txn.put_many(keys, values)
    assert len(db) == 0


def test_of_a_key_given_twice_the_last_value_counts(db: Database) -> None:
    db.put_many([b"a", b"b", b"a"], [b"1", b"2", b"3"])
    assert dict(db) == {b"a": b"3", b"b": b"2"} and len(db) == 2
    assert db.delete_many([b"a", b"a", b"none"]) == 1


def test_generators_are_keys_and_values_too(db: Database) -> None:
    db.put_many((b"%d" % n for n in range(3)), (b"%d" % n for n in range(3)))
    assert db.get_many(b"%d" % n for n in range(4)) == [b"0", b"1", b"2", None]
    assert db.delete_many({b"0": 1, b"1": 1}) == 2


# --- get_array ---------------------------------------------------------------------------------------


def test_get_array_gathers_fixed_size_values(any_db: Database) -> None:
    vectors = np.random.default_rng(1).random((100, 8), "f4")
    any_db.put_many(np.arange(100), vectors)
    keys = np.array([3, 99, 1000, 3, -1])
    with any_db.snapshot() as snapshot, any_db.transaction() as txn:
        for source in (any_db, snapshot, txn):
            found, mask = source.get_array(keys, "f4", (8,))
            assert found.shape == (5, 8) and found.dtype == np.float32 and mask.tolist() == [1, 1, 0, 1, 0]
            np.testing.assert_array_equal(found[mask], vectors[[3, 99, 3]])
            assert not found[~mask].any()
            found[0] = 1  # an array of one's own
    np.testing.assert_array_equal(any_db.get_array([b"\3" + bytes(7)], "f4", (2, 4))[0][0], vectors[3].reshape(2, 4))


def test_get_array_of_scalars_and_of_nothing(db: Database) -> None:
    db.put_many([b"a", b"b"], np.array([1.5, 2.5]))
    found, mask = db.get_array([b"b", b"x", b"a"], "f8")
    assert found.tolist() == [2.5, 0, 1.5] and mask.tolist() == [True, False, True]
    found, mask = db.get_array([], "i4", (3,))
    assert found.shape == (0, 3) and mask.shape == (0,)
    found, mask = db.keyspace("none").get_array([b"a"], "M8[s]")
    assert found.shape == (1,) and not mask.any()


def test_get_array_refuses_values_of_another_size(db: Database) -> None:
    db.put_many([b"a", b"b"], [b"12345678", b"123"])
    with db.snapshot() as snapshot, db.transaction() as txn:
        for source in (db, snapshot, txn):
            with pytest.raises(ValueError, match="expected values of 8 bytes"):
                source.get_array([b"a", b"b"], "f8")
            with pytest.raises(TypeError, match="expected a dtype of fixed size"):
                source.get_array([b"a"], "O")


def test_get_array_of_values_in_runs_and_of_one_s_own(db: Database) -> None:
    vectors = np.random.default_rng(2).random((6, 768), "f4")
    db.put_many(np.arange(6), vectors)
    with db.transaction() as txn:
        txn.put_many(np.arange(4, 8), vectors[:4])
        found, mask = txn.get_array(np.arange(9), "f4", (768,))
        np.testing.assert_array_equal(found[:8], np.concatenate([vectors[:4], vectors[:4]]))
        assert mask.tolist() == [True] * 8 + [False]
        assert not found[8].any()
    assert db.get_array(np.arange(9), "f4", (768,))[1].sum() == 8


@pytest.mark.parametrize(
    "keys",
    [
        [b"a", bytearray(b"bc"), b"", np.arange(2)],
        [],
        np.array([b"a", b"ab\0", b"", b"\0c"], "S4"),
        np.array([b"abcd", b"efgh"], "S4"),
        np.array([b"", b""], "S4"),
        np.array([b"a\0\0\0", b"ab\0\0"], "V4"),
        np.zeros(3, "V0"),
        np.array([0, -1, 258, 2**40]),
        np.array([0, 1, 258, 2**63], ">u8"),
        np.arange(20)[::3],
        np.array([b"x", b"yz"] * 3)[::2],
        np.empty(0, "i8"),
        np.empty(0, "S3"),
    ],
    ids=repr,
)
def test_packed_keys_are_the_listed_keys(keys: Any) -> None:
    data, offsets = packed_keys(keys)
    assert offsets.dtype == np.int64 and offsets[0] == 0 and offsets[-1] == len(data) and type(data) is bytes
    assert [data[i:j] for i, j in zip(offsets, offsets[1:], strict=False)] == [bytes(key) for key in key_list(keys)]


def test_packed_keys_refuse_what_listed_keys_refuse() -> None:
    for wrong in (["text"], [bytes(65536)], np.zeros(2, "i4"), np.zeros((2, 2), "i8"), np.zeros(1, "V65536")):
        with pytest.raises((TypeError, ValueError)) as listed:
            key_list(wrong)
        with pytest.raises(listed.type) as packed:
            packed_keys(wrong)
        assert str(packed.value) == str(listed.value)
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        packed_keys(np.full(2, b"x" * 65536))


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "ключи", "a/b c", "x" * 65535, "\0"], ids=lambda name: repr(name[:5]))
def test_names(db: Database, name: str) -> None:
    space = db.keyspace(name)
    space[b"k"] = b"v"
    assert db.keyspaces() == [name] and db.keyspace(name)[b"k"] == b"v" and b"k" not in db
    db.drop(name)
    assert db.keyspaces() == [] and len(space) == 0


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("x" * 65536, ValueError), (b"a", TypeError)])
def test_what_is_no_name(db: Database, name: Any, error: type[Exception]) -> None:
    with db.transaction() as txn, db.snapshot() as snapshot:
        for call in (
            lambda: db.keyspace(name),
            lambda: db.table(name),
            lambda: txn.keyspace(name),
            lambda: txn.create_table(name, {"x": "i8"}),
            lambda: txn.drop(name),
            lambda: snapshot.keyspace(name),
            lambda: snapshot.table(name),
        ):
            with pytest.raises(error):
                call()
