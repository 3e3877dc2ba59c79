"""The log: made whole or not at all, appended by one write, refused when it isn't ours."""

from __future__ import annotations

import os
import random
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from mmstore.disk.log import DEFAULT_RING, Log, log_path, record_size
from mmstore.disk.newfile import temporary
from mmstore.disk.posix import PosixFilesystem
from mmstore.errors import CorruptError, DiskFullError
from mmstore.format import LOG_HEADER, LOG_RECORD, LOG_RING_AT
from simdisk import SimBackend, SimCrash, SimFilesystem

UUID = bytes(range(16))
RING = 1 << 16
PATH = "/d/data.mms-wal"
ID = 0xFEED_0000_0000_0001


@pytest.fixture
def fs() -> SimFilesystem:
    return SimFilesystem()


@pytest.fixture
def log(fs: SimFilesystem) -> Log:
    return Log.create(fs, PATH, ID, UUID, RING)


def payloads(log: Log, position: int = 0, chain: int = 0, txn: int = 0) -> list[bytes]:
    return [record.payload for record in log.replay(position, chain, txn)]


def rewrite_header(log: Log, **fields: Any) -> None:
    """Fields that contradict the rest, correctly checksummed."""
    body = LOG_HEADER.pack(LOG_HEADER.unpack(log.backend.pread(LOG_HEADER.size, 0)) | fields)[:-8]
    log.backend.pwrite(body + xxh3_64_intdigest(body).to_bytes(8, "little"), 0)


# --- making ------------------------------------------------------------------------------------------


def test_a_new_log_is_empty_and_durable(fs: SimFilesystem, log: Log) -> None:
    assert log.ring == RING and payloads(log) == []
    for image in fs.crash_images(random.Random(1), 5):
        again = Log.open(image, PATH, ID, UUID)
        assert again.ring == RING and payloads(again) == []
        assert again.backend.pread(1 << 30, LOG_RING_AT) == bytes(RING)


def test_filled_by_small_writes_and_named_last(fs: SimFilesystem, log: Log) -> None:
    operations = [operation for operation, _ in fs.trace]
    assert operations == ["create", *["pwrite"] * 3, "sync_all", "rename", "sync_dir"]
    assert DEFAULT_RING == 4 << 20


def test_a_crash_while_it_is_made_leaves_nothing_or_all() -> None:
    fs = SimFilesystem()
    Log.create(fs, PATH, ID, UUID, RING)
    for k in range(fs.steps):
        fs = SimFilesystem()
        fs.crash_at, fs.torn = k, random.Random(k)
        with pytest.raises(SimCrash):
            Log.create(fs, PATH, ID, UUID, RING)
        for image in fs.crash_images(random.Random(k), 8):
            if image.exists(PATH):
                assert payloads(Log.open(image, PATH, ID, UUID)) == []
            again = Log.create(image, PATH, ID + 1, UUID, RING)
            assert payloads(again) == [] and not image.exists(temporary(PATH))


def test_a_full_disk_while_it_is_made(fs: SimFilesystem) -> None:
    fs.disk.capacity = RING // 2
    with pytest.raises(DiskFullError):
        Log.create(fs, PATH, ID, UUID, RING)
    assert fs.disk.names == {}


def test_mode_and_owner_are_those_of_the_data_file(tmp_path: Path) -> None:
    disk = PosixFilesystem()
    data = disk.open(str(tmp_path / "data.mms"), create=True, mode=0o660)
    path = log_path(disk, str(tmp_path / "data.mms"))
    log = Log.create(disk, path, ID, UUID, RING, data)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660 and log.backend.owner() == data.owner()


def test_the_path_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real.mms").touch()
    (tmp_path / "link.mms").symlink_to("real.mms")
    assert log_path(PosixFilesystem(), str(tmp_path / "link.mms")) == str(tmp_path.resolve() / "real.mms-wal")


def test_an_own_leftover_is_replaced(fs: SimFilesystem, log: Log) -> None:
    log.append(1, b"old", 0, 0, 0)
    new = Log.create(fs, PATH, ID + 1, UUID, RING)
    assert payloads(new) == [] and new.is_ours(fs, PATH) and not log.is_ours(fs, PATH)
    assert sorted(fs.disk.names) == [PATH]
    fs.open(PATH).pwrite(b"garbage", 0)
    Log.create(fs, PATH, ID + 2, UUID, RING)
    assert sorted(fs.disk.names) == [PATH]


def test_the_log_of_another_store_is_moved_aside(fs: SimFilesystem) -> None:
    for i in range(3):
        stranger = Log.create(fs, PATH, i + 1, b"\xab" * 16, RING)
        stranger.append(1, b"precious", 0, 0, 0)
        stranger.close()
        Log.create(fs, PATH, ID, UUID, RING)
        aside = PATH + ".abababab" + "~" * i
        assert payloads(Log.open(fs, aside, i + 1, b"\xab" * 16)) == [b"precious"]


def test_unlinked_only_if_ours(fs: SimFilesystem, log: Log) -> None:
    other = Log.create(fs, PATH, ID + 1, UUID, RING)
    assert not log.unlink_if_ours(fs, PATH) and fs.exists(PATH)
    assert other.unlink_if_ours(fs, PATH) and not fs.exists(PATH)
    assert not other.unlink_if_ours(fs, PATH)
    log.close()
    other.close()


# --- opening -----------------------------------------------------------------------------------------


def test_open(fs: SimFilesystem, log: Log) -> None:
    log.append(1, b"abc", 0, 0, 0)
    again = Log.open(fs, PATH, ID, UUID)
    assert payloads(again) == [b"abc"] and again.log_id == ID and again.path == PATH
    assert payloads(Log.open(fs, PATH, ID, UUID, write=False)) == [b"abc"]


def test_open_refuses_what_is_not_the_log(fs: SimFilesystem, log: Log) -> None:
    with pytest.raises(CorruptError, match="no such file"):
        Log.open(fs, PATH + "x", ID, UUID)
    with pytest.raises(CorruptError, match=f"expected log {ID + 1:016x} of this store, found log {ID:016x}"):
        Log.open(fs, PATH, ID + 1, UUID)
    with pytest.raises(CorruptError, match=f"of store {UUID.hex()}"):
        Log.open(fs, PATH, ID, bytes(16))
    log.backend.truncate(LOG_RING_AT + RING - 1)
    with pytest.raises(CorruptError, match="cut short"):
        Log.open(fs, PATH, ID, UUID)
    for size in (0, LOG_HEADER.size - 1):
        log.backend.truncate(size)
        with pytest.raises(CorruptError, match="damaged header"):
            Log.open(fs, PATH, ID, UUID)


@pytest.mark.parametrize("ring", [0, 8, 4095, RING + 1, 1 << 63, (1 << 64) - 1, (1 << 40) + 8])
def test_open_refuses_absurd_rings(fs: SimFilesystem, log: Log, ring: int) -> None:
    rewrite_header(log, ring=ring)
    with pytest.raises(CorruptError, match=f"found a ring of {ring} bytes|cut short"):
        Log.open(fs, PATH, ID, UUID)


def test_open_refuses_every_bit_flip(fs: SimFilesystem, log: Log) -> None:
    before = bytearray(log.backend.pread(LOG_HEADER.size, 0))
    for bit in range(len(before) * 8):
        data = bytearray(before)
        data[bit // 8] ^= 1 << bit % 8
        log.backend.pwrite(data, 0)
        with pytest.raises(CorruptError):
            Log.open(fs, PATH, ID, UUID)


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    disk = PosixFilesystem()
    path = str(tmp_path / "wal")
    Log.create(disk, path, ID, UUID, RING)
    count = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CorruptError):
        Log.open(disk, path, ID + 1, UUID)
    assert len(os.listdir("/proc/self/fd")) == count


# --- records -----------------------------------------------------------------------------------------


def test_a_record_is_one_write(fs: SimFilesystem, log: Log) -> None:
    before = fs.steps
    position, chain = log.append(1, [b"ab", memoryview(b"cde")], 7, 0, 0, nonce=99)
    assert fs.trace[before:] == [("pwrite", PATH)] and position == record_size(5) == 56
    fields = LOG_RECORD.unpack(log.backend.pread(LOG_RECORD.size, LOG_RING_AT))
    assert fields == {
        "checksum": chain, "previous": 7, "txn": 1, "synced": 0, "nonce": 99, "length": 56, "payload": 5
    }  # fmt: skip
    [record] = log.replay(0, 7, 0)
    assert (record.start, record.position, record.chain, record.nonce) == (0, 56, chain, 99)
    assert (record.payload, record.txn, record.synced) == (b"abcde", 1, 0)


def test_sync_is_one_sync(fs: SimFilesystem, log: Log) -> None:
    position, chain = log.append(1, b"abc", 0, 0, 0)
    log.sync()
    assert fs.trace[-1] == ("sync_data", PATH)
    log.append(2, b"def", chain, position, 1)
    found = {tuple(payloads(Log.open(image, PATH, ID, UUID))) for image in fs.crash_images(random.Random(1), 20)}
    assert found == {(b"abc",), (b"abc", b"def")}


def test_room(log: Log) -> None:
    assert log.room(100, 100) == RING and log.room(100 + RING, 100) == 0
    position, chain = log.append(1, bytes(RING - LOG_RECORD.size), 0, 12345 * 8, 0)
    assert log.room(position, 12345 * 8) == 0
    assert [len(record.payload) for record in log.replay(12345 * 8, 0, 0)] == [RING - LOG_RECORD.size]
    with pytest.raises(ValueError, match="in a ring of"):
        log.append(2, bytes(RING), chain, position, 0)


@pytest.mark.parametrize("before_end", range(8, LOG_RECORD.size + 32, 8))
def test_wrapping_round(log: Log, before_end: int) -> None:
    start = 5 * RING - before_end
    position, chain = log.append(8, b"across the end of the ring", 3, start, 0)
    assert log.backend.size() == LOG_RING_AT + RING
    log.append(9, b"after", chain, position, 0)
    assert payloads(log, start, 3, 7) == [b"across the end of the ring", b"after"]
    log.cut(position)
    assert payloads(log, start, 3, 7) == [b"across the end of the ring"]
    log.cut(start)
    assert payloads(log, start, 3, 7) == []


def test_the_chain_must_fit(log: Log) -> None:
    position, chain = log.append(5, b"a", 77, 0, 0)
    log.append(6, b"b", chain, position, 0)
    assert payloads(log, 0, 77, 4) == [b"a", b"b"] and payloads(log, position, chain, 5) == [b"b"]
    assert payloads(log, 0, 78, 4) == [] and payloads(log, 0, 77, 5) == [] and payloads(log, position, chain, 6) == []


def test_a_gap_in_the_txn_ids_ends_the_log(log: Log) -> None:
    position, chain = log.append(1, b"a", 0, 0, 0)
    log.append(3, b"c", chain, position, 0)
    assert payloads(log) == [b"a"]


def test_a_lost_record_that_was_synced(log: Log) -> None:
    position, chain = log.append(1, b"a" * 50, 0, 0, 0)
    middle = position
    position, chain = log.append(2, b"b" * 50, chain, position, 1)
    position, chain = log.append(3, b"c" * 50, chain, position, 1)
    log.backend.pwrite(b"?", LOG_RING_AT + middle + 60)
    assert payloads(log) == [b"a" * 50], "nobody says that transaction 2 was synced"
    log.append(4, b"d" * 50, chain, position, 2)
    replay = log.replay(0, 0, 0)
    assert next(replay).payload == b"a" * 50
    with pytest.raises(CorruptError, match="transaction 2, which was synced") as caught:
        next(replay)
    assert caught.value.offset == LOG_RING_AT + middle


def test_a_forged_log_ends_soon(log: Log) -> None:
    """Whoever knows the log's id can fill it with whole-looking records that each want the rest hashed."""
    ring = bytearray(RING)
    for at in range(64, RING - LOG_RECORD.size, 8):
        length = RING - at
        LOG_RECORD.struct.pack_into(ring, at, 0, 0, 2 + at // LOG_RECORD.size, 2, 0, length, length - LOG_RECORD.size)
    for at in range(64, RING - 8, 8):
        ring[at : at + 8] = (5).to_bytes(8, "little")
    log.backend.pwrite(ring, LOG_RING_AT)
    began = time.monotonic()
    assert payloads(log) == []
    at = 64
    while at + 512 < RING:
        length = RING - at
        LOG_RECORD.struct.pack_into(ring, at, 0, 0, 3, 2, 0, length, length - LOG_RECORD.size)
        at += LOG_RECORD.size
    log.backend.pwrite(ring, LOG_RING_AT)
    with pytest.raises(CorruptError, match="transaction 1"):
        payloads(log)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("txn", [(1 << 64) - 2, (1 << 64) - 1, 1 << 64])
def test_absurd_txn_ids(log: Log, txn: int) -> None:
    log.append(1, b"\xff" * 100, 0, 0, 0)
    assert payloads(log, 0, 0, txn) == []
    assert payloads(log, (1 << 64) - 8, (1 << 64) - 1, txn) == []


def test_a_record_never_reaches_round_to_the_start(log: Log) -> None:
    """Forged: whole and chained, but its end overlaps the record where replay began."""
    position, chain = log.append(1, bytes(RING // 2), 0, 0, 0)
    ring = log.backend.pread(RING, LOG_RING_AT)
    for excess, found in ((8, 1), (0, 2)):
        length = RING - position + excess
        head = LOG_RECORD.struct.pack(0, chain, 2, 0, 0, length, length - LOG_RECORD.size)
        body = head[8:] + ring[position + LOG_RECORD.size :] + ring[:excess]
        checksum = xxh3_64_intdigest(body, ID).to_bytes(8, "little")
        log.backend.pwrite(checksum + head[8:], LOG_RING_AT + position)
        assert len(payloads(log)) == found


def test_unreadable_sectors_are_errors_not_ends(fs: SimFilesystem, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SimBackend, n: int, off: int) -> bytes:
        raise OSError(5, "can't be read")

    log.append(1, b"a", 0, 0, 0)
    monkeypatch.setattr(SimBackend, "pread", broken)
    with pytest.raises(OSError, match="can't be read"):
        payloads(log)
