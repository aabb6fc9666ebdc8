"""Reading a log of which some entries are damaged: every other message is read, at its own offset."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from stele.datanode import commands
from stele.datanode.batch_reader import BatchReader, LocatedBatch
from stele.datanode.partition import PartitionState
from stele.services.errors import LogDamaged
from stele.services.raft.storage import NO_OP, REGULAR, Entry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.datanode.entries import make_batch


class DamagedLog:
    """A partition's entries, some of which cannot be read."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.partition = PartitionState()
        self.entries: list[Entry] = []
        self.damaged: set[int] = set()
        self.entry_of: dict[int, int] = {}  # offset → entry
        for index in range(1, count + 1):
            before = self.partition.high_watermark
            payload = self._command(rng)
            self.entries.append(Entry(index, 1, REGULAR if payload else NO_OP, payload))
            if payload:
                self.partition.apply(index, 1, payload)
            self.entry_of |= dict.fromkeys(range(before, self.partition.high_watermark), index)

    def _command(self, rng: random.Random) -> bytes:
        kind = rng.randrange(8)
        if kind == 0:
            return b""
        if kind == 1:
            return commands.encode(commands.CreateCursor(1, f"s{rng.randrange(9)}", commands.EARLIEST))
        if kind == 2:  # the second is a duplicate and takes no offset
            again = make_batch(2, producer_id=rng.randrange(1, 1 << 60), size=rng.randrange(900))
            return commands.encode_append(1, [again, again, make_batch(1)])
        return commands.encode_append(1, [make_batch(rng.randrange(1, 4), size=rng.randrange(900)) for _ in range(2)])

    def read(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        """As ``LogStorage.read``."""
        found: list[Entry] = []
        for entry in self.entries[first - 1 : last]:
            if entry.index in self.damaged:
                if not found:
                    raise LogDamaged("damaged", index=entry.index)
                break
            found.append(entry)
            bytes_max -= len(entry.payload)
            if bytes_max <= 0:
                break
        return found


def everything(kind: type[BatchReader], log: DamagedLog) -> dict[int, LocatedBatch | tuple[int, int]]:
    """By offset: the batch, or the offsets that are said to be lost."""
    found: dict[int, LocatedBatch | tuple[int, int]] = {}
    reader = kind(log.partition, log.read)
    for offset in range(log.partition.high_watermark):
        try:
            found[offset] = reader.read(offset, 1)[0]
        except LogDamaged as e:
            found[offset] = (int(e.facts["first"]), int(e.facts["last"]))
    return found


@pytest.mark.parametrize("seed", range(10))
async def test_p39_what_is_not_damaged_is_read_at_its_offset(seed: int) -> None:
    async def scenario(kind: type[BatchReader]) -> None:
        rng = random.Random(seed)
        log = DamagedLog(rng, 200)
        whole = everything(BatchReader, log)
        holding = sorted(set(log.entry_of.values()))
        log.damaged = set(rng.sample(holding, 5)) | {at := rng.choice(holding), at + 1, at + 2} | {holding[-1]}
        with promise("a message is read at the offset that it was given"):
            for offset, found in everything(kind, log).items():
                if isinstance(found, LocatedBatch):
                    assert found == whole[offset], offset
                    assert log.entry_of[offset] not in log.damaged
                    continue
                # Between two that are damaged it is not known how many messages stood in each of them.
                first, last = found
                assert first <= offset <= last
                assert {log.entry_of[first], log.entry_of[last]} <= log.damaged

    await holds_and_mutant_fails(scenario, BatchReader, "reader.TakesDamageForNothing")


def test_p39_a_read_gives_what_stands_before_the_damage_and_goes_on_behind_it() -> None:
    log = DamagedLog(random.Random(1), 100)
    whole = BatchReader(log.partition, log.read).read(0, 1 << 20)
    holding = sorted(set(log.entry_of.values()))
    log.damaged = {holding[20]}
    reader = BatchReader(log.partition, log.read)
    lost = [offset for offset, index in log.entry_of.items() if index in log.damaged]
    before = reader.read(0, 1 << 20)
    assert before == [b for b in whole if b.base_offset < lost[0]]
    assert reader.read(lost[-1] + 1, 1 << 20) == [b for b in whole if b.base_offset > lost[-1]]
    log.damaged.clear()
    reader.forget()
    assert reader.read(0, 1 << 20) == whole


def filled() -> PartitionState:
    """Producer 7 has stored ten messages."""
    partition = PartitionState()
    partition.apply(1, 1, commands.encode_append(1, [make_batch(10, producer_id=7)]))
    return partition


async def test_p39_the_only_replica_goes_on_behind_an_entry_if_it_is_certain_of_the_offsets() -> None:
    async def scenario(kind: type[PartitionState]) -> None:
        damaged = commands.encode_append(1, [make_batch(2, producer_id=7, sequence=10), make_batch(3, size=20)])
        behind = commands.encode_append(1, [make_batch(1, producer_id=7, sequence=12)])
        passed = 0
        for at in range(len(damaged)):
            for bits in (0x01, 0x04, 0xFF):
                payload = bytearray(damaged)
                payload[at] ^= bits
                partition = kind()
                partition.restore(filled().encode_snapshot())
                before = partition.encode_snapshot()
                with promise("an offset is what it was before the damage"):
                    if partition.apply_damaged(2, bytes(payload)):
                        passed += 1
                        assert partition.high_watermark == 15, at
                        outcome = partition.apply(3, 1, behind)
                        assert outcome == commands.AppendOutcome((commands.Appended(15),)), at
                        partition.validate()
                    else:
                        assert partition.encode_snapshot() == before
        assert passed > len(damaged), "most of the bytes are those of messages"

    await holds_and_mutant_fails(scenario, PartitionState, "partition.BelievesDamagedHeaders")


def test_p39_a_damaged_command_that_takes_no_offset_is_passed_over() -> None:
    partition = filled()
    create = bytearray(commands.encode(commands.CreateCursor(1, "s", commands.EARLIEST)))
    create[-1] ^= 1
    assert partition.apply_damaged(2, bytes(create))
    assert partition.cursors == {}
    assert partition.applied_index == 2
    assert partition.high_watermark == 10
