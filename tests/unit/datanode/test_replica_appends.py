"""What a leading replica answers of appends without an entry."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.datanode.directory import GroupSpec
from stele.datanode.replica import Replica
from stele.services.batch import BatchRecord, encode
from stele.services.errors import NotLeader, ProposalLost, SteleError
from tests.support.both_ways import holds_and_mutant_fails, promise


def batch_of(producer: int, sequence: int) -> bytes:
    return encode([BatchRecord(b"x")], producer, sequence)


class LeadingGroup:
    """Commits at once, until ``error`` says what becomes of proposals and reads."""

    state, is_leader, leader_store_id, term, problem = "leader", True, 1, 1, ""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.applied_index = 0
        self.journal = SimpleNamespace(term_at=lambda index: 1)
        self.error: SteleError | None = None

    def _future(self, result: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(result)
        return future

    def propose(self, payload: bytes) -> asyncio.Future[Any]:
        if self.error is not None:
            return self._future(None)
        self.applied_index += 1
        return self._future(self._replica.apply(self.applied_index, 1, payload))

    def read_index(self) -> asyncio.Future[Any]:
        return self._future(self.applied_index)


def leading(make: type[Replica] = Replica) -> tuple[Replica, LeadingGroup]:
    spec = GroupSpec(**(dict.fromkeys(GroupSpec.__dataclass_fields__, 0) | {"group": 1, "topic": "a/b"}))
    replica = make(spec, 1, 1 << 20, SimpleNamespace(take=lambda size: True))
    group = LeadingGroup(replica)
    replica.run(group)  # type: ignore[arg-type]
    return replica, group


async def test_p14_gaps_and_duplicates_take_no_entry() -> None:
    replica, group = leading()
    assert await replica.append(1, [batch_of(7, 0)]) == AppendOutcome((Appended(0),))
    await asyncio.sleep(0)  # it is on its way no more
    outcome = await replica.append(1, [batch_of(7, 0), batch_of(7, 9)])
    assert isinstance(outcome, AppendOutcome)
    assert outcome.results[0] == Appended(0, duplicate=True)
    assert isinstance(outcome.results[1], Refused)
    assert outcome.results[1].reason == "OUT_OF_ORDER_SEQUENCE"
    assert group.applied_index == 1
    mixed = await replica.append(1, [batch_of(7, 9), batch_of(8, 0), batch_of(7, 1)])
    assert isinstance(mixed, AppendOutcome)
    assert mixed.results[1:] == (Appended(1), Appended(2))
    assert group.applied_index == 2


async def deposed_unawares(make: type[Replica]) -> None:
    """It lacks what its successor has stored: to it, what comes next looks like a gap."""
    replica, group = leading(make)
    await replica.append(1, [batch_of(7, 0)])
    await asyncio.sleep(0)
    group.error = NotLeader("nobody follows")
    outcome = await replica.append(1, [batch_of(7, 5)])
    assert isinstance(outcome, AppendOutcome)
    with promise("a gap is told by a replica that leads"):
        assert [r.reason for r in outcome.results if isinstance(r, Refused)] == ["NOT_LEADER"]


async def test_p14_a_leader_that_was_deposed_unawares_tells_no_gap() -> None:
    await holds_and_mutant_fails(deposed_unawares, Replica, "appends.BelievesThatItLeadsStill")


async def test_p20_what_is_known_of_some_batches_outlives_the_failure_of_the_others() -> None:
    replica, group = leading()
    await replica.append(1, [batch_of(7, 0)])
    await asyncio.sleep(0)
    group.error = ProposalLost("leadership ended")
    outcome = await replica.append(1, [batch_of(7, 0), batch_of(8, 0)])
    assert isinstance(outcome, AppendOutcome)
    assert outcome.results[0] == Appended(0, duplicate=True)
    assert isinstance(outcome.results[1], Refused)
    assert not outcome.results[1].error().definite
