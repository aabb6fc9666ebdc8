"""Faults of replicas and their disks that are several things at once; see exact.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.simulation.cluster.bearable import may_go
from tests.simulation.cluster.faults import Strike

MOMENT_S = 0.01
DEAF_S, ALONE_S = 0.3, 1.0  # brokers, towards a new leader; an old leader with them
LET_GO_S = 5.0  # for a group to begin to let a replica go, which it does once its leader has not heard it for 2 s
LET_GO_LOOK_S = 0.02
EIO = 5


def _roles(replicas: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The host that leads ("": none), and the others."""
    leader = next((host for host, group in replicas.items() if group.is_leader), "")
    return leader, [host for host in replicas if host != leader]


class ReplicaStrike(Strike):
    def _lost_behind_a_laggard(self, which: float, lags_s: float, down_s: float) -> None:
        """Of three replicas one hears nothing for a while, so that the two others alone acknowledge; then one of these comes back with
        nothing, while the leader is down."""
        world, replicas = self._world, self._replicas(which)
        leader, followers = _roles(replicas)
        if not leader or len(followers) != 2 or not world.may_lose(followers[0]):
            return
        lost, laggard = followers

        def strike() -> None:
            if self._holds_groups(lost):
                self._kill(leader, down_s)
                self._lose_groups(lost)

        self._isolate(laggard, lags_s)
        world.after_unless_healed(lags_s - MOMENT_S, strike)

    def _lost_beside_a_still_disk(self, which: float, after_s: float, down_s: float) -> None:
        """Of three replicas one's disk stands still, so that the two others alone acknowledge; then one of these comes back with nothing.
        Once it holds its group anew, or has not for a while, the leader is down, and the one with the disk has lost its power."""
        world, replicas = self._world, self._replicas(which)
        leader, followers = _roles(replicas)
        if not leader or len(followers) != 2 or not world.may_lose(followers[0]):
            return
        lost, slow = followers
        if slow in world.still_disks:
            return
        anew = world.volumes[lost].path / "groups" / str(replicas[lost].group_id) / "group.json"
        world.still_disks[slow] = []

        def goes_on() -> None:
            for work in world.still_disks.pop(slow, ()):
                world.scheduler.after(0.0, work)

        def loses() -> None:
            if self._holds_groups(lost):
                self._lose_groups(lost)
                looks(world.now + LET_GO_S)

        def looks(until: float) -> None:
            if world.now < until and not world.volumes[lost].has_file(anew):
                world.after_unless_healed(LET_GO_LOOK_S, lambda: looks(until))
                return
            self._kill(leader, down_s)
            self._power_loss(slow, MOMENT_S)
            world.still_disks.pop(slow, None)  # what it was to write it has never written

        self._last(after_s + LET_GO_S + down_s, goes_on)
        world.after_unless_healed(after_s, loses)

    def _old_leader(self, which: float, paused_s: float) -> None:
        """The leader of a partition stands still until another one leads; then brokers hear nothing of the others, and a moment later they
        reach the old one alone, which goes on and has heard of nobody."""
        world, replicas = self._world, self._replicas(which)
        leader, followers = _roles(replicas)
        guest = self._guest(leader)
        if guest is None or guest.loop.paused:
            return
        pairs = [(broker, other) for broker in world.hosts.brokers for other in followers]
        for other in followers:
            self._cut(leader, other, paused_s + DEAF_S + ALONE_S)

        def deaf() -> None:
            for broker, other in pairs:
                self._one_way_cut(other, broker, DEAF_S + ALONE_S)

        def alone() -> None:
            for broker, other in pairs:
                self._one_way_cut(broker, other, ALONE_S)
                self._reset(broker, other)

        guest.pause()
        self._last(paused_s + DEAF_S, guest.resume)
        world.after_unless_healed(paused_s, deaf)
        world.after_unless_healed(paused_s + DEAF_S, alone)

    def _holds_groups(self, host: str) -> bool:
        volume = self._world.volumes[host]
        runs = self._world.servers[host].process is not None and volume.has_folder(volume.path / "groups")
        return runs and may_go(self._world, host)

    def _lose_groups(self, host: str) -> None:
        """It starts anew and has none of them."""
        volume = self._world.volumes[host]
        self._kill(host, MOMENT_S)
        volume.lose(volume.path / "groups")
        self._world.durable.lost(host)
        self._world.to_repair.add(host)

    def touched(self, host: str) -> bool:
        """Whether something is wrong with its disk that may keep what is there from being read."""
        return (
            host in self._world.to_repair or bool(self._world.volumes[host]._faults) or self._world.volumes[host].dark
        )

    def _replicas(self, which: float) -> dict[str, Any]:
        """Of one of the main topic's partitions, those that run."""
        world = self._world
        groups = sorted(world.workload.groups()) if world.workload.main is not None else []
        found = {}
        for host in world.volumes if groups else ():
            role = getattr(world.servers[host].process, "role", None)
            registry = getattr(getattr(role, "store", None), "registry", None)
            group = registry.get(groups[int(which * len(groups))]) if registry is not None else None
            if group is not None:
                found[host] = group
        return found

    def _still_disks(self, seconds: float) -> None:
        """Of all datanodes, for longer than a sender waits."""
        for host in self._world.hosts.datanodes:
            self._still_disk(host, seconds)

    def _unreadable_at_start(self, host: str, down_s: float, times: int, later: int) -> None:
        """What its replicas are cannot be read when it starts, nor, some moments later, what they hold; then it can."""
        volume = self._world.volumes[host]
        self._kill(host, down_s)
        volume.fail("open", EIO, name="group.json", times=times)
        volume.fail("open", EIO, name="term", times=later)

    def _cold_start(self, down_s: float, factor: float, seconds: float) -> None:
        """Of every datanode at once; their disks are slow then."""
        for host in self._world.hosts.datanodes:
            self._kill(host, down_s)
            self._world.after_unless_healed(
                down_s + MOMENT_S,
                lambda host=host: self._slow_disk(host, factor, seconds),  # type: ignore[misc]
            )

    def _slow_cold_start(self, down_s: float, factor: float, seconds: float) -> None:
        """Loading takes longer than an election."""
        self._cold_start(down_s, factor, seconds)
