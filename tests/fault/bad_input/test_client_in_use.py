"""The client as a user abuses it, on a real cluster: every public call while servers restart, while clocks jump, cancelled at each of its
awaits, and from two tasks at once.

Each call ends in its time, with an answer or an error of the tree; what is used beside it goes on; nothing is left for the event loop
to complain about.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import pytest

import stele
from stele.model import Message
from tests.support.abuse import AWAITED, Made, complaints, ended, is_awaited
from tests.support.cluster import ClusterUnderTest, cluster_fixture

__all__ = ["complaints"]

running_cluster = cluster_fixture(nameservers=1, datanodes=1, brokers=1)

BOUND_S = 30.0 + 5.0  # the longest bound of any call, and a margin
STEPS_MAX = 400
HOUR_S = 3600.0
_number = itertools.count()

NAMES = [name for name in AWAITED if is_awaited(name) or name == "Admin.events"]
# What a call is given so that it does its work, and hurts none of the others.
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "Admin.create_namespace": lambda: {"namespace": f"made-{next(_number)}"},
    "Admin.create_topic": lambda: {"topic": f"ns/made-{next(_number)}", "replication": 1},
    "Admin.delete_topic": lambda: {"topic": "ns/gone"},
    "Admin.delete_subscription": lambda: {"subscription": "gone"},
    "Admin.seek_subscription": lambda: {"subscription": "sought"},
    "Admin.create_subscription": lambda: {"subscription": f"made-{next(_number)}"},
    # It holds one already, which is refused at once: a store that is not there is waited for, and 400 such waits are too many.
    "Admin.move_partition": lambda: {"to_store": 1},
    "Admin.transfer_leader": lambda: {"to_store": 1},
    "Admin.cordon_store": lambda: {"cordoned": False},
    "Admin.split_bundle": lambda: {"bundle": "ns/f0000000-ffffffff"},  # not the one that is moved
    "Consumer.receive": lambda: {"timeout_s": 1.0},
    "Consumer.open": lambda: {"timeout_s": 20.0},
}
# There is one store and no spare one, one broker and no spare one, no operation, no orphan, and a topic in the namespace.
REFUSED = {
    f"Admin.{name}"
    for name in (
        "remove_orphan",
        "adopt_orphans",
        "decommission_store",
        "move_partition",
        "cancel_operation",
        "delete_namespace",
        "drain_broker",
        "unload_broker",
    )
}


class Neighbour:
    """A producer and a consumer of the same client, which nobody abuses: what it sends, it receives."""

    def __init__(self, client: stele.Client) -> None:
        self._producer = client.producer("ns/neighbour")
        self._consumer = client.consumer("ns/neighbour", f"s{next(_number)}", start="latest")

    async def open(self) -> Neighbour:
        await self._consumer.open()
        return self

    async def check(self) -> None:
        value = b"%d" % next(_number)
        async with asyncio.timeout(BOUND_S):
            await self._producer.send(value)
            while True:
                message = await self._consumer.receive()
                assert message is not None
                await self._consumer.ack(message)
                if message.value == value:
                    return


@pytest.fixture
async def client(cluster: ClusterUnderTest, complaints: None) -> AsyncIterator[stele.Client]:
    async with cluster.connect() as connected:
        for topic in ("ns/t", "ns/neighbour"):
            await connected.admin.create_topic(topic, replication=1, if_absent=True)
        for subscription in ("s", "sought"):
            await connected.admin.create_subscription("ns/t", subscription)
        yield connected


async def made_on(client: stele.Client, name: str) -> Made:
    """Everything anew; what the call is about is there, opened where it matters."""
    made = Made(client)
    made.of["Consumer"] = client.consumer("ns/t", f"own-{next(_number)}", type="exclusive")
    made.of["Producer"] = client.producer("ns/t")
    if name == "Admin.delete_topic":
        await client.admin.create_topic("ns/gone", replication=1, if_absent=True)
    elif name == "Admin.delete_subscription":
        await client.admin.create_subscription("ns/t", "gone")
    return made


async def given_to(made: Made, name: str) -> dict[str, Any]:
    given = GIVEN.get(name, dict)()
    if name in ("Consumer.ack", "Consumer.ack_cumulative", "Consumer.flush"):
        await made.of["Producer"].send(b"to be acknowledged")
        message = await made.of["Consumer"].receive(20.0)
        assert message is not None
        if name == "Consumer.flush":
            made.of["Consumer"].ack_nowait(message)
        else:
            given["message"] = message
    return given


async def closed(made: Made) -> None:
    async with asyncio.timeout(BOUND_S):
        await made.of["Producer"].close()
        await made.of["Consumer"].close()


async def outcome(name: str, work: Awaitable[Any]) -> object:
    """In its time, an answer or an error of the tree."""
    async with asyncio.timeout(BOUND_S):
        [result] = await asyncio.gather(work, return_exceptions=True)
    assert not isinstance(result, stele.InternalError), (name, result)
    assert isinstance(result, stele.SteleError) or not isinstance(result, BaseException), (name, result)
    return result


# --- servers that restart -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", ["ns1", "br1", "dn1"])
async def test_while_a_server_restarts_every_call_ends_in_its_time(
    cluster: ClusterUnderTest, client: stele.Client, restarted: str
) -> None:
    neighbour = await Neighbour(client).open()
    await neighbour.check()
    names = [name for name in NAMES if name not in ("Client.close", "Admin.recover_metadata")]
    mades = {name: await made_on(client, name) for name in names}
    given = {name: await given_to(made, name) for name, made in mades.items()}
    again = asyncio.Event()

    async def repeated(name: str) -> set[str]:
        """From before the process dies until it has come back, one after the other."""
        seen: set[str] = set()
        while True:
            last = again.is_set()
            result = await outcome(name, ended(mades[name].call(name, **given[name])))
            seen.add(result.reason if isinstance(result, stele.SteleError) else "")
            if last:
                return seen
            await asyncio.sleep(0.05)

    calling = [asyncio.ensure_future(repeated(name)) for name in names]
    await cluster.kill(restarted)
    await cluster.start(restarted)
    again.set()
    async with asyncio.timeout(4 * BOUND_S):
        seen = dict(zip(names, await asyncio.gather(*calling), strict=True))
    if restarted == "ns1":
        assert "" in seen["Admin.cluster"], "it works again"
    await neighbour.check()
    for made in mades.values():
        await closed(made)


# --- cancelled at every await -------------------------------------------------------------------------------------------


class CancelledAt:
    """Awaits ``work``; the ``step``-th time that it waits for something its task is cancelled.  ``steps``: how often it waited."""

    def __init__(self, work: Any, step: int) -> None:
        self._work, self._step = work, step
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        throw: BaseException | None = None
        while True:
            try:
                waited_for = inner.send(None) if throw is None else inner.throw(throw)
            except StopIteration as done:
                return done.value
            throw = None
            self.steps += 1
            if self.steps == self._step:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waited_for
            except BaseException as e:
                throw = e


@pytest.mark.parametrize("name", NAMES)
async def test_a_call_may_be_cancelled_at_each_of_its_awaits(
    cluster: ClusterUnderTest, client: stele.Client, name: str
) -> None:
    neighbour = await Neighbour(client).open()
    for step in range(1, STEPS_MAX):
        own = cluster.connect() if name == "Client.close" else client
        if own is not client:
            await own.__aenter__()
        made = await made_on(own, name)
        given = await given_to(made, name)
        walk = CancelledAt(_result(made, name, given), step)

        async def work(walk: CancelledAt = walk) -> object:
            return await walk

        task = asyncio.create_task(work())
        async with asyncio.timeout(BOUND_S):
            [result] = await asyncio.gather(task, return_exceptions=True)
        is_documented = isinstance(result, stele.SteleError) and not isinstance(result, stele.InternalError)
        cancelled = isinstance(result, asyncio.CancelledError)
        assert cancelled or is_documented or not isinstance(result, BaseException), (name, step, result)
        if own is client:
            await closed(made)
        else:
            await own.close()
        if walk.steps < step:
            break  # done before it would have been cancelled
    else:
        raise AssertionError(f"{name} waits for ever")
    await neighbour.check()


async def _result(made: Made, name: str, given: dict[str, Any]) -> Any:
    return await ended(made.call(name, **given))


# --- clocks that jump ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-40 * 365 * 86_400.0, -HOUR_S, HOUR_S, 7_000 * 365 * 86_400.0])
async def test_whatever_the_wall_clock_does_every_call_does_its_work(
    client: stele.Client, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """It jumps to and fro at every reading."""
    jumps, true_ns = itertools.cycle([0.0, jump_s]), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + int(next(jumps) * 1e9))
    neighbour = await Neighbour(client).open()
    for name in (n for n in NAMES if n != "Client.close"):
        made = await made_on(client, name)
        result = await outcome(name, _result(made, name, await given_to(made, name)))
        assert isinstance(result, stele.SteleError) is (name in REFUSED), (name, result)
        await closed(made)
    await neighbour.check()


@pytest.mark.parametrize("jump_s", [30.0, HOUR_S, 365 * 86_400.0])
async def test_when_the_time_for_waiting_jumps_every_call_ends_and_the_next_one_works(
    client: stele.Client, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """As after a machine was asleep: every deadline may have passed, nothing else is lost.  (This clock goes back on no system.)"""
    loop = asyncio.get_running_loop()
    true_time, ahead = loop.time, 0.0
    neighbour = await Neighbour(client).open()
    monkeypatch.setattr(loop, "time", lambda: true_time() + ahead)
    for name in (n for n in NAMES if n != "Client.close"):
        made = await made_on(client, name)
        work = asyncio.ensure_future(_result(made, name, await given_to(made, name)))
        await asyncio.sleep(0)
        ahead += jump_s
        started_s = time.monotonic()
        [result] = await asyncio.gather(work, return_exceptions=True)
        assert not isinstance(result, stele.InternalError), (name, result)
        assert isinstance(result, stele.SteleError) or not isinstance(result, BaseException), (name, result)
        assert time.monotonic() - started_s < BOUND_S, name
        await made.of["Producer"].close()
        await made.of["Consumer"].close()
    await neighbour.check()


# --- two at once, and after a close -------------------------------------------------------------------------------------


async def test_two_tasks_do_the_same_at_once_on_what_is_open(client: stele.Client, cluster: ClusterUnderTest) -> None:
    neighbour = await Neighbour(client).open()
    for name in NAMES:
        own = cluster.connect() if name == "Client.close" else client
        if own is not client:
            await own.__aenter__()
        made = await made_on(own, name)
        given = await given_to(made, name)
        both = [outcome(name, _result(made, name, given)) for _ in range(2)]
        await asyncio.gather(*both)
        if own is client:
            await closed(made)
    await neighbour.check()


async def test_after_a_close_of_what_was_in_use_every_call_says_so_at_once(
    cluster: ClusterUnderTest, complaints: None
) -> None:
    async with cluster.connect() as own:
        await own.admin.create_topic("ns/t", replication=1, if_absent=True)
        made = await made_on(own, "")
        await made.of["Producer"].send(b"x")
        received: Message | None = await made.of["Consumer"].receive(20.0)
        assert received is not None
    quiet = {"Client.close", "Producer.flush", "Producer.close", "Producer.abort", "Consumer.close", "Consumer.flush"}
    for name in NAMES:
        result = await outcome(name, _result(made, name, {"message": received} if "ack" in name else {}))
        assert isinstance(result, stele.ClientClosed) is (name not in quiet), (name, result)
