"""What must hold at every moment of a run of the cluster, beside what the ledger says of messages.

* A record of topics, stores, partitions or bundles is written only by the session that holds the leader's node, if any does.
* What a store holds of a topic that lives is not deleted: only a record that says so takes a replica from a store.
* The epoch of leaderships rises, and so does the owner's epoch of each bundle.
* No process ends by an error that nobody foresaw; no event is logged without end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stele.services.coordination.records import BundleRecord, EpochRecord, PartitionRecord, TopicRecord, decode
from stele.services.errors import InternalError, SteleError
from tests.simulation.checks import Violation
from tests.simulation.cluster.registrations import Registrations
from tests.simulation.zookeeper.tree import Created, Deleted, Txn, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Server
    from tests.simulation.cluster.world import World

ROOT = "/stele/stele/"
LED = ("topics/", "stores/", "partitions/", "bundles/", "groups/", "namespaces/")
LINES_MAX = 1_000  # of one event of one host in a run


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self._epochs: dict[str, int] = {}  # by path
        self._partitions: dict[
            str, PartitionRecord
        ] = {}  # by group: the newest that was ever written, until it was deleted
        self._topics: dict[str, TopicRecord] = {}  # by name, likewise
        self.registrations = Registrations(world, ROOT)
        world.network.listening = self.registrations.listening
        world.zookeeper.committing = self.committing

    def committing(self, session: int, txn: Txn) -> None:
        """ZooKeeper is about to carry this out."""
        self.registrations.committing(session, txn)
        if self._world.operator is not None:
            self._world.operator.committing(session, txn)
        changes = {c.path[len(ROOT) :]: c for c in txn.changes if isinstance(c, Created | Written | Deleted)}
        led = [path for path in changes if path.startswith(LED)]
        if led:
            leader = self._world.zookeeper.tree.nodes.get(f"{ROOT}leader")
            if leader is not None and leader.owner != session and "leader" not in changes:
                self._world.violated("deposed leader", f"session {session:#x} writes {led}; {leader.owner:#x} leads")
        for path, change in changes.items():
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
                self._rises(path, decode(change.value, BundleRecord, path).epoch)

    def leaves(self, host: str, path: Path, to: Path | None) -> None:
        """A folder on the disk of ``host`` is about to be moved or removed."""
        group = path.name
        if path.parent.name != "groups" or (to is not None and to.parent.name != "trash"):
            return
        record = self._partitions.get(group)
        topic = self._topics.get(record.topic) if record is not None else None
        if record is None or topic is None or topic.state == "deleting":
            return
        if "term" not in self._world.volumes[host].listdir(path):
            return  # no replica has run in it: one writes its term before it promises anything, and a create that failed is taken back
        if host in [self._world.durable.host_of(store) for store in record.replicas]:
            self._world.violated("live data deleted", f"{host} deletes its replica of group {group}: {topic}, {record}")

    def _rises(self, path: str, epoch: int) -> None:
        if epoch < self._epochs.get(path, 0):
            self._world.violated("epoch", f"{path} goes from {self._epochs[path]} back to {epoch}")
        self._epochs[path] = epoch

    def forget(self) -> None:
        """ZooKeeper holds another history now."""
        self._epochs.clear()

    def exited(self, server: Server, status: int, failure: SteleError | None) -> None:
        if type(failure) is SteleError or isinstance(failure, InternalError):
            self._world.violated("process failed", f"{server.name}: {failure!r}")
        self.registrations.exited(server, failure)

    def end(self) -> None:
        for (host, event), lines in self._world.logged.items():
            if lines > LINES_MAX:
                raise Violation("log", f"{host} logged {event} {lines} times in {self._world.now:.0f} s")
