"""Every public call of the client, and for each of its arguments what it is not meant for: what the tests of an abused client share."""

from __future__ import annotations

import array
import asyncio
import dataclasses
import gc
import inspect
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import stele
import stele.sync
from stele.model import Message, OrphanInfo, TopicInfo

WITHIN_S = 20.0
MESSAGE = Message("ns/t", 0, 0, None, b"", {}, 0)
ORPHAN = OrphanInfo(1, "dn1", 1, "ns/t", 1, 0, "orphan", 0)
ALTERED = TopicInfo("ns/t", 1, 1, 1, "ready", 0)

# --- wrong values, by what an argument is meant to be ------------------------------------------------------------------

HUGE = 1 << 100_000
STRANGE: list[Any] = [b"bytes", 1.5, [], {}, object(), HUGE]
NO_NUMBERS: list[Any] = ["1", b"1", [], object(), True, math.nan, HUGE, -HUGE]
OCTETS: list[Any] = [
    "text",
    1,
    [1],
    object(),
    array.array("d", [1.0]),
    memoryview(b"abcdef")[::2],
    memoryview(b"ab").cast("H"),
]
TOPIC: list[Any] = [None, "", "plain", "a/b/c", "a/\n", "a/" + "x" * 10_000, "a/\ud800", *STRANGE]
NAME: list[Any] = [None, "", "a/b", "\ud800", "x" * 10_000, *STRANGE]
NAMESPACE_FILTER: list[Any] = [None, "\ud800", *STRANGE]
WHOLE: list[Any] = [*NO_NUMBERS, 1.5, -1, 1 << 63]
NUMBER: list[Any] = [*NO_NUMBERS, -1, math.inf, -math.inf, 1e300]
FLAG: list[Any] = [None, 1, "yes", object()]
PLACE: list[Any] = ["soon", -1, 1 << 63, 1.5, True, [], object(), HUGE, b"latest"]
KIND: list[Any] = [None, "weird", 1, [], object()]
MESSAGES: list[Any] = [None, 1, "text", object()]
SERVERS: list[Any] = [
    "",
    "nowhere",
    "h:0",
    "h:" + "9" * 5_000,
    ":1",
    [],
    [1],
    1,
    object(),
    b"h:1",
    "a\0b:1",
    ["h:1"] * 101,
]

Wrong = dict[str, list[Any]]

SEND: Wrong = {
    "value": [None, *OCTETS],
    "key": OCTETS,
    "headers": [1, "text", [("a", b"b")], {"a": "b"}, {1: b"b"}, {"a": None}, {"\ud800": b"b"}],
    "partition": WHOLE,
}
SEEK: Wrong = {"to": [None, *PLACE], "timestamp_ms": [-1, *WHOLE], "partition": WHOLE}
RETENTION: Wrong = {"retention_bytes": WHOLE, "retention_ms": WHOLE}
PRODUCER: Wrong = {
    "topic": TOPIC,
    "linger_ms": NUMBER,
    "batch_bytes_max": [0, *WHOLE],
    "send_timeout_s": [0, *NUMBER],
    "buffer_bytes_max": [0, *WHOLE],
    "idempotent": FLAG,
}
CONSUMER: Wrong = {
    "topic": TOPIC,
    "subscription": NAME,
    "type": KIND,
    "start": [None, *PLACE],
    "credit": [0, *WHOLE],
    "ack_timeout_s": [0, *NUMBER],
    "name": [None, "\ud800", *STRANGE],
    "on_damage": KIND,
}

ROWS: dict[str, Wrong] = {
    "connect": {"servers": SERVERS, "timeout_s": [0, *NUMBER], "seed": ["1", 1.5, HUGE, object(), True]},
    "Client.producer": PRODUCER,
    "Client.consumer": CONSUMER,
    "Client.close": {},
    "Client.look_up": {"topic": TOPIC},
    "Client.nameserver_endpoints": {},
    "Client.check_open": {},
    "Producer.send": SEND,
    "Producer.enqueue": SEND,
    "Producer.send_nowait": SEND,
    "Producer.flush": {},
    "Producer.close": {},
    "Producer.abort": {},
    "Consumer.open": {"timeout_s": NUMBER},
    "Consumer.receive": {"timeout_s": NUMBER},
    "Consumer.ack": {"message": MESSAGES},
    "Consumer.ack_nowait": {"message": MESSAGES},
    "Consumer.ack_cumulative": {"message": MESSAGES},
    "Consumer.nack": {"message": MESSAGES, "delay_s": NUMBER},
    "Consumer.flush": {},
    "Consumer.seek": SEEK,
    "Consumer.close": {},
    "Admin.cluster": {},
    "Admin.list_nameservers": {},
    "Admin.list_brokers": {},
    "Admin.list_stores": {},
    "Admin.list_namespaces": {},
    "Admin.list_orphans": {},
    "Admin.list_trash": {},
    "Admin.remove_orphan": {
        "orphan": [*MESSAGES, dataclasses.replace(ORPHAN, group=-1), dataclasses.replace(ORPHAN, store_id=HUGE)]
    },
    "Admin.adopt_orphans": {"topic": TOPIC, "topic_id": WHOLE, "partitions": WHOLE},
    "Admin.decommission_store": {"store_id": [None, *WHOLE], "dry_run": FLAG},
    "Admin.recommission_store": {"store_id": [None, *WHOLE]},
    "Admin.cordon_store": {"store_id": [None, *WHOLE], "cordoned": FLAG},
    "Admin.decommissioning": {"store_id": [None, *WHOLE], "timeout_s": [None, *NUMBER]},
    "Admin.explain_partition": {"group": [None, *WHOLE]},
    "Admin.rebalance": {"dry_run": FLAG},
    "Admin.rebalancing": {"timeout_s": [None, *NUMBER]},
    "Admin.remove_tombstones": {"store_ids": [1, "1", (), [0], ["1"], [HUGE], [None]]},
    "Admin.move_partition": {"group": [None, *WHOLE], "from_store": [None, *WHOLE], "to_store": [None, *WHOLE]},
    "Admin.transfer_leader": {"group": [None, *WHOLE], "to_store": [None, *WHOLE]},
    "Admin.list_bundles": {"namespace": NAMESPACE_FILTER},
    "Admin.move_bundle": {"bundle": NAMESPACE_FILTER, "broker": NAME},
    "Admin.split_bundle": {"bundle": NAMESPACE_FILTER},
    "Admin.drain_broker": {"broker": NAME},
    "Admin.undrain_broker": {"broker": NAME},
    "Admin.draining": {"broker": NAME, "timeout_s": [None, *NUMBER]},
    "Admin.unload_broker": {"broker": NAME, "bundles": [1, "ns/x", (), [], [1], [None], ["\ud800"]]},
    "Admin.safe_to_stop": {"name": NAME},
    "Admin.until_safe_to_stop": {"name": NAME, "timeout_s": [None, *NUMBER]},
    "Admin.list_operations": {},
    "Admin.cancel_operation": {"operation": NAMESPACE_FILTER},
    "Admin.recover_metadata": {},
    "Admin.finalize_upgrade": {"dry_run": FLAG},
    "Admin.events": {"follow": FLAG, "since_ms": WHOLE},
    "Admin.explain": {"what": [None, "", "a/b/c", "a/b/c/0", "a b", "\ud800", "x" * 10_000, *STRANGE], "at_ms": WHOLE},
    "Admin.alter_namespace": {
        "namespace": NAME,
        "replication": [None, *WHOLE],
        **RETENTION,
    },
    "Admin.delete_namespace": {"namespace": NAME},
    "Admin.create_namespace": {
        "namespace": NAME,
        "bundles": WHOLE,
        "replication": WHOLE,
        "if_absent": FLAG,
        **RETENTION,
    },
    "Admin.create_topic": {
        "topic": TOPIC,
        "partitions": [0, 1 << 40, *WHOLE],
        "replication": [1 << 40, *WHOLE],
        "if_absent": FLAG,
        "racks": NAMESPACE_FILTER,
        **RETENTION,
    },
    "Admin.alter_topic": {
        "topic": TOPIC,
        "partitions": [None, 1 << 40, *WHOLE],
        "replication": [None, 1 << 40, *WHOLE],
        "topic_id": [None, *WHOLE],
        **RETENTION,
    },
    "Admin.altering": {
        "altered": [None, "ns/t", 1],
        "timeout_s": [None, *NUMBER],
    },
    "Admin.delete_topic": {"topic": TOPIC},
    "Admin.list_topics": {"namespace": NAMESPACE_FILTER, "limit": [0, *WHOLE], "after": NAMESPACE_FILTER},
    "Admin.describe_topic": {"topic": TOPIC},
    "Admin.lookup": {"topic": TOPIC},
    "Admin.list_partitions": {
        "topic": [topic for topic in TOPIC if topic != ""],
        "limit": [0, *WHOLE],
        "after": ["a", "a/b", "a/b/c", "a/1", "a/b/-1", "a/b/" + "9" * 5_000, *NAMESPACE_FILTER],
    },
    "Admin.list_subscriptions": {"topic": TOPIC},
    "Admin.create_subscription": {"topic": TOPIC, "subscription": NAME, "start": [None, *PLACE]},
    "Admin.delete_subscription": {"topic": TOPIC, "subscription": NAME},
    "Admin.seek_subscription": {"topic": TOPIC, "subscription": NAME, **SEEK},
}
GOOD: dict[str, Any] = {
    "topic": "ns/t",
    "subscription": "s",
    "namespace": "ns",
    "servers": "127.0.0.1:1",
    "value": b"x",
    "message": MESSAGE,
    "orphan": ORPHAN,
    "altered": ALTERED,
    "store_id": 1,
    "group": 1,
    "from_store": 1,
    "to_store": 2,
    "operation": "move-1",
    "bundle": "ns/00000000-0fffffff",
    "broker": "br1",
    "name": "br1",
    "what": "ns/t",
    "timeout_s": 0.5,
    "to": "earliest",
}
CLASSES = ("Client", "Producer", "Consumer", "Admin")


def public_calls(module: Any) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {"connect": module.connect}
    for kind in CLASSES:
        for name, call in inspect.getmembers(getattr(module, kind), inspect.isfunction):
            if not name.startswith("_"):
                found[f"{kind}.{name}"] = call
    return found


ROWLESS: dict[str, set[str]] = {
    "stele": set(),
    # What only the asynchronous client has, each for a reason: parts for other parts, and ``abort``, which is what leaving a block is.
    "stele.sync": {"Client.look_up", "Client.nameserver_endpoints", "Client.check_open", "Producer.abort"},
}


AWAITED = sorted(name for name in ROWS if name not in ("connect", "Client.nameserver_endpoints", "Client.check_open"))


@pytest.fixture
async def complaints() -> AsyncIterator[None]:
    """Nothing that the event loop or the garbage collector complains of."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    gc.freeze()  # what was there before the test need not be looked at
    try:
        yield
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
    finally:
        gc.unfreeze()
    assert found == []


class Made:
    """One client with one of everything; nothing of it has been opened."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.of = {
            "Client": client,
            "Producer": client.producer("ns/t", send_timeout_s=0.5),
            "Consumer": client.consumer("ns/t", "s", type="exclusive"),
            "Admin": client.admin,
        }

    def call(self, what: str, /, **given: Any) -> Any:
        kind, _, method = what.partition(".")
        if not method:
            return stele.connect(**{"servers": GOOD["servers"], **given})
        bound = getattr(self.of[kind], method)
        parameters = inspect.signature(bound).parameters.items()
        needed = {p for p, v in parameters if v.default is v.empty and v.kind is not v.VAR_KEYWORD}
        if what in ("Consumer.seek", "Admin.seek_subscription") and "timestamp_ms" not in given:
            needed |= {"to"}
        return bound(**{**{p: GOOD[p] for p in needed}, **given})


def is_awaited(name: str) -> bool:
    """Whether a call gives something to wait for."""
    kind, _, method = name.partition(".")
    call = getattr(getattr(stele, kind), method)
    return inspect.iscoroutinefunction(call) or "Coroutine" in str(inspect.signature(call).return_annotation)


async def ended(result: Any) -> Any:
    """What a call comes to, however it is awaited."""
    if inspect.isasyncgen(result):
        return [item async for item in result]
    return await result if inspect.isawaitable(result) else result
