"""A fault of the client's own, wherever it runs: what depends on it fails with it, what does not goes on, and nothing is left to the
garbage collector to complain about."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stele import consumer as consumer_module
from stele import partition_sender
from stele.consumer import Consumer
from stele.model import Message
from stele.producer import Producer, ProducerSettings
from stele.routing import Route, Router, TopicRoutes
from stele.services.errors import InternalError, InvalidArgument, SteleError
from stele.services.pb import broker_pb2

ROUTES = TopicRoutes("ns/t", 1, tuple(Route(p, "br1", "br1:1", 1) for p in range(2)))


class Stream:
    """Answers everything at once."""

    endpoint, closed = "br1:1", False

    def __init__(self) -> None:
        self.stored = 0

    def send(self, request: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_result(broker_pb2.ProduceResponse(base_offset=self.stored))
        self.stored += 1
        return answer

    async def close(self) -> None: ...


class Streams:
    def __init__(self) -> None:
        self.stream = Stream()

    def get(self, endpoint: str) -> Any:
        return self.stream


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return self.now_ms


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop complains of: nothing, at the end."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect()
    await asyncio.sleep(0)
    assert found == []


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async def look_up(topic: str) -> TopicRoutes:
        return ROUTES

    made = Router(look_up)
    yield made
    await made.close()


def make(router: Router, clock: Clock | None = None, **settings: Any) -> Producer:
    return Producer("ns/t", router, Streams(), ProducerSettings(**settings), clock=clock or Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["encode", "from_pb", "SendResult", "backoff_s"])
async def test_p16_whatever_breaks_in_the_background_fails_what_waits_for_it(
    router: Router, complaints: list[Any], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise TypeError("a fault of ours")

    healthy, broken = make(router), make(router)
    await healthy.send(b"before", partition=0)
    async with asyncio.timeout(10):
        with monkeypatch.context() as patched:
            patched.setattr(f"stele.batching.{part}" if part == "encode" else f"stele.partition_sender.{part}", breaks)
            waiting = [await broken.enqueue(b"%d" % i, partition=i % 2) for i in range(4)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(r, InternalError) for r in results), results
        await broken.flush()
        with pytest.raises(InternalError, match="a fault of ours"):
            await broken.send(b"after")
        with pytest.raises(InternalError):
            broken.send_nowait(b"after")
        await broken.close()
        await healthy.send(b"its neighbour goes on", partition=1)
        await healthy.close()


async def test_p16_a_fault_while_the_routes_change_fails_one_producer_and_no_other(
    complaints: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [ROUTES, TopicRoutes("ns/t", 1, tuple(Route(p, "br2", "br2:1", 2) for p in range(2)))]

    async def look_up(topic: str) -> TopicRoutes:
        return answers[0]

    router = Router(look_up)
    broken, healthy = make(router), make(router)
    async with asyncio.timeout(10):
        for producer in (broken, healthy):
            await producer.send(b"x", partition=0)
        monkeypatch.setattr(broken, "_moved", lambda routes: 1 / 0)
        answers.pop(0)
        assert await router.refresh("ns/t") == answers[0]
        with pytest.raises(InternalError, match="division"):
            await broken.send(b"x")
        await healthy.send(b"x", partition=0)
        await asyncio.gather(broken.close(), healthy.close())
        await router.close()


@pytest.mark.parametrize("clock_ms", [-5, 0, 1 << 70, 253_402_300_799_999 + 1])
async def test_p32_a_clock_that_shows_no_date_stamps_the_nearest_one(
    router: Router, complaints: list[Any], clock_ms: int
) -> None:
    clock = Clock()
    producer = make(router, clock, linger_ms=20)
    async with asyncio.timeout(10):
        first = await producer.enqueue(b"now", partition=0)
        clock.now_ms = clock_ms
        second = await producer.enqueue(b"then", partition=0)
        assert {(await first).offset, (await second).offset} == {0, 1}
        await producer.close()


async def test_p17_what_is_handed_over_may_be_changed_at_once(router: Router, complaints: list[Any]) -> None:
    producer = make(router, linger_ms=20)
    taken: list[bytes] = []
    original = partition_sender.PartitionSender.add

    def add(self: Any, outgoing: Any) -> None:
        taken.append(outgoing.record.value + outgoing.record.key + outgoing.record.headers["h"])
        original(self, outgoing)

    partition_sender.PartitionSender.add = add  # type: ignore[method-assign]
    try:
        buffer = bytearray(b"a")
        sends = []
        for content in (b"a", b"b", b"c"):
            buffer[:] = content
            sends.append(producer.send(buffer, memoryview(buffer), {"h": buffer}))  # awaited only when all are made
        buffer[:] = b"z"
        async with asyncio.timeout(10):
            await asyncio.gather(*sends)
            await producer.close()
    finally:
        partition_sender.PartitionSender.add = original  # type: ignore[method-assign]
    assert taken == [b"aaa", b"bbb", b"ccc"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"value": "text"}, "value"),
        ({"value": [1]}, "value"),
        ({"value": None}, "value"),
        ({"value": b"x", "key": "text"}, "key"),
        ({"value": b"x", "headers": [("a", b"b")]}, "headers"),
        ({"value": b"x", "headers": {"a": "b"}}, "headers"),
        ({"value": b"x", "partition": "1"}, "partition"),
        ({"value": b"x", "partition": -1}, "partition"),
        ({"value": b"x", "partition": True}, "partition"),
    ],
)
async def test_p16_wrong_input_is_refused_at_the_call_and_harms_no_neighbour(
    router: Router, complaints: list[Any], given: dict[str, Any], named: str
) -> None:
    producer = make(router, linger_ms=20)
    async with asyncio.timeout(10):
        neighbour = await producer.enqueue(b"neighbour", partition=0)
        for call in (producer.send, producer.enqueue, producer.send_nowait):
            with pytest.raises(InvalidArgument, match=f"^{named}") as refused:
                call(**given)
            assert refused.value.definite
        assert (await neighbour).offset == 0
        await producer.flush()
        await producer.close()


async def test_p16_a_consumer_whose_stream_breaks_by_a_fault_of_ours_says_so(
    router: Router, complaints: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoChannels:
        async def connected(self, *_: object) -> None:
            raise ZeroDivisionError("a fault of ours")

    async def find(topic: str, timeout_s: float) -> TopicRoutes:
        return ROUTES

    async def seek(*_: object) -> int:
        return 0

    async def has_begun(*_: object) -> bool:
        return False

    consumer = Consumer("ns/t", "s", router, NoChannels(), find, has_begun, seek)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        with pytest.raises(InternalError, match="a fault of ours"):
            await consumer.receive()
        with pytest.raises(SteleError):
            await consumer.ack(Message("ns/t", 0, 0, None, b"", {}, 0))
        await consumer.close()
    assert consumer_module.ACK_CONFIRM_TIMEOUT_S > 0
