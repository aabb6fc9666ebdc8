"""Which bundles this broker owns, and where their partitions are, from what nameservers say.  Pure.

Guarantee: a bundle counts as owned only under the highest epoch ever seen for it; an older word (a nameserver that lags, an answer that was
under way) never brings ownership back.  Once ZooKeeper's session is lost nothing is owned until it is assigned again under a higher epoch.

Not promised: that ownership is exclusive at every moment.  That is what the epoch is for: the partition refuses whoever is late (R5.10).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stele.services.pb import nameserver_pb2

ABSENT_GRACE_S = 3.0  # a topic that a nameserver does not list may be missing because that nameserver lags
CREATING, DELETING = "creating", "deleting"

Key = tuple[str, int]  # topic, partition


@dataclass(frozen=True, slots=True)
class PartitionRoute:
    """Where a partition is."""

    topic: str
    partition: int
    group: int
    replicas: tuple[int, ...]  # store ids
    leader_hint: int  # store id; 0: none known
    bundle: str
    topic_id: int


@dataclass(slots=True)
class _Bundle:
    epoch: int
    owned: bool


class Ownership:
    """Bundles and the epochs under which this broker owns them."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._bundles: dict[str, _Bundle] = {}

    def observe(self, routing: nameserver_pb2.Routing) -> set[str]:
        """The bundles whose ownership changed."""
        changed: set[str] = set()
        for assignment in routing.bundles:
            known = self._bundles.get(assignment.bundle)
            if known is not None and assignment.epoch <= known.epoch:
                continue
            owned = assignment.broker == self._broker
            if owned or (known is not None and known.owned):
                changed.add(assignment.bundle)
            # Nobody's: perhaps the nameserver does not know of the owner's registration yet, and will name it under this very epoch.
            epoch = assignment.epoch if assignment.broker else max(0, assignment.epoch - 1)
            self._bundles[assignment.bundle] = _Bundle(epoch, owned)
        return changed

    def void(self) -> set[str]:
        """The session is lost: what was owned is owned no more; the bundles that were."""
        lost = {name for name, bundle in self._bundles.items() if bundle.owned}
        for name in lost:
            self._bundles[name].owned = False
        return lost

    def fenced(self, bundle: str, seen: int) -> bool:
        """A partition has seen the owner epoch ``seen``.  True if that ends an ownership."""
        known = self._bundles.get(bundle)
        if known is None or seen <= known.epoch:
            return False
        owned, known.owned = known.owned, False
        # The epoch stays: the assignment that goes with `seen` is still to come, and it may be this broker's.
        known.epoch = max(known.epoch, seen - 1)
        return owned

    def epoch(self, bundle: str) -> int | None:
        """The epoch under which this broker owns ``bundle``; None if it does not."""
        known = self._bundles.get(bundle)
        return known.epoch if known is not None and known.owned else None

    def is_known(self, bundle: str) -> bool:
        return bundle in self._bundles

    @property
    def known(self) -> Collection[str]:
        return self._bundles.keys()

    @property
    def owned(self) -> dict[str, int]:
        return {name: bundle.epoch for name, bundle in self._bundles.items() if bundle.owned}

    def validate(self) -> None:
        assert all(b.epoch >= 0 for b in self._bundles.values())


class RoutingTable:
    """Partitions and stores, as the latest routing facts say."""

    def __init__(self, absent_grace_s: float = ABSENT_GRACE_S) -> None:
        self._absent_grace_s = absent_grace_s
        self._routes: dict[Key, PartitionRoute] = {}
        self._absent_since_s: dict[Key, float] = {}
        self.partitions: dict[str, int] = {}  # topic → how many it has
        self.topic_ids: dict[str, int] = {}
        self.creating: set[str] = set()  # not to be served yet: which replicas there are may not be recorded
        self.endpoints: dict[int, str] = {}  # store id → endpoint
        self.named: set[Key] = set()  # by the latest of them
        self.seen = False  # whether any routing facts have come yet
        self.filtered = False  # whether of partitions only those of this broker's bundles are told

    def observe(self, routing: nameserver_pb2.Routing, now_s: float) -> set[Key]:
        """The partitions that are gone or have another group now: what serves them must end.  That a topic is not listed says that it is
        gone only if the nameserver is in step with ZooKeeper, and only after a while."""
        fresh = {(r.topic, r.partition): r for r in _routes_of(routing)}
        gone = {key for key, route in fresh.items() if key in self._routes and self._routes[key].group != route.group}
        listed = {t.topic.topic: t.topic for t in routing.topics}
        deleted = {name for name, topic in listed.items() if topic.state == DELETING}
        for key in self._unlisted(routing, fresh, listed):
            if key in fresh or (routing.filtered and key[0] in listed and key[0] not in deleted):
                self._absent_since_s.pop(key, None)
            elif key[0] in deleted or (
                not routing.age_ms and now_s - self._absent_since_s.setdefault(key, now_s) >= self._absent_grace_s
            ):
                self._routes.pop(key, None)
                self._absent_since_s.pop(key, None)
                gone.add(key)
        self._routes.update(fresh)
        self._count(routing, listed, deleted, {topic for topic, _ in gone})
        # A store that is not registered at this moment keeps its last address: it may be the nameserver that lags.
        self.endpoints.update(_endpoints_of(routing))
        self.named = fresh.keys() | gone
        self.seen, self.filtered = True, routing.filtered
        return gone

    def _unlisted(
        self,
        routing: nameserver_pb2.Routing,
        fresh: Mapping[Key, PartitionRoute],
        listed: Mapping[str, nameserver_pb2.TopicInfo],
    ) -> list[Key]:
        """Those of the known partitions that may not be there any more, or may be again."""
        if not routing.changes:
            return list(self._routes)
        touched = {key for topic in (*listed, *routing.gone_topics) for key in self._keys_of(topic)}
        return [key for key in touched | self._absent_since_s.keys() if key in self._routes]

    def _keys_of(self, topic: str) -> Iterable[Key]:
        keys = ((topic, partition) for partition in range(self.partitions.get(topic, 0)))
        return [key for key in keys if key in self._routes]

    def _count(
        self,
        routing: nameserver_pb2.Routing,
        listed: Mapping[str, nameserver_pb2.TopicInfo],
        deleted: set[str],
        gone: set[str],
    ) -> None:
        """How many partitions topics have, their ids, and which are being created."""
        live = {name: topic for name, topic in listed.items() if name not in deleted}
        if not routing.changes:
            self.partitions = {}
            for topic, partition in self._routes:
                self.partitions[topic] = max(self.partitions.get(topic, 0), partition + 1)
            self.topic_ids = {route.topic: route.topic_id for route in self._routes.values()}
            self.creating = set()
        else:
            for topic in (*routing.gone_topics, *gone, *deleted):
                self.creating.discard(topic)
                if topic not in live and not self._keys_of(topic):
                    self.partitions.pop(topic, None)
                    self.topic_ids.pop(topic, None)
        for name, info in live.items():
            self.partitions[name] = info.partitions
            self.topic_ids[name] = info.id
            if info.state == CREATING:
                self.creating.add(name)
            else:
                self.creating.discard(name)

    def get(self, topic: str, partition: int) -> PartitionRoute | None:
        return self._routes.get((topic, partition))

    def of_topic(self, topic: str) -> list[PartitionRoute]:
        return [self._routes[key] for key in self._keys_of(topic)]


def _routes_of(routing: nameserver_pb2.Routing) -> Iterator[PartitionRoute]:
    for topic in routing.topics:
        if topic.topic.state == DELETING:
            continue
        for p in topic.partitions:
            replicas = tuple(r.store_id for r in p.replicas)
            yield PartitionRoute(
                topic.topic.topic, p.partition, p.group, replicas, p.leader_store_id, p.bundle, topic.topic.id
            )


def _endpoints_of(routing: nameserver_pb2.Routing) -> Mapping[int, str]:
    return {m.store_id: m.address.endpoint for m in routing.datanodes if m.store_id and m.address.endpoint}
