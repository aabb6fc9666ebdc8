"""The client as a user abuses it: every public call, found by looking, with what no call is meant for.

A new public call without a row here, or a new argument of one, fails the first test.  Wrong arguments are refused at once, by name; a
server that refuses or is silent, a cancellation, a close, a fork or a second task end in an error of the tree, in time, and leave nothing
for the event loop or the garbage collector to complain about.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import stele
import stele.sync
from tests.support.abuse import (
    AWAITED,
    CLASSES,
    ROWLESS,
    ROWS,
    WITHIN_S,
    Made,
    complaints,
    ended,
    is_awaited,
    public_calls,
)

__all__ = ["complaints"]


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


def test_whatever_else_is_public_cannot_be_called() -> None:
    """But for errors and facts: what is public and can be called has a row, or a class whose calls have."""
    for module in (stele, stele.sync):
        for name in set(module.__all__) - {*CLASSES, "connect"}:
            value = getattr(module, name)
            is_error = isinstance(value, type) and issubclass(value, stele.SteleError)
            assert is_error or dataclasses.is_dataclass(value) or not callable(value), name
            own = vars(value) if dataclasses.is_dataclass(value) else {}
            assert not [n for n, v in own.items() if inspect.isfunction(v) and not n.startswith("_")], name


# --- what the calls are made on ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are the same, and seconds are shorter."""
    for name in (
        "stele.admin.READ_TIMEOUT_S",
        "stele.admin.WRITE_TIMEOUT_S",
        "stele.admin.CONNECT_TIMEOUT_S",
        "stele.operations.READ_TIMEOUT_S",
        "stele.operations.WRITE_TIMEOUT_S",
        "stele.routing.LOOKUP_TIMEOUT_S",
        "stele.client.LOOKUP_TIMEOUT_S",
        "stele.consumer.SEEK_TIMEOUT_S",
        "stele.consumer.ACK_CONFIRM_TIMEOUT_S",
        "stele.consumer.CLOSE_TIMEOUT_S",
        "stele.services.rpc.nameservers.READ_ATTEMPT_S",
    ):
        monkeypatch.setattr(name, 0.5)
    monkeypatch.setattr(stele.Consumer.open, "__defaults__", (0.5,))


@pytest.fixture(params=["refuses", "is silent"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nobody listens, or where somebody accepts and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            listening.listen(128)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


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


async def test_against_a_server_that_says_nothing_every_call_ends_in_its_time(complaints: None, server: str) -> None:
    async def one(name: str) -> object:
        made = Made(stele.connect(server, timeout_s=0.5))
        # A receive opens the consumer first: where its own time is over before the opening's, nothing has come.
        given = {"Consumer.open": {"timeout_s": 0.5}, "Consumer.receive": {"timeout_s": 0.2}}.get(name, {})
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


FORKED_DONE = {  # without using anything of the parent's
    "stele": {"Client.nameserver_endpoints"},
    "stele.sync": {"Client.close"},
}


@pytest.mark.parametrize("module", [stele, stele.sync], ids=lambda m: m.__name__)
def test_across_a_fork_every_call_of_every_object_is_told_that_it_is_the_parents(module: Any) -> None:
    """At once, and the parent's goes on as it was."""
    is_sync = module is stele.sync
    client = module.connect("127.0.0.1:1", timeout_s=0.3)

    async def made_here() -> Made:
        return Made(client)

    made = Made(client) if is_sync else asyncio.run(made_here())

    def said_of(name: str) -> str:
        async def work() -> object:
            return await ended(made.call(name))

        try:
            if is_sync:
                result = made.call(name)
                if inspect.isgenerator(result):
                    list(result)
            else:
                asyncio.run(work())
        except stele.ClientClosed as e:
            return "forked" if "forked" in str(e) else str(e)
        except BaseException as e:
            return repr(e)
        return "nothing"

    names = [name for name in ROWS if name not in ROWLESS[module.__name__] | {"connect"}]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing of the test runner may run here
        try:
            os.write(write, json.dumps({name: said_of(name) for name in names}).encode())
        finally:
            os._exit(0)
    os.close(write)
    watchdog = threading.Timer(WITHIN_S, os.kill, (pid, 9))
    watchdog.start()
    with open(read, "rb") as answer:
        said = json.loads(answer.read() or b"{}")
    os.waitpid(pid, 0)
    watchdog.cancel()
    assert {n: s for n, s in said.items() if s != "forked"} == dict.fromkeys(FORKED_DONE[module.__name__], "nothing")
    assert set(said) == set(names)
    if is_sync:
        with pytest.raises(stele.SteleError) as refused:
            client.admin.list_topics()
        assert not isinstance(refused.value, stele.ClientClosed)
        client.close()
    else:
        asyncio.run(client.close())
