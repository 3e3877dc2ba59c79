"""The live page: what one publishes, all others see whole (I4)."""

from __future__ import annotations

import threading

import pytest

from mmstore import format as fmt
from mmstore.errors import CorruptError
from mmstore.pages.live import LivePage
from mmstore.pages.root import FreeState, Root


def page() -> LivePage:
    return LivePage(memoryview(bytearray(fmt.LIVE_SIZE)))


def root(txn: int) -> Root:
    """One whose every field tells its txn id."""
    data = txn.to_bytes(4, "little") * (fmt.INDEX.size // 4)
    return Root(txn, txn, txn, txn, data, data, FreeState(*[txn] * 9), txn)


def session(first: int = 10) -> LivePage:
    live = page()
    live.rebuild(0x1234, root(first), 1, 77, 1 << 21)
    return live


def test_a_session_starts_with_its_root() -> None:
    live = page()
    live.memory[:] = b"\xff" * fmt.LIVE_SIZE
    live.rebuild(0x1234, root(10), 1, 77, 1 << 21)
    assert live.read_root() == root(10)
    assert {name: live.get(name) for name in ("nonce", "durable", "durable_at", "log_id", "log_start")} == {
        "nonce": 0x1234,
        "durable": 10,
        "durable_at": 1,
        "log_id": 77,
        "log_start": 10,
    }
    assert live.get("synced") == live.get("committing") == live.txn == 10
    assert live.get("poison") == live.get("making") == live.half("slots") == live.half("waiters") == 0
    assert live.get("file_size") == 1 << 21
    assert bytes(live.memory[fmt.READER_SLOTS_AT :]) == bytes(fmt.LIVE_SIZE - fmt.READER_SLOTS_AT)


def test_words_are_where_the_format_says() -> None:
    live = page()
    for value, (name, code, _) in enumerate(fmt.LIVE.fields, start=5):
        if code == "Q":
            live.set(name, value)
        elif code == "I":
            live.set_half(name, value)
    fields = fmt.LIVE.unpack(live.memory)
    for value, (name, code, _) in enumerate(fmt.LIVE.fields, start=5):
        assert code == "8s" or fields[name] == value
    live.set_half("wakeups", (1 << 32) + 3)
    assert live.half("wakeups") == 3 and live.half("waiters") == fields["waiters"]


def test_publication_goes_from_slot_to_slot() -> None:
    live = session()
    for txn in range(11, 40):
        live.publish(root(txn))
        assert live.txn == txn and live.read_root() == root(txn)


def test_a_slot_that_is_being_written_is_not_seen() -> None:
    """A writer that died anywhere inside a publication left the root before in force, and whole."""
    live = session(10)
    data = root(11).pack()
    at = fmt.ROOT_SLOT_AT[1]
    for n in range(0, len(data), 7):
        live.memory[at : at + n] = data[:n]
        assert live.read_root() == root(10)
    live.publish(root(11))
    assert live.read_root() == root(11)


def test_a_damaged_slot_is_corrupt_and_never_believed() -> None:
    live = session(10)
    at = fmt.ROOT_SLOT_AT[0]
    for bit in range(0, fmt.ROOT_SLOT.size * 8, 5):
        live.memory[at + bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match="not whole"):
            live.read_root()
        live.memory[at + bit // 8] ^= 1 << bit % 8
    assert live.read_root() == root(10)


def test_a_root_of_another_session_is_not_believed() -> None:
    live = session(10)
    live.set("nonce", 0x9999)
    with pytest.raises(CorruptError):
        live.read_root()


def test_a_txn_id_without_its_root_is_corrupt() -> None:
    live = session(10)
    live.set("txn", 12)
    with pytest.raises(CorruptError):
        live.read_root()


def test_readers_see_whole_roots_in_order_while_a_writer_publishes() -> None:
    live = session(10)
    last = 3000
    problems: list[object] = []

    def read() -> None:
        seen = 0
        while seen < last and not problems:
            found = live.read_root()
            if found != root(found.txn) or found.txn < seen:
                problems.append((seen, found))
            seen = found.txn

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for txn in range(11, last + 1):
        live.publish(root(txn))
    for thread in threads:
        thread.join()
    assert not problems
