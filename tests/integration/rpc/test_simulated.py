"""The simulated gRPC of tests/simulation/cluster against gRPC itself: the same scenario comes to the same at both sides."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest

from stele.services.ports import free_port
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from tests.integration.rpc.scripted import WAIT_S, Scenario, Stage, given_up, no_progress, outcome, real, simulated

# --- scenarios ----------------------------------------------------------------------------------------------------------


async def answers_in_all_ways(stage: Stage) -> None:
    await stage.serve()
    for request in (b"hello", b"leader", b"plain", b"abort", b"big:100000"):
        await stage.see("once", stage.once(request, timeout=30))
    call = stage.generate(3, timeout=30)
    for _ in range(6):
        await stage.see("generated", call.read())
    await stage.code_of(call)
    await stage.see("unknown", stage.channel.unary_unary("/stele.test.Script/nothing")(b"", timeout=30))
    await stage.see("unknown", stage.channel.unary_unary("/stele.test.Nobody/nothing")(b"", timeout=30))


async def metadata_goes_both_ways(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk(metadata=(("asked", "yes"),))
    await call.write(b"metadata")
    stage.seen.append(dict(await call.initial_metadata()).get("first"))
    await call.done_writing()
    await stage.see("read", call.read())
    await stage.see("read", call.read())
    stage.seen.append(dict(await call.trailing_metadata()).get("last"))


async def the_client_closes_its_half(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    for number in range(3):
        await stage.see("write", call.write(b"echo:%d" % number))
    await stage.see("done", call.done_writing())
    await stage.see("write", call.write(b"echo:late"))
    for _ in range(6):
        await stage.see("read", call.read())
    await stage.code_of(call)


async def the_server_ends_well(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"twice:a")
    await call.write(b"end")
    await stage.script.saw("ended")
    for _ in range(4):
        await stage.see("read", call.read())
    await stage.see("write", call.write(b"echo:late"))
    await stage.see("done", call.done_writing())


async def the_server_fails_behind_unread_answers(stage: Stage) -> None:
    await stage.serve()
    for end in (b"leader", b"abort", b"plain"):
        call = stage.talk()
        await call.write(b"twice:a")
        await call.write(end)
        await stage.script.saw(
            f"raised {'NotLeader' if end == b'leader' else 'AbortError' if end == b'abort' else 'ValueError'}"
        )
        await asyncio.sleep(0.05)
        for _ in range(4):
            await stage.see("read", call.read())
        await stage.see("write", call.write(b"echo:late"))


async def the_client_cancels(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"wait")
    await stage.script.saw("waits")
    stage.seen.append(call.cancel())
    await stage.see("read", call.read())
    await stage.see("write", call.write(b"echo:late"))
    stage.seen.append(call.cancel())
    await stage.script.saw("cancelled")
    await stage.code_of(call)


async def the_client_cancels_one_request(stage: Stage) -> None:
    await stage.serve()
    call = stage.once(b"wait", timeout=30)
    await stage.script.saw("waits")
    call.cancel()
    await stage.see("once", call)
    await stage.script.saw("cancelled")


async def a_task_that_reads_is_cancelled(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"wait")
    await stage.script.saw("waits")

    async def read() -> None:
        async with asyncio.timeout(0.05):
            await call.read()

    await stage.see("read", read())
    await stage.see("read", call.read())
    await stage.see("write", call.write(b"echo:late"))
    await stage.script.saw("cancelled")


async def a_task_that_waits_for_one_answer_is_cancelled(stage: Stage) -> None:
    await stage.serve()

    async def ask() -> None:
        await stage.once(b"wait", timeout=30)

    task = asyncio.create_task(ask())
    await stage.script.saw("waits")
    await given_up(task)
    await stage.script.saw("cancelled")


async def a_task_is_cancelled_in_the_turn_in_which_its_call_ends(stage: Stage) -> None:
    await stage.serve()
    asking: asyncio.Task[None]

    async def ask(request: bytes) -> None:
        call = stage.once(request, timeout=30)
        call.add_done_callback(lambda _call: asking.cancel())
        await call

    for request in (b"hello", b"leader"):
        asking = asyncio.create_task(ask(request))
        await asyncio.wait({asking}, timeout=30)
        stage.seen.append(asking.cancelled())


async def deadlines_pass(stage: Stage) -> None:
    await stage.serve()
    await stage.see("once", stage.once(b"hello", timeout=30))
    await stage.see("once", stage.once(b"wait", timeout=0.2))
    await stage.script.saw("cancelled")
    stage.script.seen.clear()
    call = stage.talk(timeout=0.3)
    await call.write(b"echo:a")
    await stage.see("read", call.read())
    await call.write(b"wait")
    await stage.see("read", call.read())
    await stage.see("read", call.read())
    await stage.see("write", call.write(b"echo:late"))
    await stage.script.saw("cancelled")


async def a_deadline_that_has_passed(stage: Stage) -> None:
    await stage.serve()
    await stage.see("once", stage.once(b"hello", timeout=30))
    await stage.see("once", stage.once(b"hello", timeout=-1))


async def too_large_messages(stage: Stage) -> None:
    await stage.serve()
    large = MESSAGE_BYTES_MAX + 1
    await stage.see("request", stage.once(b"x" * large, timeout=30))
    await stage.see("answer", stage.once(b"big:%d" % large, timeout=30))
    await stage.see("largest", stage.once(b"big:%d" % MESSAGE_BYTES_MAX, timeout=30))
    call = stage.talk()
    await call.write(b"echo:a")
    await stage.see("read", call.read())
    await stage.see("write", call.write(b"x" * large))
    await stage.see("read", call.read())
    await stage.script.saw("cancelled")
    stage.script.seen.clear()
    call = stage.talk()
    await call.write(b"echo:a")
    await stage.see("read", call.read())
    await call.write(b"write:%d" % large)
    await stage.see("read", call.read())
    await stage.code_of(call)
    await stage.see("once", stage.once(b"hello", timeout=30))


async def a_slow_reader_holds_the_writer_back(stage: Stage) -> None:
    """The client does not read: the server's writes stop; they go on as the client reads, in order and without a gap."""
    await stage.serve()
    call = stage.talk()
    await call.write(b"flood:3000")
    stuck = await no_progress(lambda: len(stage.script.seen))
    stage.seen.append(stuck < 3000)
    for _ in range(3000):
        assert len(await call.read()) == 10_000
    await stage.see("done", call.done_writing())
    await stage.see("read", call.read())
    await stage.see("read", call.read())


async def a_slow_server_holds_the_client_back(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"until")
    await stage.script.saw("waits")
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(3000):
            await call.write(b"nothing:" + b"x" * 10_000)
            written += 1
        await call.write(b"end")

    writing = asyncio.create_task(write())
    stuck = await no_progress(lambda: written)
    stage.seen.append(stuck < 3000)
    stage.script.go_on.set()
    await stage.see("write", writing)
    await stage.see("read", call.read())


async def a_held_back_writer_whose_call_is_cancelled(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"wait")
    await stage.script.saw("waits")
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(b"nothing:" + b"x" * 10_000)
            written += 1

    writing = asyncio.create_task(write())
    await no_progress(lambda: written)
    call.cancel()
    await stage.see("write", writing)
    await stage.code_of(call)
    await stage.script.saw("cancelled")


async def a_held_back_writer_whose_server_ends(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"until")
    await call.write(b"leader")
    await stage.script.saw("waits")
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(b"nothing:" + b"x" * 10_000)
            written += 1

    writing = asyncio.create_task(write())
    await no_progress(lambda: written)
    stage.script.go_on.set()
    code = (await call.code()).name
    async with asyncio.timeout(30):
        await asyncio.wait({writing})
    stage.seen.append((code, writing.exception() is not None))
    reason = (await outcome(call.read()))[1]
    # The failure of the writer may hide that of the handler.
    stage.seen.append(reason in ("NOT_LEADER", "CONNECTION_BROKEN"))


async def a_held_back_generator_whose_client_goes(stage: Stage) -> None:
    """It is left where it writes; what it has to do in the end is done all the same, and soon."""
    await stage.serve()
    call = stage.channel.unary_stream("/stele.test.Script/pour")(b"")
    await stage.see("read", call.read())
    await no_progress(lambda: len(stage.script.seen))
    call.cancel()
    await stage.script.saw("left")
    stage.script.seen[:] = ["left"]


async def the_server_stops_at_once(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"echo:a")
    await stage.see("read", call.read())
    await call.write(b"wait")
    await stage.script.saw("waits")
    one = asyncio.create_task(stage.see("once", stage.once(b"wait", timeout=30)))
    await no_progress(lambda: len(stage.script.seen), 0.2)
    reading = asyncio.create_task(stage.see("read", call.read()))
    await asyncio.sleep(0.05)
    await stage.server.stop()
    await one
    await reading
    stage.seen.sort(key=str)
    await stage.see("connected", stage.channels.connected(stage.endpoint, 5))
    await stage.see("once", stage.once(b"hello", timeout=30))


async def the_server_stops_with_grace(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"until")
    await stage.script.saw("waits")
    stopping = asyncio.create_task(stage.server.stop(30))
    await asyncio.sleep(0.2)
    await stage.see("connected", stage.channels.connected(stage.endpoint, 5))
    stage.seen.append(stopping.done())
    stage.script.go_on.set()
    await call.write(b"echo:still")
    await stage.see("read", call.read())
    await call.write(b"end")
    await stage.see("read", call.read())
    await stage.see("stop", stopping)


async def the_grace_runs_out(stage: Stage) -> None:
    await stage.serve()
    call = stage.talk()
    await call.write(b"wait")
    await stage.script.saw("waits")
    await stage.see("stop", stage.server.stop(0.2))
    await stage.script.saw("cancelled")
    await stage.see("read", call.read())


async def nobody_is_there_then_somebody_is(stage: Stage) -> None:
    port = free_port()
    stage.endpoint = f"{stage.host}:{port}"
    for _ in range(3):
        await stage.see("connected", stage.channels.connected(stage.endpoint, 5))
    await stage.see("once", stage.once(b"hello", timeout=5))
    stage.seen.append(stage.channel.get_state().name)
    waiting = asyncio.create_task(stage.see("ready", stage.once(b"hello", timeout=30, wait_for_ready=True)))
    await asyncio.sleep(0.1)
    await stage.serve(port)
    await waiting
    stage.seen.append(stage.channel.get_state().name)
    await stage.see("once", stage.once(b"hello", timeout=30))


async def a_server_comes_back(stage: Stage) -> None:
    await stage.serve()
    port = int(stage.endpoint.rpartition(":")[2])
    await stage.see("once", stage.once(b"hello", timeout=30))
    await stage.server.stop()
    async with asyncio.timeout(WAIT_S):
        await stage.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    stage.seen.append(stage.channel.get_state().name)
    await stage.serve(port)
    await stage.see("connected", reached(stage))
    await stage.see("once", stage.once(b"hello", timeout=30))


async def reached(stage: Stage) -> str:
    await stage.channels.connected(stage.endpoint, 10)
    return "reached"


async def a_channel_is_closed(stage: Stage) -> None:
    await stage.serve()
    channel = stage.channel
    call = stage.talk()
    await call.write(b"wait")
    await stage.script.saw("waits")
    one = stage.once(b"wait", timeout=30)
    await no_progress(lambda: len(stage.script.seen), 0.2)
    await stage.channels.close()
    await stage.see("read", call.read())
    await stage.see("once", one)
    await stage.script.saw("cancelled")
    stage.seen.append(channel.get_state().name)
    await stage.see("connected", channel.connected(1))

    async def again() -> None:
        await channel.unary_unary("/stele.test.Script/once")(b"hello")

    await stage.see("again", again())


SCENARIOS: list[Scenario] = [
    answers_in_all_ways,
    metadata_goes_both_ways,
    the_client_closes_its_half,
    the_server_ends_well,
    the_server_fails_behind_unread_answers,
    the_client_cancels,
    the_client_cancels_one_request,
    a_task_that_reads_is_cancelled,
    a_task_that_waits_for_one_answer_is_cancelled,
    a_task_is_cancelled_in_the_turn_in_which_its_call_ends,
    deadlines_pass,
    a_deadline_that_has_passed,
    too_large_messages,
    a_slow_reader_holds_the_writer_back,
    a_slow_server_holds_the_client_back,
    a_held_back_writer_whose_call_is_cancelled,
    a_held_back_writer_whose_server_ends,
    a_held_back_generator_whose_client_goes,
    the_server_stops_at_once,
    the_server_stops_with_grace,
    the_grace_runs_out,
    nobody_is_there_then_somebody_is,
    a_server_comes_back,
    a_channel_is_closed,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_both_come_to_the_same(scenario: Scenario) -> None:
    expected = real(scenario)
    for seed in range(3):
        assert simulated(scenario, seed) == expected


RUNS = 60
ENDS = (b"end", b"leader", b"abort", b"plain", b"wait", b"until")


def programme(seed: int) -> Scenario:
    """A conversation drawn from ``seed``.  Each step waits for what it brings about, so that no clock decides."""
    rng = random.Random(f"programme {seed}")

    async def converse(stage: Stage) -> None:
        await stage.serve()
        for _ in range(rng.randint(1, 4)):
            call = stage.talk(**({"timeout": 50.0} if rng.random() < 0.3 else {}))
            await stage.see("write", call.write(b"echo:begin"))
            await stage.see("read", call.read())  # its handler runs from here on
            unread: list[int] = []  # sizes of the answers
            for _ in range(rng.randint(0, 6)):
                size = rng.choice((0, 1, 100, 5_000, 70_000, 300_000))
                match rng.choice(("echo", "twice", "read", "write")):
                    case "echo":
                        await stage.see("write", call.write(b"echo:" + b"e" * size))
                        unread.append(size)
                    case "twice":
                        await stage.see("write", call.write(b"twice:" + b"t" * min(size, 5_000)))
                        unread += [min(size, 5_000)] * 2
                    case "write":
                        await stage.see("write", call.write(b"write:%d" % size))
                        unread.append(size)
                    case "read" if unread:
                        await stage.see("read", call.read())
                        unread.pop(0)
                while sum(unread) > 20_000:  # what is not read must fit a window, or nobody gets on
                    await stage.see("read", call.read())
                    unread.pop(0)
            await finish(stage, call, unread)

    async def finish(stage: Stage, call: Any, unread: list[int]) -> None:
        end = rng.choice((*ENDS, b"half", b"cancel"))
        while unread and rng.random() < 0.7:
            await stage.see("read", call.read())
            unread.pop(0)
        stage.script.seen.clear()
        stage.script.go_on.clear()
        if end == b"half":
            await stage.see("done", call.done_writing())
            await stage.script.saw("EOF")
        elif end == b"cancel":
            stage.seen.append(call.cancel())
            await stage.script.saw("cancelled")
        else:
            await stage.see("write", call.write(end))
            if end in (b"wait", b"until"):
                await stage.script.saw("waits")
                if end == b"wait" or rng.random() < 0.5:
                    stage.seen.append(call.cancel())
                    await stage.script.saw("cancelled")
                else:
                    stage.script.go_on.set()
                    await stage.see("write", call.write(b"leader"))
        if end == b"cancel" or call.done():
            unread = []
        for _ in range(len(unread) + rng.randint(1, 3)):
            await stage.see("read", call.read())
        if call.done():
            await stage.see("write", call.write(b"echo:late"))
            await stage.see("done", call.done_writing())
            await stage.code_of(call)
        call.cancel()

    return converse


@pytest.mark.parametrize("first", range(0, RUNS, 10))
def test_random_conversations_come_to_the_same(first: int) -> None:
    for seed in range(first, first + 10):
        assert simulated(programme(seed), seed) == real(programme(seed)), f"seed {seed}"
