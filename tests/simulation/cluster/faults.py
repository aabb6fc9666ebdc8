"""What the faults of a plan do.  Each undoes itself when its time is over, or when the run ends its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.bearable import may_come_back, may_go
from tests.simulation.cluster.plan import Fault
from tests.simulation.zookeeper.tree import Created, Deleted

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.world import World
    from tests.simulation.zookeeper.tree import Txn

Undo = Callable[[], object]
MEMBERS = "/stele/stele/members"
DELETED_EVERY_S = 0.01
LOOK_AGAIN_S = 0.01  # until what a disk is to forget can be borne


class Strike:
    """``strike(fault)``; ``heal()`` ends what lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lasting: dict[int, Undo] = {}
        self._number = 0
        self._put_away: list[Txn] | None = None  # of a ZooKeeper that was wiped

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
            self._world.checks.registrations.stalls(guest)

    def _wall_clock_jump(self, host: str, seconds: float) -> None:
        self._world.wall_offsets[host] += seconds

    # --- names ----------------------------------------------------------------------------------------------------------

    def _double(self, host: str, seconds: float) -> None:
        """A second process under the same name, on another host."""
        double = self._world.double(host, host, self._elsewhere(host))
        self._last(seconds, lambda: double.kill(0.0, "kill"))

    def _moved(self, host: str, seconds: float) -> None:
        """It is killed and runs on another host, until it comes back."""
        server = self._world.servers[host]
        if server.process is None:
            return
        server.wanted = False
        server.kill(0.0, "kill")
        double = self._world.double(host, host, self._elsewhere(host), again=True)

        def back() -> None:
            double.wanted = False
            double.kill(0.0, "kill")
            server.wanted = True
            server.start()

        self._last(seconds, back)

    def _race(self, host: str, racers: int, seconds: float) -> None:
        """Several processes at once under a name that nobody has."""
        for _ in range(racers):
            double = self._world.double(host, f"{host}-racer", self._elsewhere(host))
            self._last(seconds, lambda double=double: double.kill(0.0, "kill"))  # type: ignore[misc]

    def _elsewhere(self, host: str) -> str:
        return f"{host}-{len(self._world.doubles) + 1}"

    def _leftover(self, host: str, down_s: float) -> None:
        """It is killed, and a member node that nobody owns stands where its own was."""
        server = self._world.servers[host]
        path = f"{MEMBERS}/{server.kind}s/{host}"
        node = self._world.zookeeper.tree.nodes.get(path)
        if node is not None:
            server.kill(down_s)
            self._world.zookeeper.change(Deleted(path), Created(path, node.value, 0))

    def _member_deleted(self, host: str, seconds: float) -> None:
        """Somebody deletes its member node, again and again."""
        world, over = self._world, False

        def strike() -> None:
            path = f"{MEMBERS}/{world.servers[host].kind}s/{host}"
            if path in world.zookeeper.tree.nodes:
                world.zookeeper.change(Deleted(path))
            if not over:
                world.scheduler.after(DELETED_EVERY_S, strike)

        def stop() -> None:
            nonlocal over
            over = True

        strike()
        self._last(seconds, stop)

    # --- disks ----------------------------------------------------------------------------------------------------------

    def _power_loss(self, host: str, down_s: float) -> None:
        self._world.servers[host].kill(down_s, "power loss", power=True)

    def _power_loss_in_disk_operation(self, host: str, operations: int, down_s: float) -> None:
        server = self._world.servers[host]
        if server.process is not None:
            server.down_s = down_s
            self._world.volumes[host].lose_power_after(operations)

    def _slow_disk(self, host: str, factor: float, seconds: float) -> None:
        guest = self._guest(host)
        if guest is not None:
            guest.latency.factor = factor
            self._last(seconds, lambda: setattr(guest.latency, "factor", 1.0))

    def _still_disk(self, host: str, seconds: float) -> None:
        """Nothing that is asked of it returns; a process that starts meanwhile waits, too."""
        still = self._world.still_disks
        if host in still:
            return
        still[host] = []

        def goes_on() -> None:
            for work in still.pop(host):
                self._world.scheduler.after(0.0, work)

        self._last(seconds, goes_on)

    def _disk_full(self, host: str, left_bytes: float, seconds: float) -> None:
        volume = self._world.volumes[host]
        volume.capacity_bytes = volume.used_bytes() + int(left_bytes)
        self._last(seconds, lambda: setattr(volume, "capacity_bytes", 1 << 40))

    def _disk_error(self, host: str, operation: Any, name: str, skip: int) -> None:
        self._world.to_repair.add(host)
        self._world.volumes[host].fail(operation, name=name, skip=skip)

    def _unreadable(self, host: str, operation: Any, number: int, times: int) -> None:
        self._world.to_repair.add(host)
        self._world.volumes[host].fail(operation, number, times=times)

    def _read_only(self, host: str, seconds: float) -> None:
        volume = self._world.volumes[host]
        self._world.to_repair.add(host)
        volume.read_only = True
        self._last(seconds, lambda: setattr(volume, "read_only", False))

    def _older_volume(self, host: str, after_s: float, down_s: float) -> None:
        """Its machine comes back with the disk that it had before, as soon as a majority can do without what is on it since."""
        if not self._world.may_lose(host):
            return
        volume = self._world.volumes[host]
        backup = volume.backup()

        def strike() -> None:
            if not may_come_back(self._world, host, backup):
                self._world.after_unless_healed(LOOK_AGAIN_S, strike)
                return
            self._world.servers[host].kill(down_s, "comes back with an older volume", power=True)
            volume.bring_back(backup)
            self._world.durable.lost(host)

        self._world.after_unless_healed(after_s, strike)

    def _folder_lost(self, host: str, which: float, whole: bool) -> None:
        """That of one replica, or all of them."""
        if not may_go(self._world, host) or not self._world.may_lose(host):
            return
        volume = self._world.volumes[host]
        groups = volume.path / "groups"
        names = volume.names(groups) if volume.has_folder(groups) and not volume.dark else []
        if names:
            lost = groups if whole else groups / names[int(which * len(names))]
            self._world.to_repair.add(host)
            self._world.say("folder lost", host, str(lost))
            volume.lose(lost)
            self._world.durable.lost(host)

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

    def _zookeeper_answer_lost(self, host: str, when: str, skip: int) -> None:
        """To one of the next writes from there, over whichever connection."""
        self._world.zookeeper.losing[host] = (when, skip)

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

    def _older_zookeeper(self, share: float, seconds: float) -> None:
        """Everything is stopped, and started again with an older copy of ZooKeeper's data, in which the main topic is recorded."""
        world, known = self._world, self._world.workload.recorded_at
        if known is not None and self._put_away is None:
            self._stop_all(seconds)
            to = known + int(share * (len(world.zookeeper.log) - known))
            world.zookeeper.roll_back(to)
            world.checks.forget()

    def _wiped_zookeeper(self, seconds: float) -> None:
        """Everything starts with an empty ZooKeeper; then everything is stopped, and what it held is put back."""
        if self._world.workload.recorded_at is None or self._put_away is not None:
            return
        zookeeper = self._world.zookeeper
        self._stop_all(0.1)
        self._put_away = list(zookeeper.log)
        zookeeper.wipe()
        self._world.checks.forget()
        self._last(seconds, self._put_back)

    def _put_back(self) -> None:
        put_away, self._put_away = self._put_away, None
        assert put_away is not None
        self._stop_all(0.1)
        self._world.say("zookeeper", "zk", "what it held is put back")
        self._world.zookeeper.put_back(put_away)
        self._world.checks.forget()

    def _stop_all(self, down_s: float) -> None:
        for server in self._world.servers.values():
            server.kill(down_s, "stop")
