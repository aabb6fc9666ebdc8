"""What must hold of names, member nodes and owners in ZooKeeper whenever it carries something out, and of ports that open.

* A name is not taken from a process that lives, with a session that lives (R1.5, R1.6); nobody is refused a name that nobody has (R1.3,
  R1.4, R1.9).
* Whoever is found can be dialled; a member has its name, and a candidate is a member (R1.8).
* A member node is the ephemeral node of the session that writes it (R5.2 to R5.4, R5.9), is not taken from a process that lives (R5.5),
  does not come back once its process has left, and comes back ever more slowly where somebody keeps deleting it (R5.7, R5.8).
* A process is a member once it says that it is ready (R5.6), a datanode before its port opens (R4.6); that port opens once its replicas
  are settled (R4.1), and nobody leads behind a closed one (R4.2).  It closes once the process is no member any more (R4.8).
* A member is a member of the cluster that it belongs to, and a store that was removed is none (R2.6).
* A bundle is given to members alone (R5.9), and anew to one that registered anew (R5.10).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from stele.services.coordination.records import (
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    MemberRecord,
    NameRecord,
    decode,
)
from stele.services.errors import NameTaken, SteleError
from tests.simulation.cluster.rpc.network import Node
from tests.simulation.zookeeper.tree import Closed, Created, Deleted, Txn, Written, Znode

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest, Process, Server
    from tests.simulation.cluster.world import World

CREATIONS_MAX, CREATIONS_WITHIN_S = 12, 1.0  # of one member node by one process; the pace doubles up to half a second
STALL_MARGIN_S = 1.0  # sessions end in steps of the tick
DRAIN_SHARE = 0.4  # of the time to drain in, in which nobody cuts it short
LATELY_S = 1.0  # until a process that was refused may have taken to end


class Registrations:
    def __init__(self, world: World, root: str) -> None:
        self._world, self._root = world, root
        self._members: set[Process] = set()  # whoever has been one
        self._left: set[Process] = set()
        self._unanswered: set[Process] = set()
        self._created: defaultdict[Process, list[float]] = defaultdict(list)

    # --- ZooKeeper is about to carry something out --------------------------------------------------------------------

    def committing(self, session: int, txn: Txn) -> None:
        process = self._process(session)
        if process is None:
            return
        for change in txn.changes:
            if not isinstance(change, Created | Written | Deleted):
                continue
            folder, *rest = change.path.removeprefix(self._root).split("/")
            if folder == "names" and len(rest) == 1 and not isinstance(change, Deleted):
                self._named(rest[0], process, lets_go=_lets_go(txn, f"{change.path}/live"))
            elif folder == "members" and len(rest) == 2:
                self._member(change, process, session)
            elif folder == "election" and len(rest) == 1 and isinstance(change, Created):
                self._is_open(process, "campaigns")
                if process not in self._members:
                    self._broken("order", f"{process.host} campaigns and is no member")
            elif folder == "bundles" and len(rest) == 2 and not isinstance(change, Deleted):
                owner = decode(change.value, BundleRecord, change.path).broker
                if owner and self._node(f"members/brokers/{owner}") is None:
                    self._broken("owner", f"{'/'.join(rest)} is given to {owner}, which is no member")

    def _named(self, name: str, process: Process, lets_go: bool) -> None:
        if process.server.kind != "datanode" and not lets_go:
            self._is_open(process, f"takes the name {name}")
        node = self._node(f"names/{name}")
        if node is None or not node.value:
            return
        session = decode(node.value, NameRecord, name).session
        holder = self._process(session)
        if holder is not None and holder is not process and self._is_live(holder, session):
            self._broken("name", f"{process.host} takes the name {name} of {holder.host}, which lives")

    def _member(self, change: Created | Written | Deleted, process: Process, session: int) -> None:
        path = change.path.removeprefix(self._root)
        node = self._node(path)
        holder = self._process(node.owner) if node is not None else None
        if holder is not None and holder is not process and node is not None and self._is_live(holder, node.owner):
            self._broken("member", f"{process.host} changes the node {path} of {holder.host}, which lives")
        if isinstance(change, Deleted):
            if process.runtime.stopping.is_set() and holder is process:
                self._left.add(process)
        elif isinstance(change, Written):
            if node is not None and node.owner != session:
                self._broken("member", f"{process.host} writes to {path}, which is not of its session")
        else:
            self._joins(change, path, process, session)

    def _joins(self, change: Created, path: str, process: Process, session: int) -> None:
        if change.owner != session:
            self._broken("member", f"{process.host} creates {path} for good")
        if process in self._left:
            self._broken("member", f"{process.host} creates {path} although it has left")
        tree, session_of = self._node("cluster"), getattr(process.role, "session", None)
        if session_of is not None and (
            tree is None or decode(tree.value, ClusterRecord, "cluster").id != session_of.cluster_id
        ):
            self._broken("cluster", f"{process.host} becomes a member of another cluster than its own")
        self._check_store(change, path, process)
        named = self._node(f"names/{path.rpartition('/')[2]}")
        owner = decode(named.value, NameRecord, path).owner if named is not None and named.value else None
        if owner is None or (owner.machine, owner.pid) != (process.host, process.pid):
            self._broken("order", f"{process.host} becomes a member and has no name")
        self._is_open(process, "becomes a member")
        self._members.add(process)
        times = self._created[process]
        times.append(self._world.now)
        if len(times) > CREATIONS_MAX and times[-1] - times[-1 - CREATIONS_MAX] < CREATIONS_WITHIN_S:
            self._broken("storm", f"{process.host} created {path} {CREATIONS_MAX} times in {CREATIONS_WITHIN_S:g} s")

    def _check_store(self, change: Created, path: str, process: Process) -> None:
        """Who was removed for good does not come back (R2.6)."""
        store_id = decode(change.value, MemberRecord, path).store_id
        buried = self._node("stores/buried")
        intervals = decode(buried.value, BuriedRecord, path).intervals if buried is not None else ()
        if process not in self._members and any(first <= store_id <= last for first, last in intervals):
            self._broken("removed store", f"{process.host} becomes a member as store {store_id}, which was removed")

    def _is_open(self, process: Process, what: str) -> None:
        datanode = process.server.kind == "datanode"  # its own port opens long after its peers'
        # What it asked for may outlive it: whoever has died since has no port, and may have had one when it asked.
        if process.alive and not process.node.listens(self._world.port + datanode):
            self._broken("order", f"{process.host} {what} behind a closed port")

    # --- processes tell -----------------------------------------------------------------------------------------------

    def ready(self, process: Process) -> None:
        if process not in self._members:
            self._broken("member", f"{process.host} is ready and has never been a member")

    def listening(self, node: Node, port: int) -> None:
        process = self._world.guest(node.host)
        role = getattr(process, "role", None)
        if port != self._world.port or not hasattr(role, "store") or process is None or process.node is not node:
            return
        settled, replicas = role.store.settled(), len(role.store.replicas)
        if not process.runtime.ready.holds("settled") or settled < replicas:
            self._broken("gate", f"{node.host} opens its port with {settled} of {replicas} replicas settled")
        if process not in self._members:
            self._broken("gate", f"{node.host} opens its port and is no member")

    def released(self, node: Node, port: int) -> None:
        """A datanode that drains is no member any more when its port closes (R4.8), unless ZooKeeper did not answer or its time is up."""
        process = self._world.guest(node.host)
        role = getattr(process, "role", None)
        if port != self._world.port or not hasattr(role, "store") or process is None or process.node is not node:
            return
        member = self._node(f"members/datanodes/{node.host}")
        owner = self._process(member.owner) if member is not None else None
        has_time = self._world.now - process.told_at < process.server.config.drain_timeout_s * DRAIN_SHARE
        if has_time and node.listens(port) and owner is process and process not in self._unanswered:
            self._broken("gate", f"{node.host} closes its port and is a member")

    def unanswered(self, process: Process) -> None:
        """ZooKeeper did not say whether it is a member still."""
        self._unanswered.add(process)

    def stalls(self, guest: Guest) -> None:
        """Whose event loop stands still from now on: nothing prolongs its session once half of that has passed."""
        zookeeper = self._world.zookeeper
        session, began = zookeeper.session_of(guest.host), self._world.now
        held = zookeeper.sessions.get(session)
        if held is None:
            return
        resumed_s = guest.stopped_s

        def look() -> None:
            stood_s = guest.stopped_s - resumed_s
            still = guest.alive and guest.loop.paused and stood_s >= self._world.now - began - 1e-6
            if still and session in zookeeper.sessions and zookeeper.has_quorum:
                self._broken("stall", f"{guest.host} has stood still for {stood_s:.1f} s and keeps its session")

        self._world.scheduler.after(1.5 * held.timeout_ms / 1000 + STALL_MARGIN_S, look)

    def leads(self, process: Process, group: Any) -> None:
        if not process.node.listens(self._world.port):
            self._broken("gate", f"{process.host} leads group {group} behind a closed port")

    def exited(self, server: Server, failure: SteleError | None) -> None:
        """Who is refused a name is refused it because of another: of one that lives, or whose session does."""
        if not isinstance(failure, NameTaken):
            return
        name = server.config.name
        node = self._node(f"names/{name}")
        if node is None or any(other.process is not None for other in self._world.of_name(name) if other is not server):
            return
        session = decode(node.value, NameRecord, name).session
        holder = self._process(session)
        is_past = holder is not None and holder.host == server.name  # and over: that can be proven
        if is_past or not self._lived_lately(session):
            self._broken("name", f"{server.name} is refused the name {name}, which nobody has: {failure}")

    def _lived_lately(self, session: int) -> bool:
        """Now, or LATELY_S ago at most."""
        zookeeper = self._world.zookeeper
        since_ms = zookeeper.time_ms() - LATELY_S * 1000
        lately = itertools.takewhile(lambda txn: txn.time_ms >= since_ms, reversed(zookeeper.log))
        return session in zookeeper.sessions or any(Closed(session) in txn.changes for txn in lately)

    # --- the end ------------------------------------------------------------------------------------------------------

    def owners_are_current(self) -> bool:
        """Every bundle was given to its owner after that registered."""
        nodes = self._world.zookeeper.tree.nodes
        for path in [p for p in nodes if p.startswith(f"{self._root}bundles/") and p.count("/") == 5]:
            owner = decode(nodes[path].value, BundleRecord, path).broker
            member = self._node(f"members/brokers/{owner}")
            if owner and (member is None or member.czxid > nodes[path].mzxid):
                return False
        return True

    # --- who is who ---------------------------------------------------------------------------------------------------

    def _node(self, path: str) -> Znode | None:
        return self._world.zookeeper.tree.nodes.get(f"{self._root}{path}")

    def _process(self, session: int) -> Process | None:
        """Whose it is, or was."""
        return getattr(self._world.zookeeper.clients.get(session), "process", None)

    def _is_live(self, process: Process, session: int) -> bool:
        stopping = process.runtime.stopping.is_set()
        return process.alive and not stopping and session in self._world.zookeeper.sessions

    def _broken(self, kind: str, what: str) -> None:
        self._world.violated(kind, what)


def _lets_go(txn: Txn, guard: str) -> bool:
    """Whether a name is released, which is written to its record, too: its guard goes, and none comes."""
    return Deleted(guard) in txn.changes and not any(isinstance(c, Created) and c.path == guard for c in txn.changes)
