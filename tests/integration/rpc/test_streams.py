"""Both ends of a stream of requests and answers, over real gRPC: order, credit, and what its end means for each request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stele.services.errors import ConnectionBroken, InvalidArgument, NotReady, Overloaded, SteleError, Unreachable
from stele.services.pb import broker_pb2 as pb
from stele.services.pb import broker_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from stele.services.rpc.streams import AnswerPump, ByteCredit, RequestStream, while_reading
from tests.support.eventually import eventually

Stream = RequestStream[pb.ProduceRequest, pb.ProduceResponse]


class Peer(broker_pb2_grpc.BrokerServicer):
    """Reads requests; the test answers them."""

    def __init__(self, credit_bytes: int | None) -> None:
        self._credit_bytes = credit_bytes
        self.read: list[pb.ProduceRequest] = []
        self._answers: asyncio.Queue[pb.ProduceResponse | SteleError | None] = asyncio.Queue()
        self.server = Server("127.0.0.1", 0)
        self.server.add(broker_pb2_grpc.add_BrokerServicer_to_server, self, "stele.v1.Broker")

    async def Produce(self, request_iterator: AsyncIterator[pb.ProduceRequest], context: Any) -> Any:
        if self._credit_bytes is not None:
            yield pb.ProduceResponse(credit_bytes=self._credit_bytes)
        reading = asyncio.create_task(self._read(request_iterator))
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, SteleError):
                    raise answer
                yield answer
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[pb.ProduceRequest]) -> None:
        async for request in requests:
            self.read.append(request)

    def answer(self, request_id: int) -> None:
        self._answers.put_nowait(pb.ProduceResponse(request_id=request_id, base_offset=request_id * 10))

    def end(self, error: SteleError | None = None) -> None:
        self._answers.put_nowait(error)


class Peers:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._opened: list[Stream] = []
        self._started: list[Peer] = []

    async def peer(self, credit_bytes: int | None = None) -> Peer:
        peer = Peer(credit_bytes)
        self._started.append(peer)
        await peer.server.start()
        return peer

    def stream(self, endpoint: str, *, credit: bool = False, requests_max: int = 100) -> Stream:
        stream: Stream = RequestStream(
            endpoint,
            self._channels,
            lambda channel: broker_pb2_grpc.BrokerStub(channel).Produce(),
            connect_timeout_s=2.0,
            failure=failure,
            credit=ByteCredit(lambda first: first.credit_bytes, lambda r: len(r.batch)) if credit else None,
            requests_max=requests_max,
        )
        self._opened.append(stream)
        return stream

    async def close(self) -> None:
        await asyncio.gather(*(s.close() for s in self._opened), *(p.server.stop() for p in self._started))


def failure(error: SteleError, sent: bool) -> SteleError:
    return ConnectionBroken(error.reason) if sent else Unreachable(error.reason)


@pytest.fixture
async def peers(channels: Channels) -> AsyncIterator[Peers]:
    opened = Peers(channels)
    yield opened
    await opened.close()


def request(size: int = 1) -> pb.ProduceRequest:
    return pb.ProduceRequest(batch=b"x" * size)


def at(peer: Peer) -> str:
    return f"127.0.0.1:{peer.server.port}"


# --- the client -------------------------------------------------------------------------------------------------------


async def test_requests_arrive_in_order_and_answers_find_theirs(peers: Peers) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer))
    answers = [stream.send(request()) for _ in range(3)]
    await eventually(lambda: [r.request_id for r in peer.read] == [1, 2, 3])
    for request_id in (3, 1, 2):
        peer.answer(request_id)
    assert [(await a).base_offset for a in answers] == [10, 20, 30]


async def test_no_more_than_the_credit_is_unanswered_but_a_larger_one_goes_alone(peers: Peers) -> None:
    peer = await peers.peer(credit_bytes=100)
    stream = peers.stream(at(peer), credit=True)
    answers = [stream.send(request(size)) for size in (60, 40, 1, 500)]
    await eventually(lambda: len(peer.read) == 2)
    await asyncio.sleep(0.05)
    assert len(peer.read) == 2
    peer.answer(1)
    await answers[0]
    await eventually(lambda: len(peer.read) == 3)
    peer.answer(2)
    peer.answer(3)
    await eventually(lambda: len(peer.read) == 4)
    peer.answer(4)
    await answers[3]


async def test_when_it_ends_only_what_was_written_is_indefinite(peers: Peers) -> None:
    peer = await peers.peer(credit_bytes=100)
    stream = peers.stream(at(peer), credit=True)
    answers = [stream.send(request(100)) for _ in range(2)]
    await eventually(lambda: len(peer.read) == 1)
    peer.end(NotReady("not now"))
    with pytest.raises(ConnectionBroken, match="NOT_READY") as written:
        await answers[0]
    with pytest.raises(Unreachable) as waiting:
        await answers[1]
    assert stream.closed
    assert not written.value.definite
    assert waiting.value.definite
    with pytest.raises(Unreachable):
        await stream.send(request())


async def test_who_is_failed_finds_the_stream_closed(peers: Peers) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer))
    seen: list[bool] = []
    answer = stream.send(request())
    answer.add_done_callback(lambda done: seen.append(stream.closed and done.exception() is not None))
    await eventually(lambda: len(peer.read) == 1)
    peer.end()
    with pytest.raises(ConnectionBroken):
        await answer
    assert seen == [True]


async def test_nobody_there_is_definite(peers: Peers) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        stream = peers.stream(endpoint)
        with pytest.raises(Unreachable):
            await stream.send(request())


async def test_a_peer_that_grants_nothing_is_definite(peers: Peers) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer), credit=True)
    with pytest.raises(Unreachable):
        await asyncio.wait_for(stream.send(request()), 10)
    assert not peer.read


@pytest.mark.parametrize("begun", [False, True])
async def test_closing_fails_what_is_unanswered(peers: Peers, begun: bool) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer))
    answer = stream.send(request())
    if begun:
        await eventually(lambda: len(peer.read) == 1)
    await stream.close()
    with pytest.raises(ConnectionBroken if begun else Unreachable):
        await answer


async def test_what_was_cancelled_before_it_was_written_is_not_sent(peers: Peers) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer))
    stream.send(request()).cancel()
    answer = stream.send(request())
    await eventually(lambda: len(peer.read) == 1)
    assert peer.read[0].request_id == 2
    peer.answer(2)
    await answer


async def test_unanswered_requests_have_a_bound(peers: Peers) -> None:
    peer = await peers.peer()
    stream = peers.stream(at(peer), requests_max=2)
    answers = [stream.send(request()) for _ in range(3)]
    with pytest.raises(Overloaded):
        await answers[2]
    await eventually(lambda: len(peer.read) == 2)
    peer.answer(1)
    await answers[0]
    again = stream.send(request())
    await eventually(lambda: len(peer.read) == 3)
    peer.answer(2)
    peer.answer(3)
    await asyncio.gather(answers[1], again)


async def test_a_failure_to_write_ends_the_stream(peers: Peers, channels: Channels) -> None:
    peer = await peers.peer()
    stream: Stream = RequestStream(
        at(peer),
        channels,
        lambda channel: Unwritable(broker_pb2_grpc.BrokerStub(channel).Produce()),
        connect_timeout_s=2.0,
        failure=failure,
    )
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    answers = [stream.send(request()) for _ in range(2)]
    with pytest.raises(ConnectionBroken):
        await asyncio.wait_for(answers[0], 5)
    with pytest.raises(Unreachable):
        await asyncio.wait_for(answers[1], 5)
    assert stream.closed
    assert [str(context["exception"]) for context in reported] == ["not written"]


class Unwritable:
    """A call that fails in a way in which no call should."""

    def __init__(self, call: Any) -> None:
        self.read, self.cancel = call.read, call.cancel

    async def write(self, request: pb.ProduceRequest) -> None:
        raise RuntimeError("not written")


# --- the handler ------------------------------------------------------------------------------------------------------


class Requests:
    """What a client sends, as the test says."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[int | SteleError | None] = asyncio.Queue()
        self.read = 0

    def put(self, *items: int | SteleError | None) -> None:
        for item in items:
            self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[int]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, SteleError):
                raise item
            self.read += 1
            yield item


async def test_answers_leave_in_their_order_until_the_last_is_there() -> None:
    pump: AnswerPump[int, str] = AnswerPump()
    requests = Requests()
    later: list[Callable[[], None]] = []

    async def take(number: int) -> None:
        later.append(lambda: pump.answer(str(number)))

    answers = pump.run(aiter(requests), take)
    requests.put(1, 2, 3, None)
    first = asyncio.ensure_future(anext(answers))
    await eventually(lambda: len(later) == 3)
    later[1]()
    assert await first == "2"
    assert pump.unanswered == 2
    later[2]()
    later[0]()
    assert [answer async for answer in answers] == ["3", "1"]


async def test_what_ends_the_reading_ends_the_stream_after_the_answers() -> None:
    pump: AnswerPump[int, str] = AnswerPump()
    requests = Requests()

    async def take(number: int) -> None:
        asyncio.get_running_loop().call_later(0.01, pump.answer, str(number))

    requests.put(1, InvalidArgument("no request"))
    answers = pump.run(aiter(requests), take)
    assert await anext(answers) == "1"
    with pytest.raises(InvalidArgument, match="no request"):
        await anext(answers)


async def test_a_request_that_cannot_be_taken_ends_the_stream_after_the_answers() -> None:
    pump: AnswerPump[int, str] = AnswerPump()
    requests = Requests()

    async def take(number: int) -> None:
        if number == 2:
            raise RuntimeError("not taken")
        asyncio.get_running_loop().call_later(0.01, pump.answer, str(number))

    requests.put(1, 2, 3)
    answers = pump.run(aiter(requests), take)
    assert await anext(answers) == "1"
    with pytest.raises(RuntimeError, match="not taken"):
        await asyncio.wait_for(anext(answers), 5)


async def test_nothing_more_is_read_while_a_request_waits_to_be_taken() -> None:
    pump: AnswerPump[int, str] = AnswerPump()
    requests = Requests()
    room = asyncio.Event()

    async def take(number: int) -> None:
        await room.wait()
        pump.answer(str(number))

    requests.put(1, 2, None)
    reading = asyncio.ensure_future(anext(answers := pump.run(aiter(requests), take)))
    await eventually(lambda: requests.read == 1)
    await asyncio.sleep(0.01)
    assert requests.read == 1
    room.set()
    assert [await reading, *[answer async for answer in answers]] == ["1", "2"]


async def test_a_reader_does_not_outlive_its_stream() -> None:
    ended = asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def responses() -> AsyncIterator[int]:
        while True:
            yield 1
            await asyncio.sleep(0)

    stream = while_reading(responses(), read())
    assert await anext(stream) == 1
    await asyncio.sleep(0)
    await stream.aclose()
    assert ended.is_set()
