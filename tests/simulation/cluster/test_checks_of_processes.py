"""Each check of what processes and clients do all along can fail: calls, tasks, lines of the log, quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.simulation.cluster.lines import LINES_MAX
from tests.simulation.cluster.noticed import noticed
from tests.simulation.cluster.quiet import Quiet
from tests.simulation.cluster.world import ENDING_S, World


def test_a_call_that_hangs_is_noticed_when_it_is_late(running: World) -> None:
    guest = running.workload.clients["cl1"]
    hangs = guest.loop.create_future()

    async def call() -> None:
        await running.calls.within(guest, "nothing", hangs, 2.0)

    running.workload.begin(guest, call())
    running.scheduler.run_until(running.now + 2.9)
    running.calls.look()
    assert not noticed(running)
    running.scheduler.run_until(running.now + 0.2)
    running.calls.look()
    assert noticed(running) == "deadline"
    assert not hangs.done()
    hangs.cancel()
    running.scheduler.run_until(running.now + 0.1)


def test_time_in_which_a_client_stood_still_does_not_count(running: World) -> None:
    guest = running.workload.clients["cl1"]

    async def call(lasts_s: float) -> None:
        await running.calls.within(guest, "nothing", asyncio.sleep(lasts_s), 2.0)

    running.workload.begin(guest, call(2.5))
    running.scheduler.run_until(running.now + 1.0)
    guest.pause()
    running.scheduler.run_until(running.now + 9.0)
    running.calls.look()
    guest.resume()
    running.scheduler.run_until(running.now + 3.0)
    assert not noticed(running)
    running.workload.begin(guest, call(3.5))
    running.scheduler.run_until(running.now + 4.0)
    assert noticed(running) == "deadline"
    running.scheduler.run_until(running.now + 1.0)


async def _fails() -> None:
    raise ValueError("nobody looks")


def test_a_failure_that_nobody_looks_at_is_noticed_when_its_process_goes(running: World) -> None:
    server = running.servers["br1"]
    before = server.process
    assert before is not None
    failing = before.begin(_fails())
    before.terminate()
    running.scheduler.run_until(running.now + 30.0, lambda: server.process is not before)
    assert noticed(running) == "lost exception"
    failing.exception()
    # The process that follows it is measured, and given its share of the bundles.
    running.scheduler.run_until(running.now + 10.0)


def test_a_failure_that_nobody_looks_at_is_noticed_in_what_runs(running: World) -> None:
    client = running.workload.clients["cl2"]
    failing = client.begin(_fails())
    running.scheduler.run_until(running.now + 0.1)
    running.checks.tasks(client)
    assert noticed(running) == "lost exception"
    failing.exception()


def test_a_message_that_comes_after_its_acknowledgement_is_confirmed_is_noticed(world: World) -> None:
    assert world.redelivered.looked_at > 5
    buffer, message = SimpleNamespace(generation=7), SimpleNamespace(generation=7, offset=3, topic="a/b", partition=0)
    delivered: Any = world.redelivered.delivered
    delivered(buffer, [message])
    world.redelivered.confirmed(buffer, SimpleNamespace(cumulative=False, ranges=[(2, 3)]))  # type: ignore[arg-type]
    delivered(buffer, [SimpleNamespace(generation=8, offset=3, topic="a/b", partition=0)])
    assert not noticed(world)
    delivered(buffer, [message])
    assert noticed(world) == "delivered after a confirmed acknowledgement"


def test_a_line_that_is_logged_again_and_again_is_noticed(running: World) -> None:
    for _ in range(LINES_MAX):
        running.lines.wrote("dn1", 1, "anything", {"group": 1, "term": 7})
        running.lines.wrote("dn1", 1, "anything", {"group": 2})
        running.lines.wrote("dn2", 1, "anything", {"group": 1})
    assert not noticed(running)
    running.lines.wrote("dn1", 1, "anything", {"group": 1, "term": 8})
    assert noticed(running) == "log"


def _quiet(running: World, noise: Callable[[], object] = lambda: None, every_s: float = 1.0) -> str:
    """What stands against a quiet cluster; "": it comes to be quiet."""
    running.scheduler.run_until(running.now + ENDING_S, running.workload.idle)
    running.quiet = Quiet(running)
    end = running.now + 6.0
    while running.now < end and not running.quiet.come():
        noise()
        running.scheduler.run_until(running.now + every_s)
    return "" if running.quiet.found else running.quiet.noise


def test_a_cluster_that_has_nothing_to_do_is_quiet(running: World) -> None:
    assert _quiet(running) == ""


def test_warnings_are_noise(running: World) -> None:
    assert _quiet(running, lambda: running.quiet.logged("ns1", "info", "goes on")) == ""
    assert "ns1 warning: goes on" in _quiet(running, lambda: running.quiet.logged("ns1", "warning", "goes on"))


def test_an_election_is_noise(running: World) -> None:
    def elect() -> None:
        for host in running.hosts.datanodes:
            process = running.servers[host].process
            assert process is not None
            for group in process.role.store.registry.groups():
                if group.is_leader:
                    process.loop.arrive(group.transfer_leadership)

    assert "terms" in _quiet(running, elect)


def test_a_storm_of_calls_is_noise(running: World) -> None:
    def storm() -> None:
        running.network.frames += 1000

    assert "frames a second" in _quiet(running, storm)


def test_a_storm_of_writes_is_noise(running: World) -> None:
    def storm() -> None:
        for _ in range(5):
            running.zookeeper.change()

    assert "transactions" in _quiet(running, storm)
