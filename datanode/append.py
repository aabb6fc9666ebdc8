"""The Append stream.

Guarantee: within one group proposals start and answers leave in the order of the requests; an answer to one group never
waits for another group.  A request whose outcome is not known after ``APPEND_TIMEOUT_S`` is answered with Timeout
(indefinite).  What is unanswered is bounded: beyond it the stream is not read, which holds the sender back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.datanode.replica import Replica
from stele.services.errors import InternalError, SteleError, Timeout
from stele.services.pb import datanode_pb2 as pb
from stele.services.rpc.status import to_wire
from stele.services.rpc.streams import AnswerPump
from stele.services.tasks import Tasks

INFLIGHT_REQUESTS_MAX = 1_024
INFLIGHT_BYTES_MAX = 64 << 20
APPEND_TIMEOUT_S = 10.0
EXPIRY_CHECK_S = 0.5


class _Slot:
    """A request that is not answered yet."""

    __slots__ = ("answer", "request_id", "size", "started_s")

    def __init__(self, request_id: int, size: int, started_s: float) -> None:
        self.request_id = request_id
        self.size = size
        self.started_s = started_s
        self.answer: pb.AppendResponse | None = None


class AppendStream:
    """One stream: ``async for answer in AppendStream(store.replica).run(requests)``."""

    def __init__(
        self,
        find: Callable[[int], Replica],
        *,
        requests_max: int = INFLIGHT_REQUESTS_MAX,
        bytes_max: int = INFLIGHT_BYTES_MAX,
        timeout_s: float = APPEND_TIMEOUT_S,
        applied: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        """``applied`` is told of each append that was applied how many seconds it took."""
        self._find, self._applied = find, applied
        self._requests_max, self._bytes_max, self._timeout_s = requests_max, bytes_max, timeout_s
        self._lanes: dict[int, deque[_Slot]] = {}  # per group, oldest first
        self._pump: AnswerPump[pb.AppendRequest, pb.AppendResponse] = AnswerPump()
        self._bytes = 0  # unanswered
        self._room = asyncio.Event()

    async def run(self, requests: AsyncIterator[pb.AppendRequest]) -> AsyncGenerator[pb.AppendResponse, None]:
        expiring = Tasks().keep(self._expire, "append-expiry")
        try:
            async with aclosing(self._pump.run(requests, self._take)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            expiring.cancel()
            await asyncio.gather(expiring, return_exceptions=True)

    async def _take(self, request: pb.AppendRequest) -> None:
        self._start(request)
        while self._pump.unanswered >= self._requests_max or self._bytes >= self._bytes_max:
            self._room.clear()
            await self._room.wait()

    def _start(self, request: pb.AppendRequest) -> None:
        slot = _Slot(request.request_id, sum(map(len, request.batches)), asyncio.get_running_loop().time())
        group, refused = request.group, None
        try:
            proposal = self._find(group).append(request.owner_epoch, request.batches)
        except SteleError as e:
            refused = e
        # AFTER the proposal: a fault of ours leaves no request behind for which the stream would wait.
        self._bytes += slot.size
        self._lanes.setdefault(group, deque()).append(slot)
        if refused is not None:
            self._answer(group, slot, pb.AppendResponse(request_id=slot.request_id, error=to_wire(refused)))
            return
        proposal.add_done_callback(lambda done: self._settled(group, slot, done))

    def _settled(self, group: int, slot: _Slot, done: asyncio.Future[object]) -> None:
        answer = _response(slot.request_id, done)
        if slot.answer is None and answer.results:
            self._applied(asyncio.get_running_loop().time() - slot.started_s)
        self._answer(group, slot, answer)

    def _answer(self, group: int, slot: _Slot, answer: pb.AppendResponse) -> None:
        if slot.answer is None:
            slot.answer = answer
            self._release(group)

    def _release(self, group: int) -> None:
        """Lets every answer leave before which none of its group is missing."""
        lane = self._lanes.get(group)
        while lane and (answer := lane[0].answer) is not None:
            slot = lane.popleft()
            self._bytes -= slot.size
            self._pump.answer(answer)
        if lane is not None and not lane:
            del self._lanes[group]
        self._room.set()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(EXPIRY_CHECK_S, self._timeout_s))
            before_s = asyncio.get_running_loop().time() - self._timeout_s
            for group, lane in list(self._lanes.items()):
                late = [slot for slot in lane if slot.started_s < before_s and slot.answer is None]
                for slot in late:
                    error = Timeout(
                        f"group {group} gave no outcome within {self._timeout_s:g} s", timeout_s=self._timeout_s
                    )
                    self._answer(group, slot, pb.AppendResponse(request_id=slot.request_id, error=to_wire(error)))


def _response(request_id: int, done: asyncio.Future[object]) -> pb.AppendResponse:
    if done.cancelled():
        return pb.AppendResponse(request_id=request_id, error=to_wire(InternalError("the proposal was cancelled")))
    error = done.exception()
    if error is not None:
        typed = error if isinstance(error, SteleError) else InternalError(f"the append failed: {type(error).__name__}")
        return pb.AppendResponse(request_id=request_id, error=to_wire(typed))
    outcome = done.result()
    if isinstance(outcome, Refused):
        return pb.AppendResponse(request_id=request_id, error=to_wire(outcome.error()))
    assert isinstance(outcome, AppendOutcome)
    return pb.AppendResponse(request_id=request_id, results=[_result(r) for r in outcome.results])


def _result(result: Appended | Refused) -> pb.AppendResult:
    if isinstance(result, Refused):
        return pb.AppendResult(error=to_wire(result.error()))
    return pb.AppendResult(base_offset=result.base_offset, duplicate=result.duplicate)
