"""The Append stream's order, bounds and deadlines, with replicas whose outcomes the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from stele.datanode.append import AppendStream
from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.services.errors import GroupNotFound, ProposalLost, SteleError, Timeout
from stele.services.pb import datanode_pb2 as pb
from stele.services.rpc.status import from_pb


class Group:
    """Takes proposals and lets the test end them."""

    def __init__(self) -> None:
        self.proposals: list[asyncio.Future[object]] = []

    def append(self, owner_epoch: int, batches: Any) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.proposals.append(future)
        return future

    def store(self, place: int) -> None:
        self.proposals[place].set_result(AppendOutcome((Appended(place),)))


class Requests:
    def __init__(self) -> None:
        self._queue: asyncio.Queue[pb.AppendRequest | None] = asyncio.Queue()
        self.taken = 0

    def put(self, request_id: int, group: int = 1, size: int = 1) -> None:
        self._queue.put_nowait(pb.AppendRequest(request_id=request_id, group=group, batches=[bytes(size)]))

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[pb.AppendRequest]:
        while (request := await self._queue.get()) is not None:
            self.taken += 1
            yield request


def find_in(groups: dict[int, Group]) -> Any:
    def find(group: int) -> Group:
        if group not in groups:
            raise GroupNotFound(f"no group {group}")
        return groups[group]

    return find


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_was_applied_is_timed_and_nothing_else() -> None:
    one, requests, took_s = Group(), Requests(), list[float]()
    stream = AppendStream(find_in({1: one}), applied=took_s.append).run(requests.__aiter__())
    async with aclosing(stream):
        for request_id, group in ((1, 1), (2, 1), (3, 9)):
            requests.put(request_id, group)
        first = asyncio.ensure_future(anext(stream))
        await turns()
        one.store(0)
        one.proposals[1].set_exception(ProposalLost("deposed"))
        answers = [await first, await anext(stream), await anext(stream)]
        assert sorted(a.request_id for a in answers) == [1, 2, 3]
        assert len(took_s) == 1
        assert 0 <= took_s[0] < 10
        requests.end()


async def test_answers_keep_the_order_of_their_group_and_no_other() -> None:
    one, two, requests = Group(), Group(), Requests()
    stream = AppendStream(find_in({1: one, 2: two})).run(requests.__aiter__())
    async with aclosing(stream):
        for request_id, group in ((1, 1), (2, 1), (3, 2), (4, 9)):
            requests.put(request_id, group)
        first = asyncio.ensure_future(anext(stream))
        await turns()
        one.store(1)
        two.store(0)
        answers = [await first, await anext(stream)]
        assert sorted(a.request_id for a in answers) == [3, 4]
        waiting = asyncio.ensure_future(anext(stream))
        await turns()
        assert not waiting.done()
        one.store(0)
        assert [(await waiting).request_id, (await anext(stream)).request_id] == [1, 2]
        requests.end()
        assert [a async for a in stream] == []


async def test_an_outcome_that_is_not_known_in_time_is_a_timeout() -> None:
    group, requests = Group(), Requests()
    stream = AppendStream(find_in({1: group}), timeout_s=0.02).run(requests.__aiter__())
    async with aclosing(stream):
        requests.put(1)
        answer = await asyncio.wait_for(anext(stream), 5)
        error = from_pb(answer.error)
        assert isinstance(error, Timeout)
        assert not error.definite
        group.store(0)  # late: heard by nobody
        requests.put(2)
        second = asyncio.ensure_future(anext(stream))
        await turns()
        group.store(1)
        assert (await second).results[0].base_offset == 1


async def test_unanswered_requests_are_bounded_in_number() -> None:
    group, requests = Group(), Requests()
    stream = AppendStream(find_in({1: group}), requests_max=3).run(requests.__aiter__())
    async with aclosing(stream):
        for i in range(10):
            requests.put(i)
        first = asyncio.ensure_future(anext(stream))
        await turns(20)
        assert requests.taken == 3
        group.store(0)
        await first
        await turns(20)
        assert requests.taken == 4


async def test_unanswered_requests_are_bounded_in_bytes() -> None:
    group, requests = Group(), Requests()
    stream = AppendStream(find_in({1: group}), bytes_max=1000).run(requests.__aiter__())
    async with aclosing(stream):
        for i in range(10):
            requests.put(i, size=600)
        first = asyncio.ensure_future(anext(stream))
        await turns(20)
        assert requests.taken == 2
        group.store(0)
        await first
        await turns(20)
        assert requests.taken == 3


async def test_errors_travel_typed() -> None:
    group, requests = Group(), Requests()
    stream = AppendStream(find_in({1: group})).run(requests.__aiter__())
    async with aclosing(stream):
        for i in range(4):
            requests.put(i)
        first = asyncio.ensure_future(anext(stream))
        await turns()
        group.proposals[0].set_exception(ProposalLost("lost"))
        group.proposals[1].set_result(Refused("FENCED", "overtaken", (("seen", "7"),)))
        group.proposals[2].set_exception(KeyError("a fault of ours"))
        group.proposals[3].set_result(AppendOutcome((Appended(5, True), Refused("OUT_OF_ORDER_SEQUENCE", "gap"))))
        answers = [await first, *[await anext(stream) for _ in range(3)]]
    errors = [from_pb(a.error) for a in answers]
    assert [e.reason if isinstance(e, SteleError) else None for e in errors] == [
        "PROPOSAL_LOST",
        "FENCED",
        "INTERNAL_ERROR",
        None,
    ]
    stored, refused = answers[3].results
    assert (stored.base_offset, stored.duplicate, refused.error.reason) == (5, True, "OUT_OF_ORDER_SEQUENCE")


async def test_a_sender_that_goes_away_leaves_no_task() -> None:
    group, requests = Group(), Requests()
    before = asyncio.all_tasks()
    stream = AppendStream(find_in({1: group})).run(requests.__aiter__())
    requests.put(1)
    first = asyncio.ensure_future(anext(stream))
    await turns()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await stream.aclose()
    await turns()
    assert asyncio.all_tasks() == before
    group.store(0)


async def test_a_fault_of_ours_ends_the_stream_at_once_and_after_the_answers() -> None:
    def find(number: int) -> Any:
        if number == 2:
            raise KeyError("a fault of ours")
        return group

    group, requests = Group(), Requests()
    stream = AppendStream(find).run(requests.__aiter__())
    async with aclosing(stream):
        requests.put(1)
        requests.put(2, group=2)
        first = asyncio.ensure_future(anext(stream))
        await turns(20)
        group.store(0)
        assert (await first).request_id == 1
        with pytest.raises(KeyError):
            await asyncio.wait_for(anext(stream), 5)
