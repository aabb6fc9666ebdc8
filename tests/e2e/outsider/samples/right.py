"""What a user writes, with the types that the package says: strict mypy has nothing to say about it."""

from __future__ import annotations

from typing import assert_type

import stele
import stele.sync
from stele import Message, SendResult, SteleError


async def both_ways(server: str | None) -> list[bytes]:
    received: list[bytes] = []
    async with stele.connect(server, timeout_s=5.0) as client:
        assert_type(client, stele.Client)
        created = await client.admin.create_topic("shop/orders", partitions=4)
        assert_type(created, stele.TopicInfo)
        async with client.producer("shop/orders") as producer:
            result = await producer.send(b"hello", key=b"k", headers={"a": b"b"})
            assert_type(result, SendResult)
            waiting = await producer.enqueue(b"hello")
            assert_type(await waiting, SendResult)
        async with client.consumer("shop/orders", "billing", type="exclusive", start="earliest") as consumer:
            async for message in consumer:
                assert_type(message, Message)
                assert_type(message.key, bytes | None)
                received.append(message.value)
                await consumer.ack(message)
                break
            assert_type(await consumer.receive(timeout_s=1.0), Message | None)
        async for event in client.admin.events():
            assert_type(event, stele.Event)
    return received


def blocking(server: str) -> SendResult:
    with stele.sync.connect(server) as client:
        assert_type(client.admin.list_topics(), list[stele.TopicInfo])
        with client.producer("shop/orders") as producer:
            later = producer.enqueue(b"hello")
            assert_type(later.result(), SendResult)
            return producer.send(b"hello")


def outcome(error: SteleError) -> str:
    match error:
        case stele.TopicNotFound() | stele.PartitionNotFound():
            return "make it first"
        case stele.Timeout() | stele.ConnectionBroken():
            assert_type(error.definite, bool)
            return "not known"
        case _:
            assert_type(error.facts, dict[str, str])
            return error.reason


version: str = stele.__version__
