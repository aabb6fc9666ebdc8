"""A coroutine under virtual time with a network, and nothing else: for what is about gRPC alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.simulation.cluster.rpc.network import Network, Node
from tests.simulation.loop import Latency, SimulatedLoop, generators_closed
from tests.simulation.scheduler import Scheduler

T = TypeVar("T")


class Alone:
    """``node(host)`` adds a process; ``run(work, node)`` runs a coroutine on it to its end."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(f"alone {seed}")
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, self.rng)
        self.unhandled: list[object] = []

    def node(self, host: str) -> Node:
        loop = SimulatedLoop(
            self.scheduler, self.rng, Latency(self.rng), _nothing, self.unhandled.append, _nothing, _nothing
        )
        return self.network.join(host, loop)

    def start(self, node: Node, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        asyncio.events._set_running_loop(node.loop)
        try:
            return node.loop.create_task(_run(work))
        finally:
            asyncio.events._set_running_loop(None)

    def run(self, node: Node, work: Callable[[], Awaitable[T]], within_s: float = 300.0) -> T:
        """What ``work`` came to.  TimeoutError after so much virtual time."""
        task = self.start(node, work)
        with generators_closed():
            self.scheduler.run_until(self.scheduler.now + within_s, task.done)
        if not task.done():
            raise TimeoutError(f"not done within {within_s:g} simulated seconds")
        return task.result()


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _nothing() -> None:
    """Nobody wants to know."""
