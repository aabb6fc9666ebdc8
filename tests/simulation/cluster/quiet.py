"""The end of a run: the faults are over, the clients do nothing, and the cluster is quiet.

Guarantee: within SETTLE_S there is a window of WINDOW_S in which nothing is elected, nobody leads anew, no warning and no error is logged,
what goes over the network is what idle processes say to one another, and ZooKeeper is written to by nobody.  It costs as much as a third of
a run, so it is looked for in a share of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

SHARE = 0.25  # of the runs, by their seed
WINDOW_S = 3.0
FRAMES_PER_S_MAX, GROUP_FRAMES_PER_S_MAX = (
    100.0,
    50.0,
)  # of all processes; and for each replicated group, mostly heartbeats
TRANSACTIONS_PER_S_MAX = 1.0  # of ZooKeeper
SHOWN_MAX = 5


@dataclass(slots=True)
class _Window:
    """As things stood when it began, and what was logged since."""

    began_at: float
    frames: int
    transactions: int
    terms: dict[tuple[str, int], int]
    leader: tuple[int, int]
    logged: list[str] = field(default_factory=list)


class Quiet:
    def __init__(self, world: World) -> None:
        self._world = world
        self.wanted = world.stream("quiet").random() < SHARE
        self._window: _Window | None = None
        self.noise = "nothing was looked at"  # why the last window was not quiet
        self.found = False

    def logged(self, host: str, level: str, event: str) -> None:
        if self._window is not None and level in ("warning", "error", "critical"):
            self._window.logged.append(f"{host} {level}: {event}")

    def come(self) -> bool:
        """Whether a window has ended and was quiet; where there is noise, another begins."""
        now = self._state()
        if self._window is None:
            self._window = now
        elif noise := self._noise(self._window, now):
            self._window, self.noise = now, "; ".join(noise)
        elif now.began_at - self._window.began_at >= WINDOW_S:
            self.found = True
        return self.found

    def _state(self) -> _Window:
        world = self._world
        terms = {
            (host, group.group_id): group.term
            for host in world.hosts.datanodes
            if (process := world.servers[host].process) is not None and hasattr(process.role, "store")
            for group in process.role.store.registry.groups()
        }
        leader = world.zookeeper.tree.nodes.get("/stele/stele/leader")
        by = (leader.owner, leader.czxid) if leader is not None else (0, 0)
        return _Window(world.now, world.network.frames, len(world.zookeeper.log), terms, by)

    def _noise(self, before: _Window, now: _Window) -> list[str]:
        """What is not quiet; the rates once a second has passed."""
        found = before.logged[:SHOWN_MAX]
        if before.terms != now.terms:
            changed = sorted(set(before.terms.items()) ^ set(now.terms.items()))[:SHOWN_MAX]
            found.append(f"the terms of groups changed: {changed}")
        if before.leader != now.leader:
            found.append("another nameserver leads")
        passed_s = max(1.0, now.began_at - before.began_at)
        frames_per_s = (now.frames - before.frames) / passed_s
        groups = len({group for _, group in now.terms})  # orphans among them, which an older copy of ZooKeeper left
        frames_per_s_max = FRAMES_PER_S_MAX + GROUP_FRAMES_PER_S_MAX * groups
        if frames_per_s > frames_per_s_max:
            found.append(f"{frames_per_s:.0f} frames a second, bound {frames_per_s_max:.0f}")
        transactions_per_s = (now.transactions - before.transactions) / passed_s
        if transactions_per_s > TRANSACTIONS_PER_S_MAX:
            found.append(f"{transactions_per_s:.1f} transactions of ZooKeeper a second")
        return found
