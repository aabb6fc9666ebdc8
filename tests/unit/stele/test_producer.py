"""A producer whose broker answers late or never: each call ends within its own time, whatever others do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stele.batching import SendTimedOut
from stele.producer import Producer, ProducerSettings
from stele.routing import Route, Router, TopicRoutes
from stele.services.errors import SteleError
from stele.services.pb import broker_pb2

ROUTES = TopicRoutes("ns/t", 1, (Route(0, "br1", "br1:1", 1),))


class Stream:
    """Answers what it is told to."""

    endpoint, closed = "br1:1", False

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []

    def get(self, endpoint: str) -> Any:
        return self

    def send(self, request: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        return answer

    def answer(self) -> None:
        """The oldest request that has none."""
        next(answer for answer in self.asked if not answer.done()).set_result(broker_pb2.ProduceResponse(base_offset=1))

    async def close(self) -> None: ...


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def routes() -> list[TopicRoutes]:
    """What nameservers say: the last of them."""
    return [ROUTES]


@pytest.fixture
async def router(routes: list[TopicRoutes]) -> AsyncIterator[Router]:
    async def look_up(topic: str) -> TopicRoutes:
        return routes[-1]

    made = Router(look_up)
    yield made
    await made.close()


async def _until(done: Any) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - whatever it depends on
            await asyncio.sleep(0.005)


async def test_a_flush_waits_for_what_was_taken_before_it_alone(router: Router, stream: Stream) -> None:
    producer = Producer("ns/t", router, stream, ProducerSettings(linger_ms=0))  # type: ignore[arg-type]
    await producer.enqueue(b"before")
    await _until(lambda: len(stream.asked) == 1)
    flushing = asyncio.ensure_future(producer.flush())
    await asyncio.sleep(0)
    await producer.enqueue(b"after")
    await _until(lambda: len(stream.asked) == 2)
    assert not flushing.done()
    stream.answer()
    await asyncio.wait_for(flushing, 1)
    await producer.abort()


async def test_a_send_that_waits_for_room_ends_by_its_timeout(router: Router, stream: Stream) -> None:
    settings = ProducerSettings(linger_ms=0, buffer_bytes_max=1024, send_timeout_s=0.3)
    producer = Producer("ns/t", router, stream, settings)  # type: ignore[arg-type]
    loop, took_s = asyncio.get_running_loop(), []

    async def send() -> None:
        began_s = loop.time()
        with pytest.raises(SteleError):
            await producer.send(bytes(700))
        took_s.append(loop.time() - began_s)

    await asyncio.gather(*(send() for _ in range(8)))
    assert max(took_s) < 0.3 + 0.5, took_s
    await producer.abort()


async def test_what_had_no_room_in_its_time_was_certainly_not_sent(router: Router, stream: Stream) -> None:
    settings = ProducerSettings(linger_ms=0, buffer_bytes_max=1024, send_timeout_s=0.2)
    producer = Producer("ns/t", router, stream, settings)  # type: ignore[arg-type]
    first = await producer.enqueue(bytes(700))
    await asyncio.sleep(0.1)
    with pytest.raises(SendTimedOut):
        await asyncio.gather(*(producer.enqueue(bytes(900)) for _ in range(2)))
    assert first.done()
    await producer.abort()


async def test_what_was_sent_to_a_former_topic_ends_by_its_timeout(
    router: Router, stream: Stream, routes: list[TopicRoutes]
) -> None:
    settings = ProducerSettings(linger_ms=0, send_timeout_s=0.3)
    producer = Producer("ns/t", router, stream, settings)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    began_s, sent = loop.time(), await producer.enqueue(b"into silence")
    await _until(lambda: len(stream.asked) == 1)
    routes.append(TopicRoutes("ns/t", 2, ROUTES.partitions))
    await router.refresh("ns/t")
    with pytest.raises(SteleError) as failed:
        await asyncio.wait_for(sent, 5)
    assert not failed.value.definite
    assert loop.time() - began_s < 0.3 + 0.5
    await producer.abort()
