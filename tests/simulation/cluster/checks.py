"""What must hold at every moment of a run of the cluster, beside what the ledger says of messages.

* A record of topics, stores, partitions or bundles is written only by the session that holds the leader's node, if any does.
* What a store holds of a topic that lives is not deleted: only a record that says so takes a replica from a store.
* The epoch of leaderships rises, and so does the owner's epoch of each bundle; the id of a store, a topic or a group is given out once.
* A broker writes under the epochs that were given to it, and to no other.
* No process ends by an error that nobody foresaw, nor with a task whose failure nobody looked at.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from stele.datanode.directory import GroupSpec
from stele.services.coordination.records import BundleRecord, EpochRecord, PartitionRecord, TopicRecord, decode
from stele.services.errors import InternalError, SteleError
from tests.simulation.cluster.registrations import Registrations
from tests.simulation.zookeeper.tree import Created, Deleted, Txn, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest, Server
    from tests.simulation.cluster.world import World

ROOT = "/stele/stele/"
LED = ("topics/", "stores/", "partitions/", "bundles/", "groups/", "namespaces/", "brokers/")
ID = re.compile(r"(?:partitions|stores)/\d+")


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self._epochs: dict[str, int] = {}  # by path
        self._partitions: dict[
            str, PartitionRecord
        ] = {}  # by group: the newest that was ever written, until it was deleted
        self._topics: dict[str, TopicRecord] = {}  # by name, likewise
        self._given: set[str] = set()  # paths that are named by an id
        self._owners: dict[tuple[str, int], str] = {}  # bundle and epoch → broker
        self.registrations = Registrations(world, ROOT)
        world.network.listening, world.network.released = self.registrations.listening, self.registrations.released
        world.zookeeper.committing = self.committing

    def committing(self, session: int, txn: Txn) -> None:
        """ZooKeeper is about to carry this out."""
        self.registrations.committing(session, txn)
        self._world.strike.committing(session, txn)
        if self._world.operator is not None:
            self._world.operator.committing(session, txn)
        changes = {c.path[len(ROOT) :]: c for c in txn.changes if isinstance(c, Created | Written | Deleted)}
        led = [path for path in changes if path.startswith(LED)]
        if led:
            leader = self._world.zookeeper.tree.nodes.get(f"{ROOT}leader")
            if leader is not None and leader.owner != session and "leader" not in changes:
                self._world.violated("deposed leader", f"session {session:#x} writes {led}; {leader.owner:#x} leads")
        for path, change in changes.items():
            if isinstance(change, Created) and ID.fullmatch(path):
                if path in self._given:
                    self._world.violated("id used again", f"{path} is created a second time")
                self._given.add(path)
                self._check_free(path)
            if not isinstance(change, Created | Written):
                self._partitions.pop(path.removeprefix("partitions/"), None)
                self._topics.pop(path.removeprefix("topics/"), None)
                continue
            if path.startswith("partitions/"):
                self._partitions[path.removeprefix("partitions/")] = decode(change.value, PartitionRecord, path)
            elif path.startswith("topics/") and path.count("/") == 2:
                self._topics[path.removeprefix("topics/")] = decode(change.value, TopicRecord, path)
            if path == "epoch":
                self._rises(path, decode(change.value, EpochRecord, path).epoch)
            elif path.startswith("bundles/") and path.count("/") == 2:
                record = decode(change.value, BundleRecord, path)
                self._check_taken(path, record)
                self._rises(path, record.epoch)
                self._owners[path.removeprefix("bundles/"), record.epoch] = record.broker

    def _check_taken(self, path: str, record: BundleRecord) -> None:
        """What a member has, and was given since it registered, is not left to nobody."""
        nodes = self._world.zookeeper.tree.nodes
        before = nodes.get(ROOT + path)
        owner = decode(before.value, BundleRecord, path).broker if before is not None and not record.broker else ""
        member = nodes.get(f"{ROOT}members/brokers/{owner}") if owner else None
        if member is not None and before is not None and member.czxid <= before.mzxid:
            self._world.violated("owner", f"{path} is taken from {owner}, which is a member, and given to nobody")

    def copies_are_current(self) -> bool:
        """What nameservers have of ZooKeeper's records is what there is."""
        nodes = self._world.zookeeper.tree.nodes
        for server in self._world.servers.values():
            view = getattr(getattr(server.process, "role", None), "view", None)
            for mirror in view._mirrors if view is not None else ():
                top = ROOT + mirror.path
                there = {
                    path[len(ROOT) :]: node.mzxid
                    for path, node in nodes.items()
                    if (path == top or path.startswith(f"{top}/")) and path[len(top) :].count("/") <= mirror.depth
                }
                if there != {path: node.stat.mzxid for path, node in mirror.snapshot.items()}:
                    return False
        return True

    def _check_free(self, path: str) -> None:
        """What a group's number meant in a history that ZooKeeper has forgotten is on no disk."""
        kind, number = path.split("/")
        holding = [
            host
            for host, volume in self._world.volumes.items()
            if kind == "partitions" and volume.has_file(volume.path / "groups" / number / "term")
        ]
        if holding:
            self._world.violated("id used again", f"{path} is created, and {holding} hold a group of that number")

    def leaves(self, host: str, path: Path, to: Path | None) -> None:
        """A folder on the disk of ``host`` is about to be moved or removed."""
        if path.parent.name == "groups" and (to is None or to.parent.name == "trash"):
            self._check_live(host, path)
            self._check_stopped(host, path)

    def _check_live(self, host: str, path: Path) -> None:
        """What is deleted is of no topic that lives."""
        group = path.name
        record = self._partitions.get(group)
        topic = self._topics.get(record.topic) if record is not None else None
        if record is None or topic is None or topic.state == "deleting":
            return
        if "term" not in self._world.volumes[host].names(path):
            return  # no replica has run in it: one writes its term before it promises anything, and a create that failed is taken back
        if host in [self._world.durable.host_of(store) for store in record.replicas]:
            self._world.violated("live data deleted", f"{host} deletes its replica of group {group}: {topic}, {record}")

    def _check_stopped(self, host: str, path: Path) -> None:
        """Nothing of a group runs any more once its folder goes."""
        process = self._world.servers[host].process
        registry = getattr(getattr(getattr(process, "role", None), "store", None), "registry", None)
        running = registry._ticker._due if registry is not None else ()
        if any(str(getattr(turned, "group_id", "")) == path.name for turned in running):
            self._world.violated("runs on", f"{path} goes at {host} while its group runs")

    def removes(self, group: int, store_id: int) -> None:
        """A group is told to count a store no more."""
        host = self._world.durable.host_of(store_id)
        record, volume = self._partitions.get(str(group)), self._world.volumes.get(host)
        if record is None or volume is None or store_id not in (record.target or record.replicas):
            return
        folder = volume.path / "groups" / str(group)
        if (
            volume.has_file(folder / "term")
            and not self._world.strike.touched(host)
            and not self._world.durable.has_lost(host)
        ):
            self._world.violated(
                "live replica removed", f"group {group} is to go on without {host}, which has it: {record}"
            )

    def topic_of(self, spec: GroupSpec) -> TopicRecord | None:
        """The record of the topic that a replica is of; None: it is gone, or another's."""
        record = self._topics.get(spec.topic)
        return record if record is not None and record.id == spec.topic_id else None

    def _rises(self, path: str, epoch: int) -> None:
        if epoch < self._epochs.get(path, 0):
            self._world.violated("epoch", f"{path} goes from {self._epochs[path]} back to {epoch}")
        self._epochs[path] = epoch

    def writes(self, host: str, bundle: str, epoch: int) -> None:
        """A broker sends a write under ``epoch``."""
        owner = self._owners.get((bundle, epoch), host)
        if owner != host:
            self._world.violated(
                "owner", f"{host} writes under the epoch {epoch} of {bundle}, which was given to {owner}"
            )

    def forget(self) -> None:
        """ZooKeeper holds another history now."""
        for known in (self._epochs, self._given, self._owners):
            known.clear()

    def exited(self, server: Server, status: int, failure: SteleError | None) -> None:
        if type(failure) is SteleError or isinstance(failure, InternalError):
            self._world.violated("process failed", f"{server.name}: {failure!r}")
        self.registrations.exited(server, failure)

    def tasks(self, guest: Guest | None) -> None:
        """Of one whose time is over, or that has nothing to do: none of its tasks has failed without anybody having looked."""
        for task in guest.loop.tasks if guest is not None else ():
            if task.done() and task._log_traceback:
                name, error = task.get_coro().__qualname__, task.exception()
                self._world.violated("lost exception", f"{name} on {guest.host}: {error!r}")
