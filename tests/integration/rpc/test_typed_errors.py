"""Errors of the tree over real gRPC: class, facts, definite and retryable survive the trip, and nothing else leaks."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from stele.services.errors import (
    _BY_REASON,
    InternalError,
    MessageTooLarge,
    SteleError,
    StoreTombstone,
    Timeout,
    Unimplemented,
    from_wire,
)
from stele.services.pb import common_pb2, nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.servers import Server
from stele.services.rpc.status import from_pb, from_rpc_error, to_wire, typed_errors
from tests.integration.rpc.conftest import Serve
from tests.integration.rpc.shapes import SERVICE, STYLES, Shapes, add_shapes, ask

CLASSES = [kind for kind in _BY_REASON.values() if not kind.__name__.startswith("_")]


async def caught(channels: Channels, endpoint: str, style: str) -> SteleError:
    with pytest.raises(SteleError) as raised, typed_errors():
        await ask(channels.get(endpoint), style, b"raise")
    return raised.value


@pytest.mark.parametrize("style", STYLES)
async def test_every_class_survives_in_every_shape(style: str, serve: Serve, channels: Channels) -> None:
    shapes = Shapes()
    endpoint = await serve(shapes)
    assert (await ask(channels.get(endpoint), style, b"hello"))[-1] == b"hello"
    for kind in CLASSES:
        shapes.raises = kind("what happened, in one line", leader="10.0.0.1:7000", epoch=7)
        error = await caught(channels, endpoint, style)
        assert type(error) is kind
        assert (error.message, error.facts) == ("what happened, in one line", {"leader": "10.0.0.1:7000", "epoch": "7"})
        assert (error.definite, error.retryable, error.code) == (kind.definite, kind.retryable, kind.code)


@pytest.mark.parametrize("style", STYLES)
async def test_an_unexpected_exception_leaks_no_text(style: str, serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes(ValueError("password=hunter2")))
    structlog.reset_defaults()
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(channels.get(endpoint), style, b"raise")
    everything = f"{raised.value!r} {raised.value.details()} {raised.value.trailing_metadata()}"
    assert "hunter2" not in everything
    assert "ValueError" not in everything
    error = from_rpc_error(raised.value)
    assert type(error) is InternalError
    assert (error.definite, error.retryable) == (False, False)
    (logged,) = [line for line in logs if line["event"] == "rpc_failed"]
    assert logged["incident"] == error.facts["incident"]
    assert "hunter2" in repr(logged["exc_info"])


@pytest.mark.parametrize("style", [style for style in STYLES if not style.endswith("sync") or style.endswith("async")])
async def test_what_a_handler_waited_for_being_cancelled_is_no_silence(
    style: str, serve: Serve, channels: Channels
) -> None:
    """gRPC itself takes it for the end of a call that its client gave up, and answers nothing, ever."""
    endpoint = await serve(Shapes(asyncio.CancelledError()))
    error = await caught(channels, endpoint, style)
    assert type(error) is InternalError
    assert not error.definite


async def test_what_was_sent_before_the_error_arrives(serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes(StoreTombstone("gone", store_id=4)))

    async def read_all(style: str, into: list[bytes]) -> None:
        async for answer in channels.get(endpoint).unary_stream(f"/{SERVICE}/{style}")(b"raise"):
            into.append(answer)

    for style in ("unary_stream_async", "unary_stream_write", "unary_stream_sync"):
        seen: list[bytes] = []
        with pytest.raises(StoreTombstone), typed_errors():
            await read_all(style, seen)
        assert seen == [b"first"]


async def test_an_abort_by_the_handler_stays_what_it_is(serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(channels.get(endpoint), "unary_unary_async", b"abort")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "asked for")
    assert type(from_rpc_error(raised.value)) is SteleError, "not found by gRPC's word alone is no class of ours (R2.1)"


async def test_an_unknown_reason_is_passed_on_as_it_came(serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes(from_wire("FROM_THE_FUTURE", "newer", {"x": "1"})))
    error = await caught(channels, endpoint, "unary_unary_async")
    assert type(error) is SteleError
    assert error.facts == {"reason": "FROM_THE_FUTURE", "x": "1"}


@pytest.mark.parametrize("text", ["x" * 100_000, "ü漢🙂" * 20_000, "line\nline\r\n", "\udcff", ""])
async def test_any_message_fits_the_metadata(text: str, serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes(StoreTombstone(text, store_id=9, detail=text)))
    error = await caught(channels, endpoint, "unary_unary_async")
    assert type(error) is StoreTombstone
    assert error.facts["store_id"] == "9"


async def test_past_the_deadline_is_indefinite_and_the_handler_ends(serve: Serve, channels: Channels) -> None:
    shapes = Shapes()
    endpoint = await serve(shapes)
    with pytest.raises(Timeout) as raised, typed_errors():
        await ask(channels.get(endpoint), "unary_unary_async", b"hang", timeout_s=0.3)
    assert not raised.value.definite
    await asyncio.wait_for(shapes.cancelled.wait(), 5)


async def test_a_call_that_the_peer_does_not_know(serve: Serve, channels: Channels) -> None:
    endpoint = await serve(Shapes())
    stub = nameserver_pb2_grpc.NameserverStub(channels.get(endpoint))
    with pytest.raises(Unimplemented) as raised:
        await call(stub.GetCluster, nameserver_pb2.GetClusterRequest(), 5)
    assert raised.value.definite


async def test_an_oversized_request_is_refused_before_it_is_sent(channels: Channels) -> None:
    stub = nameserver_pb2_grpc.NameserverStub(channels.get("127.0.0.1:1"))
    with pytest.raises(MessageTooLarge) as raised:
        await call(stub.Lookup, nameserver_pb2.LookupRequest(topic="x" * (8 << 20)), 5)
    assert raised.value.facts["bytes_max"] == str(8 << 20)


async def test_a_server_stops_although_handlers_failed(channels: Channels) -> None:
    shapes = Shapes(StoreTombstone("gone"))
    server = Server("127.0.0.1", 0)
    server.add(add_shapes, shapes, SERVICE)
    endpoint = f"127.0.0.1:{await server.start()}"
    for style in STYLES:
        await caught(channels, endpoint, style)
    await asyncio.wait_for(server.stop(30), 5)


def test_errors_inside_streams_round_trip() -> None:
    for kind in CLASSES:
        back = from_pb(to_wire(kind("text", a=1)))
        assert type(back) is kind
        assert (back.message, back.facts) == ("text", {"a": "1"})
    assert from_pb(common_pb2.Error()) is None
