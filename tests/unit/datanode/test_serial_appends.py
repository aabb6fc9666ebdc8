"""Appends one at a time, to a partition that remembers no more of what was stored in part."""

from __future__ import annotations

import asyncio

import pytest

from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.datanode.partition import PartitionState
from stele.datanode.serial_appends import SerialAppends
from stele.services.batch import BatchRecord, encode
from stele.services.errors import NotLeader
from tests.support.both_ways import holds_and_mutant_fails, promise


class Leader:
    """Commits ``proposals`` entries, then leads no more."""

    def __init__(self, proposals: int) -> None:
        self.partition = PartitionState()
        self.left = proposals
        self.entries = 0
        self.deposed_unawares = False

    def current(self) -> Leader:
        if not self.left:
            raise NotLeader("deposed")
        return self

    def read_index(self) -> asyncio.Future[int]:
        read: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.deposed_unawares:
            read.set_exception(NotLeader("nobody follows"))
        else:
            read.set_result(self.entries)
        return read

    def propose(self, payload: bytes) -> asyncio.Future[object]:
        self.left -= 1
        self.entries += 1
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        done.set_result(self.partition.apply(self.entries, 1, payload))
        return done


def batches(*sequences: tuple[int, int]) -> list[bytes]:
    return [encode([BatchRecord(b"%d" % s)], producer, s) for producer, s in sequences]


async def leadership_ends_in_the_middle(make: type[SerialAppends]) -> None:
    leader = Leader(proposals=1)
    appends = make(leader.partition, leader.current, lambda: 1)
    # Two of one producer are two parts; the anonymous one goes with the second.
    appending = appends.append(1, batches((7, 0), (7, 1), (0, 0)), None)
    await asyncio.wait({appending})
    with promise("what is stored is not called unstored"):
        assert appending.exception() is None, "its first part is stored"
    outcome = appending.result()
    assert isinstance(outcome, AppendOutcome)
    assert outcome.results[0] == Appended(0)
    assert [r.reason for r in outcome.results[1:] if isinstance(r, Refused)] == ["NOT_LEADER"] * 2


async def test_p20_what_is_stored_is_not_called_unstored() -> None:
    await holds_and_mutant_fails(leadership_ends_in_the_middle, SerialAppends, "appends.RefusesTheWholeAppend")


async def test_p20_an_append_of_which_nothing_is_stored_fails_as_a_whole() -> None:
    leader = Leader(proposals=0)
    with pytest.raises(NotLeader):
        await SerialAppends(leader.partition, leader.current, lambda: 1).append(1, batches((7, 0), (7, 1)), None)
    assert leader.partition.high_watermark == 0


async def test_p20_the_retry_of_a_part_finds_what_is_stored() -> None:
    leader = Leader(proposals=1)
    appends = SerialAppends(leader.partition, leader.current, lambda: 1)
    await appends.append(1, batches((7, 0), (7, 1)), None)
    leader.left = 5
    outcome = await appends.append(1, batches((7, 0), (7, 1)), None)
    assert outcome == AppendOutcome((Appended(0, duplicate=True), Appended(1)))


async def a_leader_was_deposed_unawares(make: type[SerialAppends]) -> None:
    """It lacks what its successor has stored: to it, what comes next looks like a gap."""
    leader = Leader(proposals=5)
    appends = make(leader.partition, leader.current, lambda: 1)
    await appends.append(1, batches((7, 0)), None)
    leader.deposed_unawares = True
    appending = appends.append(1, batches((7, 5)), None)
    await asyncio.wait({appending})
    with promise("a gap is told by a replica that leads"):
        assert isinstance(appending.exception(), NotLeader)


async def test_p14_a_leader_that_was_deposed_unawares_tells_no_gap_serially() -> None:
    await holds_and_mutant_fails(a_leader_was_deposed_unawares, SerialAppends, "appends.BelievesThatItLeads")
