"""Whatever lies behind the last record, replay gives exactly the records that were appended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from xxhash import xxh3_64_intdigest

from mmstore.disk.log import Log, record_size
from mmstore.disk.memory import MemoryFilesystem
from mmstore.errors import CorruptError
from mmstore.format import LOG_RECORD, LOG_RING_AT

UUID = b"\7" * 16
RING = 4096
PAYLOAD = st.binary(max_size=300)


def new_log(ring: int = RING) -> Log:
    return Log.create(MemoryFilesystem(), "wal", 0x1234_5678_9ABC_DEF1, UUID, ring)


@dataclass
class Written:
    """A log with the places before and after each record."""

    log: Log
    places: list[tuple[int, int, int]]
    payloads: list[bytes] = field(default_factory=list)

    def append(self, payload: bytes, synced: int = 0, nonce: int = 0) -> None:
        position, chain, txn = self.places[-1]
        position, chain = self.log.append(txn + 1, payload, chain, position, synced, nonce)
        self.places.append((position, chain, txn + 1))
        self.payloads.append(payload)

    def replayed(self, start: int = 0) -> list[bytes]:
        position, chain, txn = self.places[start]
        return [record.payload for record in self.log.replay(position, chain, txn)]

    def overwrite(self, position: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.log.backend.pwrite(bytes([byte]), LOG_RING_AT + (position + i) % self.log.ring)


PLACES = st.tuples(
    st.integers(0, 1 << 40).map(lambda n: n * 8), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 63))
)


@st.composite
def logs(draw: st.DrawFn, synced: bool = False) -> Written:
    """Some records from some place on, fitting the ring."""
    written = Written(new_log(), [draw(PLACES)])
    room = RING
    for payload in draw(st.lists(PAYLOAD, min_size=1, max_size=10)):
        room -= record_size(len(payload))
        if room >= 0:
            written.append(payload, written.places[-1][2] if synced else 0, draw(st.sampled_from((0, 1, 1 << 63))))
    return written


@given(logs())
def test_round_trip_from_every_place(written: Written) -> None:
    for start in range(len(written.places)):
        assert written.replayed(start) == written.payloads[start:]


@given(logs(), st.binary(max_size=500), st.integers(0, 7))
def test_garbage_behind_the_end(written: Written, garbage: bytes, shift: int) -> None:
    end = written.places[-1][0]
    room = written.log.room(end, written.places[0][0])
    written.overwrite(end, (b"\0" * shift + garbage)[:room])
    assert written.replayed() == written.payloads


@given(logs(), st.data())
def test_any_damage_to_an_unsynced_record_ends_the_log_there(written: Written, data: st.DataObject) -> None:
    victim = data.draw(st.integers(0, len(written.payloads) - 1))
    low, high = written.places[victim][0], written.places[victim + 1][0]
    at = data.draw(st.integers(low, high - 1))
    flip = data.draw(st.integers(1, 255))
    old = written.log.backend.pread(1, LOG_RING_AT + at % RING)[0]
    written.overwrite(at, bytes([old ^ flip]))
    assert written.replayed() == written.payloads[:victim]


@given(logs(synced=True), st.data())
def test_damage_to_a_synced_record_is_corruption(written: Written, data: st.DataObject) -> None:
    """Each record here was written when all before it were synced; so only the last may be missing."""
    victim = data.draw(st.integers(0, len(written.payloads) - 1))
    low, high = written.places[victim][0], written.places[victim + 1][0]
    at = data.draw(st.integers(low, high - 1))
    old = written.log.backend.pread(1, LOG_RING_AT + at % RING)[0]
    written.overwrite(at, bytes([old ^ data.draw(st.integers(1, 255))]))
    if victim == len(written.payloads) - 1:
        assert written.replayed() == written.payloads[:-1]
    else:
        with pytest.raises(CorruptError, match=f"transaction {written.places[victim + 1][2]}"):
            written.replayed()


@given(logs(), st.data())
def test_a_torn_last_record(written: Written, data: st.DataObject) -> None:
    """A prefix of the bytes, or any subset of the 512-byte sectors, as a power cut leaves it."""
    if len(written.places) < 2:
        return
    low, high = written.places[-2][0], written.places[-1][0]
    kept = data.draw(st.integers(0, high - low - 1))
    image = written.log.backend.pread(RING, LOG_RING_AT)
    record = bytes(image[(low + i) % RING] for i in range(high - low))
    lost = record[kept:]
    written.overwrite(low + kept, bytes(len(lost)))
    expected = written.payloads if lost.strip(b"\0") == b"" else written.payloads[:-1]
    assert written.replayed() == expected


@given(PLACES, st.lists(PAYLOAD, min_size=2, max_size=5), st.integers(0, 1 << 64), PAYLOAD)
def test_what_a_dead_writer_left_continues_no_other_chain(
    place: tuple[int, int, int], left: list[bytes], nonce: int, payload: bytes
) -> None:
    """He wrote [1, 2, ...] and died; 1 was cut off, another writer wrote it anew with a nonce of his own.

    Both records 1 may have the same length and even the same operations: what tells is the nonce.
    """
    dead = Written(new_log(), [place])
    for each in left:
        dead.append(each, nonce=0xDEAD)
    heir = Written(dead.log, [place])
    heir.append(left[0], nonce=nonce % (1 << 63))
    assert heir.replayed() == [left[0]]
    heir.append(payload)
    assert heir.replayed() == [left[0], payload]


FIELD = st.one_of(
    st.integers(0, 5), st.integers(0, (1 << 64) - 1), st.sampled_from([RING, RING - 48, 1 << 31, 1 << 32])
)


@settings(max_examples=300)
@given(logs(), st.dictionaries(st.sampled_from(LOG_RECORD.names[1:]), FIELD, min_size=1), st.data())
def test_hostile_records_with_good_checksums(written: Written, fields: dict[str, int], data: st.DataObject) -> None:
    """Whatever a record says, replay gives records inside the ring, or CorruptError (I6)."""
    victim = data.draw(st.integers(0, len(written.payloads) - 1))
    low, high = written.places[victim][0], written.places[victim + 1][0]
    image = written.log.backend.pread(RING, LOG_RING_AT)
    old = bytes(image[(low + i) % RING] for i in range(high - low))
    forged: dict[str, Any] = LOG_RECORD.unpack(old) | fields
    forged = {name: value % (1 << 8 * _size(name)) for name, value in forged.items()}
    body = LOG_RECORD.pack(forged)[8:] + old[LOG_RECORD.size :]
    written.overwrite(low, xxh3_64_intdigest(body, written.log.log_id).to_bytes(8, "little") + body)
    position, chain, txn = written.places[0]
    try:
        for record in written.log.replay(position, chain, txn):
            assert position == record.start < record.position <= written.places[0][0] + RING
            assert record.position == position + record_size(len(record.payload))
            position = record.position
    except CorruptError:
        pass


def _size(name: str) -> int:
    [size] = [size for _, size, field_name, _ in LOG_RECORD.rows() if field_name == name]
    return size


@settings(max_examples=300)
@given(st.binary(min_size=0, max_size=RING), PLACES)
def test_arbitrary_bytes(ring: bytes, place: tuple[int, int, int]) -> None:
    written = Written(new_log(), [place])
    written.log.backend.pwrite(ring, LOG_RING_AT)
    assert written.replayed() == []


class Laps(RuleBasedStateMachine):
    """Many laps round a small ring: appends, checkpoints that free what is before them, and crashes."""

    @initialize(place=PLACES)
    def start(self, place: tuple[int, int, int]) -> None:
        self.written = Written(new_log(), [place])
        self.durable = 0
        """Which place the durable header names."""
        self.synced = 0
        """How many records are known synced."""
        self.taken = 0
        """How often another took the writer lock and went on under the ids of the one before."""
        self.fresh = False
        """The next record is the first of such a taker, and carries a nonce that nobody has had."""

    @rule(payload=PAYLOAD, nonce=st.sampled_from((0, 5, 6)))
    def append(self, payload: bytes, nonce: int) -> None:
        written = self.written
        if written.log.room(written.places[-1][0], written.places[self.durable][0]) < record_size(len(payload)):
            self.durable = len(written.payloads)
        if self.fresh:  # else the same record as a lost one might come, and what lay behind that one follow it
            self.taken += 1
            nonce, self.fresh = 100 + self.taken, False
        written.append(payload, written.places[self.synced][2], nonce)

    @rule()
    def sync(self) -> None:
        self.synced = len(self.written.payloads)

    @rule(share=st.floats(0, 1))
    def checkpoint(self, share: float) -> None:
        self.durable = max(self.durable, round(share * len(self.written.payloads)))
        self.synced = max(self.synced, self.durable)

    @precondition(lambda self: self.synced < len(self.written.payloads))
    @rule(kept=st.integers(0, 60), skip=st.sampled_from((1 << 32, 1)))
    def lose_an_unsynced_record(self, kept: int, skip: int) -> None:
        """The first unsynced record is torn: it and all behind it are gone, and recovery goes on from there."""
        written = self.written
        first = max(self.synced, self.durable)
        if first >= len(written.payloads):
            return
        low, high = written.places[first][0], written.places[first + 1][0]
        written.overwrite(low + min(kept, high - low - 1), b"\xff" * 9)
        del written.places[first + 1 :], written.payloads[first:]
        assert written.replayed(self.durable) == written.payloads[self.durable :]
        position, chain, txn = written.places[-1]
        written.places[-1] = (position, chain, txn + skip - 1) if skip > 1 else (position, chain, txn)
        if skip > 1:  # a recovery checkpoints under an id that nobody used
            self.durable = self.synced = len(written.payloads)
        else:
            self.fresh = True

    @invariant()
    def replay_gives_what_was_appended(self) -> None:
        written = self.written
        assert written.replayed(self.durable) == written.payloads[self.durable :]


TestLaps = Laps.TestCase
TestLaps.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
