"""Channels and servers against real processes: what is definite, what is not, and how a lost peer is noticed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stele.services.errors import (
    ConnectionBroken,
    InvalidConfig,
    NotLeader,
    PortTaken,
    SteleError,
    Timeout,
    Unreachable,
)
from stele.services.pb import nameserver_pb2, nameserver_pb2_grpc
from stele.services.ports import free_port
from stele.services.rpc.channels import CHANNEL_OPTIONS, Channels, call
from stele.services.rpc.servers import Server
from stele.services.rpc.status import typed_errors
from tests.integration.rpc.conftest import Serve
from tests.integration.rpc.peers import Peer
from tests.integration.rpc.shapes import SERVICE, Shapes, add_shapes, ask
from tests.support.eventually import eventually

GET = nameserver_pb2.GetClusterRequest()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    started = await Peer("ns1").start()
    yield started
    await started.kill()


async def test_nobody_there_is_definite_and_soon(channels: Channels) -> None:
    stub = nameserver_pb2_grpc.NameserverStub(channels.get(f"127.0.0.1:{free_port()}"))
    for _ in range(3):
        with pytest.raises(Unreachable) as raised:
            await asyncio.wait_for(call(stub.GetCluster, GET, 60), 30)
        assert raised.value.definite


async def test_a_host_that_does_not_resolve_is_definite(channels: Channels) -> None:
    with pytest.raises(Unreachable):
        await channels.connected("no-such-host.invalid:7000", 20)


async def test_a_peer_that_accepts_and_says_nothing_is_definite(channels: Channels) -> None:
    """The connection stands, gRPC on it never does: nothing was sent."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        stub = nameserver_pb2_grpc.NameserverStub(channels.get(f"127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(Unreachable) as raised:
            await call(stub.GetCluster, GET, 0.5)
        assert raised.value.definite


async def test_kill_in_flight_is_indefinite_and_the_peer_is_reached_again(peer: Peer, channels: Channels) -> None:
    stub = nameserver_pb2_grpc.NameserverStub(channels.get(peer.endpoint))
    assert (await call(stub.GetCluster, GET, 10)).answered_by == "ns1"
    hanging = asyncio.create_task(call(stub.DeleteTopic, nameserver_pb2.DeleteTopicRequest(topic="a/b"), 60))
    await asyncio.wait({hanging}, timeout=0.3)
    await peer.kill()
    with pytest.raises(ConnectionBroken) as raised:
        await asyncio.wait_for(hanging, 30)
    assert not raised.value.definite

    async def is_refused() -> bool:
        """At once the channel may not have heard of it yet, and then it honestly says that it does not know."""
        with pytest.raises((ConnectionBroken, Unreachable)) as refused:
            await call(stub.GetCluster, GET, 5)
        return refused.value.definite

    await eventually(is_refused, within_s=10)
    await peer.start()

    async def answers() -> bool:
        try:
            return bool((await call(stub.GetCluster, GET, 5)).answered_by)
        except Unreachable:
            return False

    await eventually(answers, within_s=30)


async def test_a_frozen_peer_is_noticed_without_traffic_of_ours(peer: Peer, channels: Channels) -> None:
    """The deadline is far away: it is the pings that notice."""
    stub = nameserver_pb2_grpc.NameserverStub(channels.get(peer.endpoint))
    hanging = asyncio.create_task(call(stub.DeleteTopic, nameserver_pb2.DeleteTopicRequest(topic="a/b"), 170))
    await eventually(lambda: channels.get(peer.endpoint).is_connected, within_s=20)
    await asyncio.wait({hanging}, timeout=0.3)
    peer.pause()
    with pytest.raises(ConnectionBroken):
        await asyncio.wait_for(hanging, 60)


async def test_pings_are_not_held_against_an_idle_client(peer: Peer, channels: Channels) -> None:
    """Streams without traffic stay open although the client pings far more often than gRPC's default allows."""
    options = [(k, 500 if k == "grpc.keepalive_time_ms" else v) for k, v in CHANNEL_OPTIONS]
    async with grpc.aio.insecure_channel(peer.endpoint, options=options) as channel:
        stub = nameserver_pb2_grpc.NameserverStub(channel)
        with pytest.raises(Timeout), typed_errors():
            await stub.DeleteTopic(nameserver_pb2.DeleteTopicRequest(topic="a/b"), timeout=4)


async def test_a_closed_channel_is_definite_and_can_be_had_anew(peer: Peer, channels: Channels) -> None:
    old = channels.get(peer.endpoint)
    assert channels.get(peer.endpoint) is old
    stub = nameserver_pb2_grpc.NameserverStub(old)
    await call(stub.GetCluster, GET, 10)
    await channels.close(peer.endpoint)
    with pytest.raises(Unreachable):
        await call(stub.GetCluster, GET, 5)
    new = nameserver_pb2_grpc.NameserverStub(channels.get(peer.endpoint))
    assert (await call(new.GetCluster, GET, 10)).answered_by == "ns1"


async def test_a_call_whose_channel_is_closed_is_broken_and_its_task_goes_on(peer: Peer, channels: Channels) -> None:
    stub = nameserver_pb2_grpc.NameserverStub(channels.get(peer.endpoint))
    hanging = asyncio.create_task(call(stub.DeleteTopic, nameserver_pb2.DeleteTopicRequest(topic="a/b"), 60))
    await asyncio.wait({hanging}, timeout=0.5)
    assert not hanging.done()
    await channels.close(peer.endpoint)
    with pytest.raises(ConnectionBroken) as raised:
        await asyncio.wait_for(hanging, 10)
    assert not raised.value.definite


@pytest.mark.parametrize("sent", [True, False])
async def test_a_stream_whose_channel_is_closed_is_broken_and_its_task_goes_on(
    serve: Serve, channels: Channels, sent: bool
) -> None:
    """A read that waits, and one that begins afterwards."""
    endpoint = await serve(Shapes())
    stream: Any = channels.get(endpoint).stream_stream(f"/{SERVICE}/stream_stream_async")()
    assert await stream.read() == b"first"

    async def read() -> bytes:
        with typed_errors(sent=sent):
            return cast(bytes, await stream.read())

    waiting = asyncio.create_task(read())
    await asyncio.wait({waiting}, timeout=0.2)
    await channels.close(endpoint)
    for reading in (waiting, asyncio.create_task(read())):
        with pytest.raises(ConnectionBroken if sent else Unreachable) as raised:
            await asyncio.wait_for(reading, 10)
        assert raised.value.definite is not sent


async def test_who_is_cancelled_itself_while_it_reads_a_stream_is_cancelled(serve: Serve, channels: Channels) -> None:
    stream: Any = channels.get(await serve(Shapes())).stream_stream(f"/{SERVICE}/stream_stream_async")()
    assert await stream.read() == b"first"

    async def read() -> None:
        with typed_errors():
            await stream.read()

    reading = asyncio.create_task(read())
    await asyncio.wait({reading}, timeout=0.2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_wait_for_a_connection_ends_when_its_channel_is_closed(channels: Channels) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        waiting = asyncio.create_task(channels.connected(endpoint, 60))
        await asyncio.wait({waiting}, timeout=0.1)
        await channels.close(endpoint)
        with pytest.raises(Unreachable):
            await asyncio.wait_for(waiting, 10)


async def test_an_error_that_ends_a_stream_while_a_write_is_held_back_may_be_tried_again(
    serve: Serve, channels: Channels
) -> None:
    """The handler reads nothing more; the window is full.  gRPC may report the failed write in place of what the handler ended with."""
    shapes = Shapes(NotLeader("another store leads", leader=2))
    endpoint = await serve(shapes)
    for _ in range(5):
        stream: Any = channels.get(endpoint).stream_stream(f"/{SERVICE}/stream_stream_async")()
        assert await stream.read() == b"first"

        async def fill(stream: Any = stream) -> None:
            with typed_errors():
                await stream.write(b"raise")
                while True:
                    await stream.write(b"x" * (1 << 20))

        async def drain(stream: Any = stream) -> None:
            with typed_errors():
                while await stream.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                    pass

        filling = asyncio.create_task(fill())
        with pytest.raises((NotLeader, ConnectionBroken)) as raised:
            await asyncio.wait_for(drain(), 10)
        assert raised.value.retryable
        with pytest.raises((SteleError, asyncio.InvalidStateError)):
            await asyncio.wait_for(filling, 10)


async def test_the_wait_for_a_connection_can_be_cancelled(channels: Channels) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        waiting = asyncio.create_task(channels.connected(endpoint, 60))
        await asyncio.wait({waiting}, timeout=0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_taken_port_is_refused_and_named(serve: Serve) -> None:
    endpoint = await serve(Shapes())
    second = Server("127.0.0.1", int(endpoint.rpartition(":")[2]))
    second.add(add_shapes, Shapes(), SERVICE)
    with pytest.raises(PortTaken) as raised:
        await second.start()
    assert raised.value.facts["endpoint"] == endpoint
    assert endpoint in raised.value.message


async def test_a_foreign_address_is_not_called_taken() -> None:
    with pytest.raises(InvalidConfig, match="not an address of this machine"):
        await Server("192.0.2.1", 0).start()


async def test_the_port_is_closed_until_start_and_after_stop(channels: Channels) -> None:
    port = free_port()
    server = Server("127.0.0.1", port)
    server.add(add_shapes, Shapes(), SERVICE)
    with pytest.raises(Unreachable):
        await channels.connected(f"127.0.0.1:{port}", 5)
    assert await server.start() == port
    await channels.close()
    assert await ask(await channels.connected(f"127.0.0.1:{port}", 10), "unary_unary_async", b"x") == [b"x"]
    await server.stop()
    await server.stop()
    await channels.close()
    with pytest.raises(Unreachable):
        await channels.connected(f"127.0.0.1:{port}", 5)


async def test_stopping_lets_calls_finish_within_its_grace_and_no_longer(channels: Channels) -> None:
    shapes = Shapes()
    server = Server("127.0.0.1", 0)
    server.add(add_shapes, shapes, SERVICE)
    endpoint = f"127.0.0.1:{await server.start()}"
    hanging = asyncio.create_task(ask(channels.get(endpoint), "unary_unary_async", b"hang", 100))
    await asyncio.wait_for(shapes.hanging.wait(), 10)
    await asyncio.wait_for(server.stop(0.2), 10)
    with pytest.raises(SteleError) as raised, typed_errors():
        await hanging
    assert not raised.value.definite


async def test_health_and_reflection(serve: Serve, channels: Channels) -> None:
    server = Server("127.0.0.1", 0)
    server.add(add_shapes, Shapes(), SERVICE)
    channel = channels.get(f"127.0.0.1:{await server.start()}")
    stub = health_pb2_grpc.HealthStub(channel)

    async def health(service: str) -> int:
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status

    assert await health("") == await health(SERVICE) == health_pb2.HealthCheckResponse.SERVING
    server.set_serving(False)
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING

    async def says_no() -> bool:
        return await health("") == await health(SERVICE) == not_serving

    await eventually(says_no, within_s=10)

    async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked(), timeout=10):
        assert SERVICE in {service.name for service in answer.list_services_response.service}
    await server.stop()


async def test_adding_to_a_started_server_is_a_mistake(serve: Serve) -> None:
    server = Server("127.0.0.1", 0)
    await server.start()
    with pytest.raises(RuntimeError, match="has started"):
        server.add(add_shapes, Shapes(), SERVICE)
    await server.stop()
