"""The nameserver's answers to readers, made from a catalog and the datanodes' reports.  Pure.

Guarantee: a route names an owner only while that broker is registered and the assignment was meant for this incarnation of it; addresses
come from live registrations; a leader is a hint and may be stale.

Not promised: that two nameservers answer alike at one moment.  Whoever acts on a stale answer is refused by the epoch or by the
partition's leader and looks up again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

from stele.nameserver.catalog import (
    Catalog,
    Member,
    MemberState,
    PartitionEntry,
    StoreEntry,
    TopicEntry,
    TopicState,
    removed,
)
from stele.nameserver.reconcile import is_absent, is_new
from stele.nameserver.reports import VOTING, LeaderReport, ReplicaState, Reports, is_heard
from stele.services.bundles import bundle_of
from stele.services.errors import MetadataBehind, NamespaceNotFound, StoreUnknown, TopicNotFound
from stele.services.high_water import NOTHING_TOLD, HighWater
from stele.services.pb import common_pb2, datanode_pb2, nameserver_pb2
from stele.services.topics import parse_topic

T = TypeVar("T")
TOPICS_LISTED_MAX: Final = 10_000  # in one message, where a limit is given
PARTITIONS_LISTED_MAX: Final = 2_000


class View:
    """One moment of the cluster, ready to be asked."""

    def __init__(
        self,
        catalog: Catalog,
        reports: Reports,
        leaders: dict[int, LeaderReport],
        seen: HighWater = NOTHING_TOLD,
        owner_epochs: Mapping[str, int] | None = None,
    ) -> None:
        self.catalog = catalog
        self.reports = reports
        self.leaders = leaders
        self._owner_epochs = owner_epochs  # None: to be found in the reports
        self.seen = seen  # the highest that a store has said it was told

    # --- the whole ------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is wrong with the cluster as a whole, one line each."""
        found = []
        if self.catalog.imported:
            found.append(awaits(self.unheard_since_import()))
        elif self.seen.beyond(self.catalog.high_water):
            found.append(behind(self.catalog.high_water, self.seen).message)
        for name, epoch in sorted(self.owner_epochs().items()):
            bundle = self.catalog.bundles.get(name)
            if bundle is not None and bundle.epoch < epoch:
                found.append(
                    f"nothing of the bundle {name} can be written: its partitions have seen the owner epoch {epoch}, "
                    f"{bundle.broker or 'nobody'} has it under {bundle.epoch}"
                )
        brokers = self.catalog.brokers
        if brokers and brokers.keys() <= self.catalog.drained.keys():
            found.append(
                f"every broker is drained: nobody may be given bundles; `stele broker undrain {min(brokers)}` takes it back"
            )
        return found

    def owner_epochs(self) -> Mapping[str, int]:
        """The highest owner epoch that partitions of a bundle have seen, of bundles of which any has been reported."""
        if self._owner_epochs is not None:
            return self._owner_epochs
        seen: dict[int, int] = {}
        for report in self.reports.values():
            if report.connected:
                for group, replica in report.replicas.items():
                    if replica.owner_epoch > seen.get(group, 0):
                        seen[group] = replica.owner_epoch
        epochs: dict[str, int] = {}
        for group, epoch in seen.items():
            partition = self.catalog.partitions.get(group)
            bundle = self._bundle(partition) if partition is not None else ""
            if bundle:
                epochs[bundle] = max(epoch, epochs.get(bundle, 0))
        return epochs

    def _bundle(self, partition: PartitionEntry) -> str:
        """Empty while its namespace is not seen."""
        namespace = self.catalog.namespaces.get(partition.topic.partition("/")[0])
        if namespace is None:
            return ""
        return bundle_of(partition.topic, partition.index, namespace.bundles, namespace.splits)

    def unheard_stores(self) -> set[int]:
        """Stores that could be given replicas and have not said yet what they hold and have seen."""
        return {store_id for store_id in self.catalog.placeable_stores if not is_heard(self.reports, store_id)}

    def unheard_since_import(self) -> list[str]:
        """Names of the stores, of those that are recorded or registered, that have not said yet what they have seen."""
        known = {i: s.name for i, s in self.catalog.stores.items() if not self.catalog.is_removed(i)}
        known |= {i: member.name for i, member in self.catalog.live_stores.items()}
        return [
            name
            for store_id, name in sorted(known.items())
            if not is_heard(self.reports, store_id) or self.reports[store_id].status.state == MemberState.LOADING
        ]

    # --- topics ---------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> TopicEntry:
        """Raises InvalidArgument, TopicNotFound."""
        parse_topic(name)
        topic = self.catalog.topics.get(name)
        if topic is None:
            raise TopicNotFound(f"there is no topic {name}", topic=name)
        return topic

    def lookup(self, name: str) -> nameserver_pb2.LookupResponse:
        topic = self.topic(name)
        return nameserver_pb2.LookupResponse(topic=topic_info(topic), partitions=self.routes(topic))

    def topics(self, namespace: str = "", limit: int = 0, after: str = "") -> nameserver_pb2.ListTopicsResponse:
        """By name, those that follow ``after``; with a limit no more than that, nor than one message is to hold."""
        self._check_namespace(namespace)
        names = self.catalog.topic_names
        following = (
            n for n in islice(names, bisect_right(names, after), None) if not namespace or n.startswith(f"{namespace}/")
        )
        page, more = _page(following, min(limit, TOPICS_LISTED_MAX))
        return nameserver_pb2.ListTopicsResponse(topics=[topic_info(self.catalog.topics[n]) for n in page], more=more)

    def _check_namespace(self, namespace: str) -> None:
        """NamespaceNotFound, unless it is there or none is named."""
        if namespace and namespace not in self.catalog.namespaces:
            raise NamespaceNotFound(f"there is no namespace {namespace}", namespace=namespace)

    def namespaces(self) -> list[nameserver_pb2.NamespaceInfo]:
        topics: dict[str, int] = {}
        for name in self.catalog.topics:
            namespace = name.partition("/")[0]
            topics[namespace] = topics.get(namespace, 0) + 1
        return [
            nameserver_pb2.NamespaceInfo(
                namespace=n.name,
                bundles=n.bundles + len(n.splits),
                replication=n.replication,
                topics=topics.get(n.name, 0),
                retention=n.retention.message(),
            )
            for _, n in sorted(self.catalog.namespaces.items())
        ]

    def routes(self, topic: TopicEntry) -> list[nameserver_pb2.PartitionRoute]:
        return [self.route(p) for p in self.shown(topic)]

    def shown(self, topic: TopicEntry) -> list[PartitionEntry]:
        """Of a topic that grows, without those that are still being made."""
        return [p for p in self.catalog.partitions_of.get(topic.name, ()) if p.index < topic.partitions]

    def route(self, partition: PartitionEntry) -> nameserver_pb2.PartitionRoute:
        route = nameserver_pb2.PartitionRoute(
            partition=partition.index,
            group=partition.group,
            replicas=[self._replica(partition, s) for s in partition.replicas],
        )
        leader = self.leaders.get(partition.group)
        if leader is not None and leader.store_id in partition.replicas:
            route.leader_store_id = leader.store_id
        route.bundle = self._bundle(partition)
        if route.bundle:
            owner = self.owner(route.bundle)
            bundle = self.catalog.bundles.get(route.bundle)
            route.owner_epoch = bundle.epoch if bundle is not None else 0
            if owner is not None:
                route.broker = owner.name
                route.broker_address.CopyFrom(address(owner))
        return route

    def slim_route(self, partition: PartitionEntry, bundle: str) -> nameserver_pb2.PartitionRoute:
        """What a broker needs of a partition of its own."""
        leader = self.leaders.get(partition.group)
        return nameserver_pb2.PartitionRoute(
            partition=partition.index,
            group=partition.group,
            replicas=[nameserver_pb2.Replica(store_id=s) for s in partition.replicas],
            leader_store_id=leader.store_id if leader is not None and leader.store_id in partition.replicas else 0,
            bundle=bundle,
        )

    def assignment(self, bundle_name: str) -> nameserver_pb2.BundleAssignment:
        """To nobody while the broker that its record means is not seen."""
        bundle = self.catalog.bundles[bundle_name]
        broker = bundle.broker if self.owner(bundle_name) is not None else ""
        return nameserver_pb2.BundleAssignment(bundle=bundle_name, broker=broker, epoch=bundle.epoch)

    def owner(self, bundle_name: str) -> Member | None:
        """The live broker that the bundle's record means."""
        bundle = self.catalog.bundles.get(bundle_name)
        if bundle is None:
            return None
        member = self.catalog.brokers.get(bundle.broker)
        return member if member is not None and member.joined_zxid <= bundle.assigned_zxid else None

    def _replica(self, partition: PartitionEntry, store_id: int) -> nameserver_pb2.Replica:
        member = self.catalog.live_stores.get(store_id)
        reachable = member is not None and member.state != MemberState.LOADING
        lost = self.lost(partition, store_id)
        return nameserver_pb2.Replica(
            store_id=store_id,
            endpoint=member.endpoint if member is not None and reachable else "",
            state=ReplicaState.LOST if lost else self._replica_state(partition.group, store_id),
            problem=lost,
        )

    def _replica_state(self, group: int, store_id: int) -> str:
        report = self.reports.get(store_id)
        if report is None or not report.connected:
            return ""
        if (stray := report.strays.get(group)) is not None:
            return stray.kind
        if (known := report.replicas.get(group)) is None:
            return ""
        return ReplicaState.LEARNER if known.state in VOTING and self._is_not_counted(group, store_id) else known.state

    def _is_not_counted(self, group: int, store_id: int) -> bool:
        leader = self.leaders.get(group)
        report = self.reports.get(leader.store_id) if leader is not None else None
        said = report.replicas.get(group) if report is not None else None
        return said is not None and len(said.voters) > 0 and store_id not in said.voters

    def lost(self, partition: PartitionEntry, store_id: int) -> str:
        """What is to be said of a replica that its store should have and has not; nothing while the partition is new there."""
        topic = self.catalog.topic_of(partition)
        if topic is None or topic.state == TopicState.DELETING or is_new(topic, partition, store_id):
            return ""
        if store_id in partition.joining or store_id in partition.going:  # on its way
            return ""
        if not is_absent(self.catalog, self.reports, partition, store_id):
            return ""
        has_lost = "lost its" if store_id in partition.materialised else "has no"
        return f"store {store_id} {has_lost} replica of {partition.topic}-{partition.index}"

    # --- stores ---------------------------------------------------------------------------------------------------

    def resolve(self, store_id: int) -> nameserver_pb2.ResolveStoreResponse:
        """The store's addresses.  StoreTombstone: known to be removed; StoreUnknown: never seen, or not registered now (R2.1)."""
        check_not_removed(self.catalog, store_id)
        member = self.catalog.live_stores.get(store_id)
        if member is None:
            known = "is not registered now" if store_id in self.catalog.stores else "was never seen"
            raise StoreUnknown(f"store {store_id} {known}", store_id=store_id)
        return nameserver_pb2.ResolveStoreResponse(
            store_id=store_id, endpoint=member.endpoint, raft_endpoint=member.raft_endpoint
        )

    def stores(self) -> list[nameserver_pb2.StoreInfo]:
        return [self._store(s) for _, s in sorted(self.catalog.stores.items())]

    def _store(self, store: StoreEntry) -> nameserver_pb2.StoreInfo:
        member = self.catalog.live_stores.get(store.store_id)
        return nameserver_pb2.StoreInfo(
            store_id=store.store_id,
            name=store.name,
            state=store.state,
            cordoned=store.cordoned,
            rack=store.rack,
            live=member is not None,
            member=member_info(member) if member is not None else None,
            status=self._status(store.store_id, member),
        )

    def _status(self, store_id: int, member: Member | None) -> datanode_pb2.StoreStatus | None:
        """What the store says of itself; while it loads, what its registration says (R4.4)."""
        report = self.reports.get(store_id)
        if report is not None:
            return report.whole()
        if member is None:
            return None
        return datanode_pb2.StoreStatus(store_id=store_id, state=member.state, loaded=member.loaded, total=member.total)

    # --- members --------------------------------------------------------------------------------------------------

    def brokers(self) -> list[nameserver_pb2.BrokerInfo]:
        owned: dict[str, list[str]] = {}
        for bundle in self.catalog.bundles.values():
            if bundle.broker:
                owned.setdefault(bundle.broker, []).append(bundle.name)
        infos = []
        for name in sorted(owned.keys() | self.catalog.brokers.keys() | self.catalog.drained.keys()):
            member = self.catalog.brokers.get(name)
            infos.append(
                nameserver_pb2.BrokerInfo(
                    name=name,
                    live=member is not None,
                    member=member_info(member) if member is not None else None,
                    bundles=sorted(owned.get(name, ())),
                    drained=name in self.catalog.drained,
                )
            )
        return infos

    def bundles(self, namespace: str = "") -> list[nameserver_pb2.BundleInfo]:
        self._check_namespace(namespace)
        partitions = Counter(self._bundle(p) for p in self.catalog.partitions.values())
        infos = []
        for name in self.catalog.wanted_bundles:
            if not namespace or name.startswith(f"{namespace}/"):
                owner, record = self.owner(name), self.catalog.bundles.get(name)
                infos.append(
                    nameserver_pb2.BundleInfo(
                        bundle=name,
                        broker=owner.name if owner is not None else "",
                        epoch=record.epoch if record is not None else 0,
                        cause=record.cause if record is not None else "",
                        partitions=partitions[name],
                    )
                )
        return infos

    def nameservers(self) -> list[nameserver_pb2.NameserverInfo]:
        leader = self.catalog.leader
        return [
            nameserver_pb2.NameserverInfo(
                name=m.name,
                member=member_info(m),
                leader=leader is not None and leader.name == m.name,
                epoch=leader.epoch if leader is not None and leader.name == m.name else 0,
            )
            for _, m in sorted(self.catalog.nameservers.items())
        ]

    # --- partitions and routing -----------------------------------------------------------------------------------

    def partitions(
        self, topic_name: str = "", limit: int = 0, after: tuple[str, int] = ("", 0)
    ) -> nameserver_pb2.ListPartitionsResponse:
        """By topic and number, those that follow ``after``; with a limit no more than that, nor than one message is to hold."""
        names = (self.topic(topic_name).name,) if topic_name else self.catalog.topic_names
        following = (
            p
            for name in islice(names, bisect_left(names, after[0]), None)
            for p in self.shown(self.catalog.topics[name])
            if (name, p.index) > after
        )
        page, more = _page(following, min(limit, PARTITIONS_LISTED_MAX))
        infos = [
            nameserver_pb2.PartitionInfo(topic=p.topic, route=self.route(p), reports=self._reports(p.group))
            for p in page
        ]
        return nameserver_pb2.ListPartitionsResponse(partitions=infos, more=more)

    def _reports(self, group: int) -> list[nameserver_pb2.ReplicaReport]:
        found = []
        for store_id, report in sorted(self.reports.items()):
            if not report.connected:
                continue
            if (stray := report.strays.get(group)) is not None:
                found.append(nameserver_pb2.ReplicaReport(store_id=store_id, status=stray.shown()))
            elif (known := report.replicas.get(group)) is not None:
                found.append(nameserver_pb2.ReplicaReport(store_id=store_id, status=known))
        return found

    def routing(self) -> nameserver_pb2.Routing:
        """Everything a router needs, without revision and answerer."""
        catalog = self.catalog
        return nameserver_pb2.Routing(
            leader_epoch=catalog.leader.epoch if catalog.leader is not None else 0,
            datanodes=[member_info(m) for _, m in sorted(catalog.datanodes.items())],
            brokers=[broker_info(m, name in catalog.drained) for name, m in sorted(catalog.brokers.items())],
            bundles=[self.assignment(name) for name in sorted(catalog.bundles)],
            topics=[
                nameserver_pb2.TopicRouting(topic=topic_info(t), partitions=self.routes(t))
                for _, t in sorted(catalog.topics.items())
            ],
        )


def _page(items: Iterator[T], limit: int) -> tuple[list[T], bool]:
    """The first ``limit`` of them, 0: all; and whether others follow."""
    page = list(islice(items, limit or None))
    return page, next(items, None) is not None


def behind(recorded: HighWater, seen: HighWater) -> MetadataBehind:
    """``seen`` is beyond ``recorded``."""
    names = {"epoch": "the leader's epoch", "topics": "topic ids", "groups": "group ids", "stores": "store ids"}
    what = seen.beyond(recorded)
    listed = ", ".join(f"{names[n]} (at {getattr(recorded, n)}, stores have seen {getattr(seen, n)})" for n in what)
    return MetadataBehind(
        f"ZooKeeper holds an older copy of the records: {listed}; nothing is created or deleted by it",
        behind=" ".join(what),
        recorded=recorded,
        seen=seen,
    )


def awaits(unheard: list[str]) -> str:
    """What is said of imported records until they rise above what the stores have seen."""
    what = (
        f"{', '.join(unheard)} did not say yet what they have seen"
        if unheard
        else "the stores' last words are taken in"
    )
    return (
        f"the records were imported from a copy, and nothing is created or deleted by them yet: {what}; "
        "`stele nameserver recover-metadata` goes on without those that never come"
    )


def check_not_removed(catalog: Catalog, store_id: int) -> None:
    """Raises StoreTombstone for a store that was removed for good, whether its record is still there or it is buried (R2.2)."""
    if catalog.is_removed(store_id):
        raise removed(store_id)


def topic_info(topic: TopicEntry) -> nameserver_pb2.TopicInfo:
    return nameserver_pb2.TopicInfo(
        topic=topic.name,
        id=topic.topic_id,
        partitions=topic.partitions,
        replication=topic.replication,
        state=topic.state,
        created_ms=topic.created_ms,
        retention=topic.retention.message(),
        racks=topic.racks,
        growing_to=topic.growing_to,
    )


def address(member: Member) -> common_pb2.Address:
    return common_pb2.Address(endpoint=member.endpoint, advertised=member.advertised or member.endpoint)


def member_info(member: Member) -> nameserver_pb2.Member:
    return nameserver_pb2.Member(
        name=member.name,
        address=address(member),
        store_id=member.store_id,
        raft_endpoint=member.raft_endpoint,
        state=member.state,
        version=member.software,
        started_ms=member.started_ms,
    )


def broker_info(member: Member, drained: bool) -> nameserver_pb2.Member:
    """As other brokers see it: nobody is to count on a drained one."""
    info = member_info(member)
    if drained and member.state == MemberState.READY:
        info.state = "drained"
    return info
