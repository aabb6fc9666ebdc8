"""The client as a user abuses it: every public call, found by looking, with what no call is meant for.

A new public call without a row here, or a new argument of one, fails the first test.  Wrong arguments are refused at once, by name; a
server that refuses or is silent, a cancellation, a close, a fork or a second task end in an error of the tree, in time, and leave nothing
for the event loop or the garbage collector to complain about.
"""

from __future__ import annotations

import array
import asyncio
import dataclasses
import gc
import inspect
import math
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import stele
import stele.sync
from stele.model import Message, OrphanInfo

WITHIN_S = 20.0
MESSAGE = Message("ns/t", 0, 0, None, b"", {}, 0)
ORPHAN = OrphanInfo(1, "dn1", 1, "ns/t", 1, 0, "orphan", 0)

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
    "Admin.remove_orphan": {
        "orphan": [*MESSAGES, dataclasses.replace(ORPHAN, group=-1), dataclasses.replace(ORPHAN, store_id=HUGE)]
    },
    "Admin.recover_metadata": {},
    "Admin.events": {"follow": FLAG, "since_ms": WHOLE},
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
        **RETENTION,
    },
    "Admin.alter_topic": {"topic": TOPIC, **RETENTION},
    "Admin.delete_topic": {"topic": TOPIC},
    "Admin.list_topics": {"namespace": NAMESPACE_FILTER},
    "Admin.describe_topic": {"topic": TOPIC},
    "Admin.lookup": {"topic": TOPIC},
    "Admin.list_partitions": {"topic": [topic for topic in TOPIC if topic != ""]},
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


@pytest.mark.parametrize("module", [stele, stele.sync])
def test_every_public_call_and_each_of_its_arguments_has_a_row(module: Any) -> None:
    found = public_calls(module)
    assert set(found) | ROWLESS[module.__name__] == set(ROWS)
    for name, call in found.items():
        parameters = inspect.signature(call).parameters.values()
        taken = {p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            assert taken == set(ROWS[name]), name
        else:
            assert taken <= set(ROWS[name]), name


# --- what the calls are made on ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are the same, and seconds are shorter."""
    for name in (
        "stele.admin.READ_TIMEOUT_S",
        "stele.admin.WRITE_TIMEOUT_S",
        "stele.admin.CONNECT_TIMEOUT_S",
        "stele.routing.LOOKUP_TIMEOUT_S",
        "stele.client.LOOKUP_TIMEOUT_S",
        "stele.consumer.SEEK_TIMEOUT_S",
        "stele.consumer.ACK_CONFIRM_TIMEOUT_S",
        "stele.consumer.CLOSE_TIMEOUT_S",
        "stele.services.rpc.nameservers.READ_ATTEMPT_S",
    ):
        monkeypatch.setattr(name, 0.5)
    monkeypatch.setattr(stele.Consumer.open, "__defaults__", (0.5,))


@pytest.fixture
async def complaints() -> AsyncIterator[None]:
    """Nothing that the event loop or the garbage collector complains of."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    assert found == []


@pytest.fixture(params=["refuses", "is silent"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nobody listens, or where somebody accepts and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            listening.listen(128)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class Made:
    """One client with one of everything; nothing of it has been opened."""

    def __init__(self, client: stele.Client) -> None:
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
        needed = {p for p, v in inspect.signature(bound).parameters.items() if v.default is v.empty}
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


CASES = [(name, argument) for name, wrong in ROWS.items() for argument in wrong]


@pytest.mark.parametrize(("name", "argument"), CASES, ids=[f"{n}-{a}" for n, a in CASES])
async def test_a_wrong_argument_is_refused_at_once_and_by_name(complaints: None, name: str, argument: str) -> None:
    made = Made(stele.connect("127.0.0.1:1"))
    neighbour = asyncio.ensure_future(made.of["Producer"].send(b"neighbour"))
    for wrong in ROWS[name][argument]:
        if wrong is None and argument in ("to", "timestamp_ms"):
            continue  # it is the other one that is given then
        if argument == "delay_s" and wrong in (0,):
            continue
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(stele.InvalidArgument) as refused:
                await ended(made.call(name, **{argument: wrong}))
        said = str(refused.value)
        aliases = {"to": "place", "start": "place", "servers": "servers", "type": "type"}
        assert aliases.get(argument, argument.partition("_")[0]) in said.replace("namespace/topic", ""), said
        assert len(said) < 400
        assert "\n" not in said
        assert refused.value.definite
    assert not neighbour.done() or not isinstance(neighbour.exception(), stele.InternalError)
    await made.client.close()
    with pytest.raises(stele.SteleError):
        await neighbour


AWAITED = sorted(name for name in ROWS if name not in ("connect", "Client.nameserver_endpoints", "Client.check_open"))


async def test_against_a_server_that_says_nothing_every_call_ends_in_its_time(complaints: None, server: str) -> None:
    async def one(name: str) -> object:
        made = Made(stele.connect(server, timeout_s=0.5))
        given = {"timeout_s": 0.5} if name in ("Consumer.open", "Consumer.receive") else {}
        try:
            return await ended(made.call(name, **given))
        except stele.SteleError as e:
            return e
        finally:
            await made.client.close()

    async with asyncio.timeout(WITHIN_S):
        outcomes = dict(zip(AWAITED, await asyncio.gather(*(one(name) for name in AWAITED)), strict=True))
    harmless = {name for name, outcome in outcomes.items() if not isinstance(outcome, stele.SteleError)}
    assert harmless == {
        "Client.close",
        "Client.consumer",
        "Client.producer",
        "Producer.flush",
        "Producer.close",
        "Producer.abort",
        "Producer.enqueue",
        "Consumer.receive",
        "Consumer.flush",
        "Consumer.close",
    }
    with pytest.raises(stele.Unreachable):
        async with stele.connect(server, timeout_s=0.5):
            pass


async def test_a_call_may_be_cancelled_at_any_await(complaints: None, server: str) -> None:
    async def one(name: str, steps: int) -> None:
        made = Made(stele.connect(server, timeout_s=0.5))

        async def work() -> object:
            return await ended(made.call(name))

        task = asyncio.ensure_future(work())
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 5 else 0.02)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert not isinstance(outcome, Exception) or isinstance(outcome, stele.SteleError), (name, steps, outcome)
        await made.of["Producer"].close()
        await made.client.close()

    names = [name for name in AWAITED if is_awaited(name)]
    async with asyncio.timeout(3 * WITHIN_S):
        for steps in (0, 1, 2, 3, 4, 6):
            await asyncio.gather(*(one(name, steps) for name in names))


AFTER_CLOSE_DONE = {
    "Client.close",
    "Client.nameserver_endpoints",
    "Producer.flush",
    "Producer.close",
    "Producer.abort",
    "Consumer.close",
    "Consumer.flush",
}


async def test_after_a_close_every_call_says_so_at_once(complaints: None) -> None:
    made = Made(stele.connect("127.0.0.1:1"))
    await made.client.close()
    for name in ROWS:
        if name == "connect":
            continue
        async with asyncio.timeout(WITHIN_S):
            if name in AFTER_CLOSE_DONE:
                await ended(made.call(name))
                continue
            with pytest.raises(stele.ClientClosed):
                await ended(made.call(name))


async def test_two_tasks_may_do_the_same_at_once(complaints: None, server: str) -> None:
    async def one(name: str) -> None:
        made = Made(stele.connect(server, timeout_s=0.5))
        given = {"timeout_s": 0.3} if name in ("Consumer.open", "Consumer.receive") else {}

        async def once() -> object:
            return await ended(made.call(name, **given))

        outcomes = await asyncio.gather(once(), once(), return_exceptions=True)
        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(outcome, stele.SteleError), (name, outcome)
        await asyncio.gather(made.client.close(), made.client.close())

    async with asyncio.timeout(2 * WITHIN_S):
        await asyncio.gather(*(one(name) for name in AWAITED if name not in ("Client.producer", "Client.consumer")))


# --- without asyncio -----------------------------------------------------------------------------------------------------


def test_the_same_without_asyncio() -> None:
    client = stele.sync.connect("127.0.0.1:1", timeout_s=0.3)
    try:
        for wrong in (None, "text", [1], memoryview(b"abcd").cast("H")):
            with pytest.raises(stele.InvalidArgument, match="value"):
                client.producer("ns/t").send(wrong)
        with pytest.raises(stele.InvalidArgument, match="partitions"):
            client.admin.create_topic("ns/t", partitions=1 << 40)
        with pytest.raises(stele.InvalidArgument, match="credit"):
            client.consumer("ns/t", "s", credit="1")
        with pytest.raises(stele.SteleError):
            client.admin.list_topics()
    finally:
        client.close()
    for call in (client.admin.list_topics, lambda: client.producer("ns/t"), client.admin.cluster):
        with pytest.raises(stele.ClientClosed):
            call()
    client.close()


def test_a_fork_is_told_that_the_client_is_its_parents() -> None:
    client = stele.sync.connect("127.0.0.1:1", timeout_s=0.3)
    producer = client.producer("ns/t")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing of the test runner may run here
        try:
            said = []
            for call in (
                client.admin.list_topics,
                lambda: producer.send(b"x"),
                lambda: client.producer("ns/t"),
                producer.flush,
            ):
                try:
                    call()
                    said.append("nothing")
                except stele.ClientClosed as e:
                    said.append("closed" if "forked" in str(e) else str(e))
                except BaseException as e:
                    said.append(repr(e))
            os.write(write, ",".join(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    watchdog = threading.Timer(WITHIN_S, os.kill, (pid, 9))
    watchdog.start()
    with open(read, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(pid, 0)
    watchdog.cancel()
    assert said == "closed,closed,closed,closed"
    with pytest.raises(stele.SteleError) as refused:
        client.admin.list_topics()  # the parent's is as it was
    assert not isinstance(refused.value, stele.ClientClosed)
    client.close()
