"""What the disks hold for certain: asked at the moment at which a client is told that its message is stored.

Guarantee checked: then a majority of the partition's replicas have it in their logs, synced: were the power lost everywhere at once,
it would survive.  Who lost what it had held to a fault that takes what was synced counts as holding it, and so does what the process
that ran then took on until it ended: it went on writing to files that have no name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.services.coordination.records import PartitionRecord, decode
from tests.simulation.cluster.ledger import Sent, TopicLedger

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Process
    from tests.simulation.cluster.world import World

PARTITIONS = "/stele/stele/partitions"


class Durable:
    def __init__(self, world: World) -> None:
        self._world = world
        self._groups: dict[tuple[str, int, int], int] = {}  # topic, its generation, partition → group
        self._stores: dict[int, str] = {}  # id → host
        # host → when its disk lost what was synced, and under which process
        self._lost: dict[str, tuple[float, Process | None]] = {}
        self.checked = 0

    def saw_store(self, store_id: int, host: str) -> None:
        self._stores[store_id] = host

    def lost(self, host: str) -> None:
        """A fault has taken what was synced there."""
        self._lost[host] = (self._world.now, self._world.servers[host].process)

    def has_lost(self, host: str) -> bool:
        return host in self._lost

    def host_of(self, store_id: int) -> str:
        return self._stores.get(store_id, "")

    def acknowledged(self, topic: TopicLedger, sent: Sent, partition: int) -> None:
        group = self._group(topic, partition)
        if group is None:
            return
        self.checked += 1
        holding = {host for host in self._world.volumes if self._holds(host, group, sent)}
        sets = self._replica_sets(group)
        if sets and not any(len(holding & hosts) * 2 > size for hosts, size in sets):
            shown = ", ".join(
                f"{len(holding & hosts)} of {size} {sorted(hosts)}" for hosts, size in sorted(sets, key=str)
            )
            self._world.violated(
                "acknowledged without a majority",
                f"{sent.value[:60]!r} of {topic.name}-{partition}, group {group}, is durable on {sorted(holding)}: {shown}",
            )

    def _group(self, topic: TopicLedger, partition: int) -> int | None:
        """Asked of ZooKeeper once, as long as it knows; of a topic that is deleted meanwhile nothing is known."""
        key = (topic.name, topic.generation, partition)
        if key not in self._groups:
            nodes = self._world.zookeeper.tree.nodes
            for name in nodes[PARTITIONS].children if PARTITIONS in nodes else ():
                record = decode(nodes[f"{PARTITIONS}/{name}"].value, PartitionRecord)
                if (record.topic, record.index) == (topic.name, partition):
                    self._groups[key] = int(name)
        return self._groups.get(key)

    def _replica_sets(self, group: int) -> set[tuple[frozenset[str], int]]:
        """As its replicas have it, those that run: one of them is the set of now, wherever a change of members is under way."""
        found = set()
        for server in self._world.servers.values():
            registry = getattr(getattr(getattr(server.process, "role", None), "store", None), "registry", None)
            replica = registry.get(group) if registry is not None else None
            if replica is not None and server.process is not None and server.process.alive:
                voters = replica.members.voters
                found.add((frozenset(self._stores.get(voter, f"store {voter}") for voter in voters), len(voters)))
        return found

    def _holds(self, host: str, group: int, sent: Sent) -> bool:
        lost_at, under = self._lost.get(host, (-1.0, None))
        if sent.at <= (lost_at if under is None else under.ended_at):
            return True
        volume = self._world.volumes[host]
        return any(sent.value in content for content in volume.durable_files(volume.path / "groups" / str(group)))
