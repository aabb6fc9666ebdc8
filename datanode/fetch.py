"""The Fetch stream.

Guarantee: an answer holds committed batches only, the one that contains the offset first; a request beyond the end is
answered when a message comes, by the entry that brings it, or empty after its wait.  Requests do not wait for one
another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import structlog

from stele.datanode.replica import Replica
from stele.services.config import MIB
from stele.services.errors import InternalError, SteleError
from stele.services.pb import datanode_pb2 as pb
from stele.services.rpc.status import to_wire
from stele.services.rpc.streams import AnswerPump
from stele.services.tasks import Tasks

REQUESTS_MAX = 1_024  # unanswered on one stream; beyond it the stream is not read
ANSWERS_MAX = 8  # made and not sent yet
BYTES_DEFAULT = MIB
BYTES_MAX = 4 * MIB
WAIT_MAX_MS = 30_000

log = structlog.get_logger()


class FetchStream:
    """One stream: ``async for answer in FetchStream(store.replica).run(requests)``."""

    def __init__(self, find: Callable[[int], Replica], *, requests_max: int = REQUESTS_MAX) -> None:
        self._find = find
        self._places = asyncio.Semaphore(requests_max)
        self._sending = asyncio.Semaphore(ANSWERS_MAX)  # held from reading the batches until they are handed to gRPC
        self._pump: AnswerPump[pb.FetchRequest, pb.FetchResponse] = AnswerPump()
        self._tasks = Tasks()

    async def run(self, requests: AsyncIterator[pb.FetchRequest]) -> AsyncGenerator[pb.FetchResponse, None]:
        try:
            async with aclosing(self._pump.run(requests, self._take)) as answers:
                async for answer in answers:
                    yield answer
                    self._sending.release()
        finally:
            await self._tasks.cancel()

    async def _take(self, request: pb.FetchRequest) -> None:
        await self._places.acquire()
        self._tasks.start(self._answer(request))

    async def _answer(self, request: pb.FetchRequest) -> None:
        try:
            error: SteleError | None = None
            try:
                replica = self._find(request.group)
                if request.max_wait_ms and request.offset >= replica.partition.high_watermark:
                    await _wait_for_message(replica, request.offset, min(request.max_wait_ms, WAIT_MAX_MS) / 1000)
            except SteleError as e:
                error = e
            except Exception as e:
                log.exception("fetch_failed", group=request.group, offset=request.offset)
                error = InternalError(f"the fetch failed: {type(e).__name__}")
            await self._sending.acquire()
            self._pump.answer(_failed(request, error) if error is not None else self._fetch(request))
        finally:
            self._places.release()

    def _fetch(self, request: pb.FetchRequest) -> pb.FetchResponse:
        try:
            replica = self._find(request.group)
            found = replica.read(request.offset, min(request.bytes_max or BYTES_DEFAULT, BYTES_MAX))
        except SteleError as e:
            return _failed(request, e)
        except Exception as e:
            log.exception("fetch_failed", group=request.group, offset=request.offset)
            return _failed(request, InternalError(f"the fetch failed: {type(e).__name__}"))
        return pb.FetchResponse(
            request_id=request.request_id,
            batches=[pb.StoredBatch(base_offset=s.base_offset, batch=s.batch) for s in found],
            log_start_offset=replica.log_start,
            high_watermark=replica.partition.high_watermark,
        )


def _failed(request: pb.FetchRequest, error: SteleError) -> pb.FetchResponse:
    return pb.FetchResponse(request_id=request.request_id, error=to_wire(error))


async def _wait_for_message(replica: Replica, offset: int, wait_s: float) -> None:
    """Returns when there is a message at ``offset``, at the latest after ``wait_s``.  Raises what ends the replica
    meanwhile."""
    replica.running()
    try:
        async with asyncio.timeout(wait_s):
            await replica.beyond(offset)
    except TimeoutError:
        return
