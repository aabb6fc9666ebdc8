"""Faults that are several things at once, in the order and at the moments at which they hurt most: what chance brings together in one
of many thousand runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from stele.services.coordination.records import BundleRecord, TopicRecord, decode
from tests.simulation.cluster.faults import Strike
from tests.simulation.zookeeper.tree import Created, Deleted, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World
    from tests.simulation.zookeeper.tree import Txn

ROOT, TREE = "/stele/stele/", "/stele"
LED = ("topics/", "partitions/", "bundles/")
STAYS_S = 4.0  # a usurper, after the other has come back
MOMENT_S = 0.01
LOST_BEFORE_S = 0.001  # the connection breaks, and then the cut is over
DELETES_S = 0.5
MORE_S = 0.5  # than a read waits for its answer
CHURNED = "churned"  # of the name of the topic that comes and goes
GIVEN_ANEW_S = 0.7  # within which a bundle is given to who comes back, and written under the new epoch
EIO = 5


def _begins_to_go(change: object) -> bool:
    """The topic that comes and goes."""
    if not isinstance(change, Written) or not change.path.startswith(f"{ROOT}topics/") or CHURNED not in change.path:
        return False
    return decode(change.value, TopicRecord, change.path).state == "deleting"


class ExactStrike(Strike):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._deposing: list[float] = []  # pauses after a write of the leader
        self._failing = 0  # rounds of leaders
        self._expiring = 0  # owners
        self._losing: list[float] = []  # for how long answers are held, and then lost
        self._unanswered: dict[
            str, tuple[str, float]
        ] = {}  # host → what it will ask for, and for how long it hears nothing then
        world.zookeeper.judging, world.zookeeper.reading = self.judging, self.reading

    # --- ZooKeeper and names ------------------------------------------------------------------------------------------

    def _deposed(self, after_s: float) -> None:
        """The candidacy of the nameserver that leads is deleted, just after it has written something."""
        self._deposing.append(after_s)

    def committing(self, session: int, txn: Txn) -> None:
        """ZooKeeper is about to carry this out."""
        paths = [c.path[len(ROOT) :] for c in txn.changes if isinstance(c, Created | Written | Deleted)]
        if self._deposing and any(path.startswith(LED) for path in paths):
            self._world.after_unless_healed(self._deposing.pop(), lambda: self._depose(session))

        if self._losing and any(map(_begins_to_go, txn.changes)):
            self._lose_answers(self._losing.pop())

    def _answers_lost(self, seconds: float) -> None:
        """Of brokers to the client that makes topics of one name, from the moment at which one begins to go."""
        self._losing.append(seconds)

    def _lose_answers(self, seconds: float) -> None:
        client = self._world.hosts.clients[-1]
        for broker in self._world.hosts.brokers:
            self._one_way_cut(broker, client, seconds)
            self._world.after_unless_healed(seconds - LOST_BEFORE_S, partial(self._reset, broker, client))

    def _depose(self, session: int) -> None:
        zookeeper = self._world.zookeeper
        nodes, folder = zookeeper.tree.nodes, f"{ROOT}election"
        mine = [
            path for path in (f"{folder}/{name}" for name in nodes[folder].children) if nodes[path].owner == session
        ]
        if mine:
            zookeeper.change(*map(Deleted, mine))

    def _owner_expires(self) -> None:
        """The session of a broker ends just before a bundle is given to it."""
        self._expiring += 1

    def _expires_unheard(self, host: str, seconds: float) -> None:
        """The session of a broker ends, and neither ZooKeeper nor a nameserver can tell it."""
        session = self._world.zookeeper.session_of(host)
        self._cut_from_zookeeper(host, seconds)
        for nameserver in self._world.hosts.nameservers:
            self._cut(host, nameserver, seconds)
        self._world.zookeeper.expire(session)

    def judging(self, request: Any) -> None:
        """ZooKeeper is about to look at a write."""
        if not self._expiring or self._world.healed:
            return
        for operation in getattr(request, "operations", ()):
            if getattr(operation, "path", "").startswith(f"{ROOT}bundles/") and getattr(operation, "data", b""):
                broker = decode(operation.data, BundleRecord, operation.path).broker
                session = self._world.zookeeper.session_of(broker) if broker else 0
                if session:
                    self._expiring -= 1
                    self._world.zookeeper.expire(session)
                    return

    def _laggard_alone(self, host: str, seconds: float) -> None:
        """A nameserver reaches no ZooKeeper, and some time later it is the only one."""

        def strike() -> None:
            for other in self._world.hosts.nameservers:
                if other != host:
                    self._kill(other, seconds)

        self._cut_from_zookeeper(host, 2 * seconds)
        self._world.after_unless_healed(seconds, strike)

    def _usurped(self, host: str, seconds: float) -> None:
        """It reaches no ZooKeeper, and another process waits for its name; when it comes back somebody deletes the other's member node."""
        self._world.after_unless_healed(seconds, lambda: self._member_deleted(host, DELETES_S))
        double = self._world.double(host, host, self._elsewhere(host), again=True)
        self._cut_from_zookeeper(host, seconds)

        def over() -> None:
            double.wanted = False
            double.kill(0.0, "kill")

        self._last(seconds + STAYS_S, over)

    def _unanswered_double(self, host: str, seconds: float) -> None:
        """A second process under the same name, on another host; what it asks about that name is not answered in time."""
        double = self._world.double(host, host, self._elsewhere(host))
        self._unanswered[double.name] = (f"{ROOT}names/{host}", double.config.session_timeout_s + MORE_S)
        self._last(seconds, lambda: double.kill(0.0, "kill"))

    def reading(self, host: str, path: str) -> None:
        """ZooKeeper is about to answer."""
        about, seconds = self._unanswered.get(host, ("", 0.0))
        if path == about and not self._world.healed:
            del self._unanswered[host]
            self._cut_from_zookeeper(host, seconds)

    def _answer_lost_at_start(self, host: str, down_s: float, when: str, skip: int) -> None:
        """To one of the first writes of a process."""
        self._kill(host, down_s)
        self._world.after_unless_healed(down_s, lambda: self._zookeeper_answer_lost(host, when, skip))

    def _gone(self, host: str, down_s: float) -> None:
        """For longer than its session lasts."""
        self._power_loss(host, down_s)

    def _wiped_under_way(self, seconds: float) -> None:
        """Every session ends and somebody deletes everything while all run, and a nameserver begins anew in it; then everything is stopped,
        and what it held is put back."""
        if self._world.workload.recorded_at is None or self._put_away is not None:
            return
        zookeeper = self._world.zookeeper
        self._put_away = list(zookeeper.log)
        for session in list(zookeeper.sessions):
            zookeeper.expire(session)
        # One that had gone back would be refused by whoever has seen more: these go on from where it stands.
        zookeeper.change(
            *(Deleted(path) for path in sorted(zookeeper.tree.nodes, reverse=True) if path.startswith(TREE))
        )
        self._world.checks.forget()
        self._kill(self._world.hosts.nameservers[0], MOMENT_S)
        self._last(seconds, self._put_back)

    def _older_epochs(self, times: int, seconds: float) -> None:
        """Bundles are given anew some times, and then ZooKeeper is what it was before."""
        if self._world.workload.recorded_at is None:
            return
        for number in range(times):
            for broker in self._world.hosts.brokers:
                self._world.after_unless_healed(number * GIVEN_ANEW_S, partial(self._session_expired, broker))
        self._world.after_unless_healed(times * GIVEN_ANEW_S, partial(self._older_zookeeper, 0.0, seconds))

    def _round_fails(self) -> None:
        """By a fault of the program."""
        self._failing += 1

    def round_begins(self) -> None:
        if self._failing and not self._world.healed:
            self._failing -= 1
            raise RuntimeError("a fault of the program")

    # --- disks --------------------------------------------------------------------------------------------------------

    def _lost_behind_a_laggard(self, which: float, lags_s: float, down_s: float) -> None:
        """Of three replicas one hears nothing for a while, so that the two others alone acknowledge; then one of these comes back with
        nothing, while the leader is down."""
        world, replicas = self._world, self._replicas(which)
        leader = next((host for host, group in replicas.items() if group.is_leader), "")
        followers = [host for host in replicas if host != leader]
        if not leader or len(followers) != 2 or not world.may_lose(followers[0]):
            return
        lost, laggard = followers

        def strike() -> None:
            volume = world.volumes[lost]
            if world.servers[lost].process is not None and volume.has_folder(volume.path / "groups"):
                self._kill(leader, down_s)
                self._kill(lost, MOMENT_S)
                volume.lose(volume.path / "groups")
                world.durable.lost(lost)
                world.to_repair.add(lost)

        self._isolate(laggard, lags_s)
        world.after_unless_healed(lags_s - MOMENT_S, strike)

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
