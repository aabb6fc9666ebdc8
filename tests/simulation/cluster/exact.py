"""Faults that are several things at once, in the order and at the moments at which they hurt most: what chance brings together in one
of many thousand runs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from stele.client import Client
from stele.errors import SteleError
from stele.services.coordination.records import BundleRecord, PartitionRecord, StoreRecord, TopicRecord, decode
from stele.services.errors import SubscriptionNotFound, TopicNotFound
from tests.simulation.cluster.exact_replicas import MOMENT_S, ReplicaStrike
from tests.simulation.cluster.faults import MEMBERS
from tests.simulation.zookeeper.tree import Created, Deleted, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.world import World
    from tests.simulation.zookeeper.tree import Txn

ROOT, TREE = "/stele/stele/", "/stele"
LED = ("topics/", "partitions/", "bundles/")
STAYS_S = 4.0  # a usurper, after the other has come back
LOST_BEFORE_S = 0.001  # the connection breaks, and then the cut is over
DELETES_S = 0.5
MORE_S = 0.5  # than a read waits for its answer
CHURNED = "churned"  # of the name of the topic that comes and goes
STALE_S = 6.0  # after which a client hears nameservers again: it believes what it knew once a look-up was not answered for 5 s
GOES_S = 4.0  # within which stores that are reached have deleted a topic, and its records are gone
LIVES_S = 0.5  # a topic, before its creation has never happened
GIVEN_ANEW_S = 0.7  # within which a bundle is given to who comes back, and written under the new epoch


def _begins_to_go(change: object) -> bool:
    """The topic that comes and goes."""
    if not isinstance(change, Written) or not change.path.startswith(f"{ROOT}topics/") or CHURNED not in change.path:
        return False
    return decode(change.value, TopicRecord, change.path).state == "deleting"


def _is_made(change: object) -> bool:
    return isinstance(change, Created) and change.path.startswith(f"{ROOT}topics/") and CHURNED in change.path


def _is_gone(change: object) -> bool:
    return isinstance(change, Deleted) and change.path.startswith(f"{ROOT}topics/") and CHURNED in change.path


def _is_held(change: object) -> bool:
    """It is recorded that stores hold it."""
    if not isinstance(change, Written) or not change.path.startswith(f"{ROOT}partitions/"):
        return False
    record = decode(change.value, PartitionRecord, change.path)
    return CHURNED in record.topic and bool(record.materialised)


def _goes(change: object) -> bool:
    """A store is to be removed."""
    if not isinstance(change, Written) or not change.path.startswith(f"{ROOT}stores/"):
        return False
    return change.path.rpartition("/")[2].isdigit() and decode(change.value, StoreRecord).state == "offline"


class ExactStrike(ReplicaStrike):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._deposing: list[float] = []  # pauses after a write of the leader
        self._failing = 0  # rounds of leaders
        self._expiring = 0  # owners
        self._losing: list[float] = []  # for how long answers are held, and then lost
        self._returning: dict[str, Created] = {}  # nameserver → what comes back once it has seen that it is gone
        self._hiding: list[float] = []  # topics from brokers
        self._asked = 0  # subscriptions
        self._misled = False  # a client sends to a topic that comes and goes
        self._misleading: list[float] = []  # how long brokers are not heard
        self._forgetting: list[
            tuple[int, float]
        ] = []  # topics that are to be made meanwhile, and for how long all is stopped then
        self._forgets_from = 0
        self._before_held = 0  # transactions before the topic that comes and goes was recorded as held
        self._half: list[tuple[str, float]] = []  # who keeps that topic when it goes, how long all is stopped then
        self._half_gone = 0.0
        self._following = 0  # stores that are to go with another one
        self._unanswered: dict[
            str, tuple[str, float]
        ] = {}  # host → what it will ask for, and for how long it hears nothing then
        world.zookeeper.judging, world.zookeeper.reading = self.judging, self.reading

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

        if self._misleading and any(map(_begins_to_go, txn.changes)):
            self._mislead(self._misleading.pop())

        if self._forgetting and any(map(_is_made, txn.changes)):
            self._forget_soon()

        if any(map(_is_made, txn.changes)):
            self._before_held = 0

        if not self._before_held and any(map(_is_held, txn.changes)):
            self._before_held = len(self._world.zookeeper.log)

        if self._half and self._before_held and any(map(_begins_to_go, txn.changes)):
            self._half_delete(*self._half.pop())

        if self._half_gone and any(map(_is_gone, txn.changes)):
            seconds, self._half_gone = self._half_gone, 0.0
            self._before_it_was_held(seconds)

        if self._hiding and any(map(_is_made, txn.changes)):
            self._hide(self._hiding.pop())

        if self._following and any(map(_goes, txn.changes)):
            self._following -= 1
            self._world.after_unless_healed(0.0, self._ask_for_another)

    def _answers_lost(self, seconds: float) -> None:
        """Of brokers to the client that makes topics of one name, from the moment at which one begins to go."""
        self._losing.append(seconds)

    def _lose_answers(self, seconds: float) -> None:
        client = self._world.hosts.clients[-1]
        for broker in self._world.hosts.brokers:
            self._one_way_cut(broker, client, seconds)
            self._world.after_unless_healed(seconds - LOST_BEFORE_S, partial(self._reset, broker, client))

    def _stale_route(self, seconds: float) -> None:
        """A client that makes no topics sends to the one that comes and goes.  From the moment at which that begins to go it does not hear
        brokers for a while, and nameservers for longer."""
        world = self._world
        guest = world.workload.clients.get(world.hosts.clients[0])
        if guest is None or not hasattr(guest, "client"):
            return
        if not self._misled:
            self._misled = True
            world.workload.begin(
                guest, world.workload.outliving.produce(guest, guest.client, world.workload, f"shop/{CHURNED}")
            )
        self._misleading.append(seconds)

    def _mislead(self, seconds: float) -> None:
        client = self._world.hosts.clients[0]
        for nameserver in self._world.hosts.nameservers:
            self._cut(nameserver, client, seconds + STALE_S)
        for broker in self._world.hosts.brokers:
            self._one_way_cut(broker, client, seconds)
            self._world.after_unless_healed(seconds - LOST_BEFORE_S, partial(self._reset, broker, client))

    def _unheard_of(self, seconds: float) -> None:
        """No broker hears nameservers from the moment at which a topic is made, and somebody asks for it meanwhile."""
        self._hiding.append(seconds)

    def _hide(self, seconds: float) -> None:
        world = self._world
        for broker in world.hosts.brokers:
            for nameserver in world.hosts.nameservers:
                self._cut(broker, nameserver, seconds)
        guest = world.workload.clients[world.hosts.clients[-1]]
        world.workload.begin(guest, self._ask_for_the_new(guest))

    async def _ask_for_the_new(self, guest: Guest) -> None:
        """Once it is ready, which is when its creation returns."""
        world, path = self._world, f"{ROOT}topics/shop/{CHURNED}"
        client: Client = guest.client  # type: ignore[attr-defined]
        while (topic := self._topic(path)) is None or topic.state != "ready":
            if world.healed:
                return
            await asyncio.sleep(MOMENT_S)
        self._asked += 1
        try:
            await client.admin.create_subscription(f"shop/{CHURNED}", f"asked-{self._asked}")
        except SteleError as error:
            if isinstance(error, TopicNotFound) and self._topic(path) == topic:
                world.violated("living topic denied", repr(error))

    def _topic(self, path: str) -> TopicRecord | None:
        node = self._world.zookeeper.tree.nodes.get(path)
        return decode(node.value, TopicRecord, path) if node is not None else None

    def _deletion_unanswered(self, seconds: float) -> None:
        """Somebody deletes a subscription, and hears no broker until the connection breaks."""
        world = self._world
        guest = world.workload.clients.get(world.hosts.clients[1])
        if guest is not None and hasattr(guest, "client") and world.workload.main is not None:
            world.workload.begin(guest, self._delete_unheard(guest, guest.client, seconds))

    async def _delete_unheard(self, guest: Guest, client: Client, seconds: float) -> None:
        world, topic = self._world, "shop/asked"
        self._asked += 1
        name = f"asked-{self._asked}"
        try:
            await client.admin.create_topic(topic, partitions=1, if_absent=True)
            await client.admin.create_subscription(topic, name)
            if world.healed:
                return
            for broker in world.hosts.brokers:
                self._one_way_cut(broker, guest.host, seconds)
                world.after_unless_healed(seconds - LOST_BEFORE_S, partial(self._reset, broker, guest.host))
            await client.admin.delete_subscription(topic, name)
        except SteleError as error:
            if isinstance(error, SubscriptionNotFound):
                world.violated("definite error", f"{name} was there, and its deletion ended with {error!r}")

    def _refused(self, seconds: float) -> None:
        """To the nameserver that leads it looks as if no broker were there any more."""
        world = self._world
        leader = world.zookeeper.tree.nodes.get(f"{ROOT}leader")
        owner = leader.owner if leader is not None else 0
        for host in world.hosts.nameservers:
            if owner and world.zookeeper.session_of(host) == owner:
                pairs = {(host, broker) for broker in world.hosts.brokers}
                world.network.refusing |= pairs
                for broker in world.hosts.brokers:
                    self._reset(host, broker)
                self._last(seconds, lambda pairs=pairs: world.network.refusing.difference_update(pairs))  # type: ignore[misc]

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
        back = self._returning.get(host)
        if back is not None and path == back.path and path not in self._world.zookeeper.tree.nodes:
            del self._returning[host]
            self._world.after_unless_healed(0.0, partial(self._return, back))

        about, seconds = self._unanswered.get(host, ("", 0.0))
        if path == about and not self._world.healed:
            del self._unanswered[host]
            self._cut_from_zookeeper(host, seconds)

    def _returns_unseen(self, host: str, nameserver: str) -> None:
        """Somebody deletes a member node, and puts it back as soon as a nameserver has seen that it is gone, before that looks anew at what
        members there are."""
        path = f"{MEMBERS}/{self._world.servers[host].kind}s/{host}"
        node = self._world.zookeeper.tree.nodes.get(path)
        if node is not None:
            self._returning[nameserver] = Created(path, node.value, node.owner)
            self._world.zookeeper.change(Deleted(path))

    def _return(self, back: Created) -> None:
        zookeeper = self._world.zookeeper
        if back.path not in zookeeper.tree.nodes and back.owner in zookeeper.sessions:
            zookeeper.change(back)

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

    def _older_topics(self, times: int, seconds: float) -> None:
        """Topics of one name are made some times more, and then ZooKeeper is what it was before the first of them."""
        self._forgetting.append((times, seconds))
        self._forgets_from = 0

    def _forget_soon(self) -> None:
        """One is about to be made."""
        world, (times, seconds) = self._world, self._forgetting.pop()
        if world.workload.recorded_at is None or self._put_away is not None:
            return
        self._forgets_from = self._forgets_from or len(world.zookeeper.log)
        if times > 1:
            self._forgetting.append((times - 1, seconds))
            return

        def strike() -> None:
            self._stop_all(seconds)
            world.zookeeper.roll_back(self._forgets_from)
            world.checks.forget()

        world.after_unless_healed(LIVES_S, strike)

    def _older_half_deleted(self, keeps: str, seconds: float) -> None:
        """A topic goes from all stores but one, and then ZooKeeper is what it was before it was recorded that they hold it."""
        self._half.append((keeps, seconds))

    def _half_delete(self, keeps: str, seconds: float) -> None:
        world = self._world
        if world.workload.recorded_at is None or self._put_away is not None:
            return
        self._isolate(keeps, GOES_S)
        world.zookeeper.expire(world.zookeeper.session_of(keeps))
        self._half_gone = seconds

    def _before_it_was_held(self, seconds: float) -> None:
        world, before = self._world, self._before_held

        def strike() -> None:
            self._stop_all(seconds)
            world.zookeeper.roll_back(before)
            world.checks.forget()

        world.after_unless_healed(LIVES_S, strike)

    def _another_goes(self) -> None:
        """Once one store is to be removed, another one is, before anybody can know of the first."""
        if self._world.operator is not None and not self._world.operator.cancels:
            self._following += 1

    def _ask_for_another(self) -> None:
        world = self._world
        nodes = world.zookeeper.tree.nodes
        stores = {n: nodes[f"{ROOT}stores/{n}"] for n in sorted(nodes[f"{ROOT}stores"].children) if n.isdigit()}
        up = [int(number) for number, node in stores.items() if decode(node.value, StoreRecord).state == "up"]
        guest = world.workload.clients[world.hosts.clients[-1]]

        async def ask() -> None:
            try:
                await guest.client.admin.decommission_store(up[-1])  # type: ignore[attr-defined]
            except SteleError as error:
                world.say("operation refused", guest.host, f"{error!r}")

        if hasattr(guest, "client"):
            world.workload.begin(guest, ask())

    def _round_fails(self) -> None:
        """By a fault of the program."""
        self._failing += 1

    def round_begins(self) -> None:
        if self._failing and not self._world.healed:
            self._failing -= 1
            raise RuntimeError("a fault of the program")
