"""What processes log: no line again and again.

Guarantee: a line, which is an event of a process about one thing (a group, a partition, …), comes at most as often as its limit says
in any WINDOW_S.  A process says what changed, and what changes ten times in ten seconds, all along, is what a limit of the product's own
(backoff, one line a minute) is there to prevent.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

WINDOW_S = 10.0
LINES_MAX = 10  # of one line in a window
SUBJECTS = (
    "group",
    "bundle",
    "topic",
    "partition",
    "subscription",
    "consumer",
    "store",
    "store_id",
    "peer",
    "namespace",
    "name",
    "member",
    "broker",
    "operation",
)
OTHERS = {  # with the reason why these may come more often
    "consumer_joined": (
        30,
        "two consumers of one name, which close at one in a hundred messages, as fast as those come",
    ),
    "consumer_left": (30, "likewise"),
    "coordination_session": (
        60,
        "three for each end of a session (suspended, lost, connected anew), and some runs end five a second, one in six of them the same "
        "process's",
    ),
    "snapshot_taken": (25, "some runs have an interval of half a second"),
    "member_registered": (
        30,
        "some runs have somebody who deletes its node again and again; registrations.py limits how fast it comes back",
    ),
    "subscription_moved": (25, "one for each time that somebody seeks"),
    "replica_orders_done": (20, "one for each time that a topic is made or deleted, by whoever leads"),
}
ALTERED = {  # in runs in which a topic is given other replicas and a store is decommissioned right after
    "raft_members": (20, "one for each step: a replica more, one fewer, and a move at once"),
    "replica_orders_done": (40, "likewise"),
}


class Lines:
    def __init__(self, world: World) -> None:
        self._world = world
        self._newest: dict[tuple[object, ...], deque[float]] = {}  # of each line, as many as it may come
        self.most: Counter[str] = Counter()  # of each event: lines about one thing in one window

    def wrote(self, host: str, pid: int, event: str, facts: dict[str, Any]) -> None:
        line = (host, pid, event, *(facts.get(subject) for subject in SUBJECTS))
        operator = self._world.operator
        others = OTHERS | ALTERED if operator is not None and operator.alters else OTHERS
        limit = others.get(event, (LINES_MAX, ""))[0]
        now = self._world.now
        newest = self._newest.setdefault(line, deque())
        while newest and newest[0] <= now - WINDOW_S:
            newest.popleft()
        newest.append(now)
        self.most[event] = max(self.most[event], len(newest))
        if len(newest) > limit:
            about = " ".join(f"{name}={facts[name]}" for name in SUBJECTS if name in facts)
            text = f"{host} logged {event} {about} {len(newest)} times in {WINDOW_S:g} s, limit {limit}"
            self._world.violated("log", text)
