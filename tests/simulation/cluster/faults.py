"""What the faults of a plan do.  Each undoes itself when its time is over, or when the run ends its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.plan import Fault

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.world import World

Undo = Callable[[], object]


class Strike:
    """``strike(fault)``; ``heal()`` ends what lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lasting: dict[int, Undo] = {}
        self._number = 0

    def __call__(self, fault: Fault) -> None:
        world = self._world
        world.fault_counts[fault.kind] += 1
        world.say("fault", "", str(fault), number=fault.number)
        getattr(self, "_" + fault.kind.replace(" ", "_").replace("-", "_"))(*fault.values)

    def heal(self) -> None:
        for number in list(self._lasting):
            self._end(number)

    def _last(self, seconds: float, undo: Undo) -> None:
        self._number += 1
        self._lasting[self._number] = undo
        self._world.scheduler.after(seconds, self._end, self._number)

    def _end(self, number: int) -> None:
        undo = self._lasting.pop(number, None)
        if undo is not None:
            undo()

    def _guest(self, host: str) -> Guest | None:
        return self._world.guest(host)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, host: str, down_s: float) -> None:
        self._world.servers[host].kill(down_s)

    def _terminate(self, host: str) -> None:
        process = self._world.servers[host].process
        if process is not None:
            process.terminate()

    def _pause(self, host: str, seconds: float) -> None:
        guest = self._guest(host)
        if guest is not None and not guest.loop.paused:
            guest.pause()
            self._last(seconds, guest.resume)

    _pause_client = _pause

    def _stall(self, host: str, seconds: float) -> None:
        guest = self._guest(host)
        if guest is not None and not guest.loop.paused:
            guest.stall()
            self._last(seconds, guest.resume)

    def _wall_clock_jump(self, host: str, seconds: float) -> None:
        self._world.wall_offsets[host] += seconds

    # --- the network --------------------------------------------------------------------------------------------------

    def _cut(self, first: str, second: str, seconds: float) -> None:
        self._one_way_cut(first, second, seconds)
        self._one_way_cut(second, first, seconds)

    def _one_way_cut(self, source: str, target: str, seconds: float) -> None:
        network = self._world.network
        network.cut_direction(source, target)
        self._last(seconds, lambda: network.heal_direction(source, target))

    def _isolate(self, host: str, seconds: float) -> None:
        for other in (*self._world.hosts.everybody, *self._world.hosts.zookeepers):
            if other != host:
                self._cut(host, other, seconds)

    def _reset(self, first: str, second: str) -> None:
        self._world.network.break_connections(first, second)

    def _slow_link(self, first: str, second: str, factor: float, seconds: float) -> None:
        slow: dict[Any, float] = self._world.network.slow
        for pair in ((first, second), (second, first)):
            slow[pair] = factor
            self._last(seconds, lambda pair=pair: slow.pop(pair, None))  # type: ignore[misc]

    # --- ZooKeeper ----------------------------------------------------------------------------------------------------

    def _cut_from_zookeeper(self, host: str, seconds: float) -> None:
        for zookeeper in self._world.hosts.zookeepers:
            self._cut(host, zookeeper, seconds)

    def _deaf_to_zookeeper(self, host: str, seconds: float) -> None:
        for zookeeper in self._world.hosts.zookeepers:
            self._one_way_cut(zookeeper, host, seconds)

    def _session_expired(self, host: str) -> None:
        zookeeper = self._world.zookeeper
        session = zookeeper.session_of(host)
        if session:
            zookeeper.expire(session)

    def _zookeeper_connection_lost(self, host: str, when: str) -> None:
        self._world.zookeeper.lose_connection(host, when)

    def _zookeeper_restart(self, which: int, seconds: float) -> None:
        zookeeper = self._world.zookeeper
        stopped = zookeeper.servers if which == len(zookeeper.servers) else [zookeeper.servers[which]]
        for server in stopped:
            if server.up:
                zookeeper.stop(server)
                self._last(seconds, lambda server=server: zookeeper.start(server))  # type: ignore[misc]

    def _slow_zookeeper(self, factor: float, seconds: float) -> None:
        zookeeper = self._world.zookeeper
        zookeeper.slowness = factor
        self._last(seconds, lambda: setattr(zookeeper, "slowness", 1.0))

    def _full_zookeeper(self, waiting_s: float, seconds: float) -> None:
        zookeeper = self._world.zookeeper
        zookeeper.fullness_s = waiting_s
        self._last(seconds, lambda: setattr(zookeeper, "fullness_s", 0.0))
