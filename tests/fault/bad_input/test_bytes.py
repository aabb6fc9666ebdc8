"""Bytes that are no calls, on the ports of a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import grpc

import stele
from stele.services.errors import InvalidArgument
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.status import typed_errors
from tests.support.bad_input import MESSAGES, refused
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)

SEED = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def noises() -> list[bytes]:
    rng = random.Random(SEED)
    return [
        b"",
        b"\0" * 4096,
        rng.randbytes(64),
        rng.randbytes(1 << 20),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(512),  # as a TLS client begins
        PREFACE + rng.randbytes(8192),
        PREFACE + SETTINGS + b"\xff\xff\xff" + rng.randbytes(4096),  # a frame of 16 MiB
        PREFACE + SETTINGS + b"\0\0\x05\x01\x05\0\0\0\x01" + rng.randbytes(5),  # headers that are none
        b"ruok",
    ]


async def test_noise_on_every_port(cluster: ClusterUnderTest, client: stele.Client, ledger: Ledger) -> None:
    stores = await client.admin.list_stores()
    raft = [s.member.raft_endpoint for s in stores if s.member is not None]
    ports = [e for p in cluster.local.status() if p.role != "zookeeper" for e in (p.endpoint, p.admin)] + raft
    assert len(ports) == 13

    async def pour(endpoint: str, noise: bytes) -> None:
        host, _, port = endpoint.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(noise)
            await asyncio.wait_for(writer.drain(), 2)
            await asyncio.wait_for(reader.read(4096), 0.2)
        writer.close()

    for noise in noises():
        await asyncio.gather(*(pour(endpoint, noise) for endpoint in ports))

    mute = [await asyncio.open_connection(*e.rsplit(":", 1)) for e in ports for _ in range(20)]
    try:
        await ledger.must_send(MESSAGES)
    finally:
        for _, writer in mute:
            writer.close()

    async def well() -> bool:
        return all(p.healthy for p in await asyncio.to_thread(cluster.local.status))

    await eventually(well, within_s=10, describe=cluster.describe)


async def test_calls_that_are_no_messages(
    cluster: ClusterUnderTest, client: stele.Client, ledger: Ledger, channels: Channels
) -> None:
    """The right path, and bytes that do not parse."""
    stores = [s.member for s in await client.admin.list_stores()]
    [broker] = await client.admin.list_brokers()
    assert broker.member is not None
    assert stores[0] is not None
    noise = b"\xff" * 64
    for endpoint, method in (
        (cluster.bootstrap, "/stele.v1.Nameserver/Lookup"),
        (cluster.bootstrap, "/stele.v1.Nameserver/CreateTopic"),
        (broker.member.endpoint, "/stele.v1.Broker/SeekSubscription"),
        (stores[0].endpoint, "/stele.v1.Datanode/CreateReplica"),
    ):
        await refused(call(_Bytes(channels.get(endpoint).unary_unary(method)), _Noise(noise), 10), InvalidArgument)
    for endpoint, method in (
        (broker.member.endpoint, "/stele.v1.Broker/Produce"),
        (broker.member.endpoint, "/stele.v1.Broker/Subscribe"),
        (stores[0].endpoint, "/stele.v1.Datanode/Append"),
        (stores[0].endpoint, "/stele.v1.Datanode/Fetch"),
        (stores[0].raft_endpoint, "/stele.v1.Raft/Exchange"),
    ):
        speaking = channels.get(endpoint).stream_stream(method)()
        await speaking.write(noise)
        await refused(_to_end(speaking), InvalidArgument)


async def _to_end(speaking: Any) -> None:
    async with asyncio.timeout(10):
        with typed_errors():
            while await speaking.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass


class _Noise(bytes):
    def ByteSize(self) -> int:
        return len(self)


class _Bytes:
    """A call that sends bytes as they are."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def __call__(self, request: bytes, timeout: float, metadata: Any = None) -> Any:
        return self._method(bytes(request), timeout=timeout, metadata=metadata)
