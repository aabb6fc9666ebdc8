"""A process of the simulated cluster: the product's role and the product's life of a process (services/process.py), on a host of its own.

Guarantee: what it would ask of a machine it asks of the world: time, threads, connections, ZooKeeper, disk, ids.  ``kill`` ends it between
two events, ``terminate`` as SIGTERM does; ``pause`` stops all of it, threads included, ``stall`` its event loop alone.  An exception that
nobody takes ends the run as a violation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from stele.services.config import NodeConfig
from stele.services.errors import SteleError
from stele.services.process import Role, Runtime, _Process
from tests.simulation.cluster.ambient import working
from tests.simulation.cluster.rpc.transport import SimulatedTransport
from tests.simulation.loop import Latency, SimulatedLoop
from tests.simulation.zookeeper.client import clients_of

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

Build = Callable[[Any, Runtime], Role]


class ClusterTask(asyncio.Task[Any]):
    """A task whose place in a set is the run's, not its address's."""

    def __init__(self, number: int, *given: Any, **named: Any) -> None:
        self._number = number
        super().__init__(*given, **named)

    def __hash__(self) -> int:
        return self._number


class ClusterLoop(SimulatedLoop):
    """A loop that knows whose it is."""

    resident: Process | Guest
    stalled = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.tasks: list[ClusterTask] = []  # all that ever began: none may fail unnoticed

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        number = next(self.resident.world.task_numbers)
        if context is None:
            task = ClusterTask(number, coro, loop=self, name=str(name))
        else:
            task = ClusterTask(number, coro, loop=self, name=str(name), context=context)
        self.tasks.append(task)
        return task

    def set_exception_handler(self, handler: object) -> None:
        """The world hears of everything that the product would only log."""

    def add_signal_handler(self, *_: object) -> None:
        """``Process.terminate`` does what the handler would."""

    def remove_signal_handler(self, *_: object) -> bool:
        return True

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        waiting = self.resident.world.still_disks.get(self.resident.host)
        if waiting is not None:
            waiting.append(partial(self._work, future, func, args))
            return
        with working(self.resident):
            super()._work(future, func, args)

    def enter(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begins ``work`` from outside."""
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        try:
            return self.create_task(work)
        finally:
            asyncio.events._set_running_loop(before)


class Guest:
    """Who runs on a host: a process, or a client."""

    def __init__(self, world: World, host: str) -> None:
        self.world, self.host = world, host
        self.pid = world.next_pid()
        self.ended_at = float("inf")
        self._stopped_at: float | None = None
        self._stopped_s = 0.0
        self.rng = random.Random(f"{world.options.seed} {host} {self.pid}")
        self.latency = Latency(self.rng)
        self.loop = ClusterLoop(
            world.scheduler,
            self.rng,
            self.latency,
            None,
            lambda error: world.unhandled(self, error),
            lambda: None,
            self._worked,
        )
        self.loop.resident = self  # type: ignore[assignment]
        self.node = world.network.join(host, self.loop)
        self.transport = SimulatedTransport(self.node)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.enter(work)

    def _worked(self) -> None:
        """A thread of it has done something."""

    @property
    def alive(self) -> bool:
        return not self.loop.dead

    @property
    def wall_offset_s(self) -> float:
        return self.world.wall_offsets[self.host]

    @property
    def stopped_s(self) -> float:
        """How long nothing of it ran."""
        now = self.world.now
        return self._stopped_s + (now - self._stopped_at if self._stopped_at is not None else 0.0)

    def pause(self) -> None:
        self._stopped_at = self.world.now
        self.node.freeze()

    def stall(self) -> None:
        """The event loop alone: threads go on, and so do the pings that they send, for half the session's timeout."""
        self._stopped_at = self.world.now
        self.loop.stalled = True
        self.loop.pause()

    def resume(self) -> None:
        self._stopped_s, self._stopped_at = self.stopped_s, None
        self.loop.stalled = False
        self.node.thaw()

    def end(self, silently: bool = False) -> None:
        """Nothing of it runs any more.  ``silently``: nor does its machine."""
        self.ended_at = self.world.now
        self.loop.end()
        self.node.end(silently)


class Process(Guest):
    """One incarnation of a server; ``Server`` is what outlives it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.world, server.name)
        self.server = server
        self.role: Any = None
        self.told_at = float("-inf")  # when SIGTERM came
        self.life = _Process(server.kind, server.config, self._build)
        self.runtime.zookeeper = clients_of(self.world.zookeeper, self, self.rng)
        self.runtime.transport = self.transport
        self._running = self.loop.enter(self.life.run())
        self._running.add_done_callback(self._ended)

    @property
    def runtime(self) -> Runtime:
        return self.life._runtime

    def _build(self, config: Any, runtime: Runtime) -> Role:
        self.role = self.server.build(config, runtime)
        return self.role  # type: ignore[no-any-return]

    def _worked(self) -> None:
        volume = self.world.volumes.get(self.host)
        if volume is not None and volume.dark:
            self.server.kill(self.server.down_s, "power loss in a disk operation", power=True)

    def terminate(self) -> None:
        """SIGTERM."""
        self.told_at = self.world.now if self.told_at < 0 else self.told_at
        self.loop.arrive(self.runtime.stopping.set)

    def _ended(self, running: asyncio.Task[int]) -> None:
        if not self.loop.dead:
            self.server.exited(self, running.result(), self.runtime.failure)


class Server:
    """A server by its name: what is to run there, and what runs there now."""

    def __init__(self, world: World, name: str, kind: str, config: NodeConfig, build: Build) -> None:
        self.world, self.name, self.kind, self.config, self.build = world, name, kind, config, build
        self.process: Process | None = None
        self.wanted = True  # an operator starts it again
        self.starts = 0
        self.down_s = 0.5  # after a loss of power that waits for a disk operation

    def start(self) -> None:
        if self.process is None and self.wanted:
            self.starts += 1
            self.world.say("start", self.name)
            self.process = Process(self)

    def kill(self, down_s: float, why: str = "kill", power: bool = False) -> None:
        """``power``: its machine goes with it, for as long as it is down."""
        process, self.process = self.process, None
        if process is None:
            return
        self.world.say(why, self.name, down_s=round(down_s, 3))
        if power:
            self.world.network.dark.add(self.name)
        process.end(silently=power)
        self._left(power)
        self.world.bury(process)
        self.world.scheduler.after(down_s, self.start)

    def _left(self, power: bool) -> None:
        """What its disk keeps of it."""
        volume = self.world.volumes.get(self.name)
        if volume is not None and power:
            volume.crash(self.world.crashes)
        elif volume is not None:
            volume.kill()

    def exited(self, process: Process, status: int, failure: SteleError | None) -> None:
        self.world.say(f"exit {status}", self.name, f"{failure!r}" if failure else "")
        if self.process is process:
            self.process = None
            self.world.checks.tasks(process)
            process.end()
            self._left(power=False)
            self.world.bury(process)
            self.world.exited(self, status, failure)
