"""A nameserver that confuses removed stores with unknown ones, gives ids out twice or deletes on a guess (F2, R3.6, R4.6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count

from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.catalog_change import DERIVED_OF_TABLES, CatalogChange
from stele.nameserver.effects import CreateReplica, DeleteReplica, ReconcileEffect
from stele.nameserver.metadata_guard import MetadataGuard
from stele.nameserver.orphans import Orphans
from stele.nameserver.placement import place
from stele.nameserver.plan_scope import PlanScope
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import LeaderReport, Reports, StoreReport
from stele.nameserver.routing import BrokerRouting, RoutingChange
from stele.nameserver.stores import StoreRegister
from stele.nameserver.strays import ReportsApart
from stele.nameserver.topic_writer import TopicWriter, partition_path
from stele.nameserver.view import View
from stele.services.coordination.metadata import Transaction
from stele.services.coordination.records import PartitionRecord, TopicRecord
from stele.services.errors import StoreTombstone, StoreUnknown
from stele.services.pb import nameserver_pb2
from stele.services.pb.datanode_pb2 import ReplicaStatus, StoreStatus


class UnknownIsTombstone(View):
    """Whatever is not registered is taken for removed, as at the cold start of a whole cluster."""

    def resolve(self, store_id: int) -> nameserver_pb2.ResolveStoreResponse:
        try:
            return super().resolve(store_id)
        except StoreUnknown as e:
            raise StoreTombstone(e.message, store_id=store_id) from None


class TombstoneIsUnknown(View):
    """What was removed is only "not found", for ever."""

    def resolve(self, store_id: int) -> nameserver_pb2.ResolveStoreResponse:
        try:
            return super().resolve(store_id)
        except StoreTombstone as e:
            raise StoreUnknown(e.message, store_id=store_id) from None


class IdsFromTheLiving:
    """A new store gets the highest id in sight plus one, so that a removed store's id is given out again."""

    def __init__(self, living: Iterable[int]) -> None:
        self._living = list(living)

    def __call__(self, counter: object, transaction: object) -> int:
        return max(self._living, default=0) + 1


class HearsOnlyWhoServes(StoreRegister):
    """What a store was told counts only once it has loaded and is watched."""

    async def register(self, request: nameserver_pb2.RegisterStoreRequest) -> nameserver_pb2.RegisterStoreResponse:
        self._heard = lambda seen: None
        return await super().register(request)


class WelcomesTheRemoved(StoreRegister):
    """Whoever shows an id that was once given out is registered again, removed or not."""

    async def register(self, request: nameserver_pb2.RegisterStoreRequest) -> nameserver_pb2.RegisterStoreResponse:
        if request.store_id:
            return nameserver_pb2.RegisterStoreResponse(store_id=request.store_id, cluster_id=self._cluster_id)
        return await super().register(request)


class GoesByName(Catalog):
    """A partition is of whichever topic is seen under its topic's name."""

    def topic_of(self, partition: PartitionEntry) -> TopicEntry | None:
        return self.topics.get(partition.topic)


class ReusesGroups(TopicWriter):
    """A new partition gets the lowest group id without a record, and so a deleted one's."""

    async def _add_partitions(
        self, transaction: Transaction, name: str, indexes: Iterable[int], topic: TopicRecord, catalog: Catalog
    ) -> None:
        used = {int(g) for g in await self._metadata.children("partitions")}
        free = (g for g in count(1) if g not in used)
        wanted = list(indexes)
        placed = place(len(wanted), topic.replication, catalog.placeable_stores, catalog.replica_counts)
        for group, index, replicas in zip(free, wanted, placed, strict=False):
            transaction.create(
                partition_path(group), PartitionRecord(topic=name, topic_id=topic.id, index=index, replicas=replicas)
            )


def gives_to_the_loading(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """A store counts as able to take replicas as soon as it is alive, though it still loads."""
    return plan(
        counts_the_loading_as_ready(catalog),
        {s: replace(r, status=StoreStatus(store_id=s, state=MemberState.READY)) for s, r in reports.items()},
        leaders,
    )


def counts_the_loading_as_ready(catalog: Catalog) -> Catalog:
    """Every datanode that shows itself counts as ready."""
    members = {name: replace(m, state=MemberState.READY) for name, m in catalog.datanodes.items()}
    return replace(catalog, datanodes=members)


def begins_the_lost_anew(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """Whatever a store should hold and does not is created there as a voter, whether or not it ever held it."""
    forgetful = replace(
        catalog,
        topics={name: replace(t, state=TopicState.CREATING) for name, t in catalog.topics.items()},
        partitions={g: replace(p, materialised=()) for g, p in catalog.partitions.items()},
    )
    anew = [e for e in plan(forgetful, reports, leaders) if isinstance(e, CreateReplica) and e.replicas]
    return [*anew, *plan(catalog, reports, leaders)]


def joins_before_it_has_left(
    catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]
) -> list[ReconcileEffect]:
    """A leader's members count as settled as soon as it has written them down."""
    hasty: dict[int, StoreReport] = {}
    for store_id, report in reports.items():
        replicas = {}
        for group, known in report.replicas.items():
            replicas[group] = ReplicaStatus()
            replicas[group].CopyFrom(known)
            replicas[group].members_settled = True
        hasty[store_id] = replace(report, replicas=replicas)
    return plan(catalog, hasty, leaders)


class TrustsTheMirror(Orphans):
    """A replica whose partition the mirror does not show is removed at an operator's word without asking ZooKeeper."""

    async def remove(self, store_id: int, group: int, topic_id: int) -> None:
        member = self._view().catalog.live_stores[store_id]
        await self._orders.give(member, DeleteReplica(store_id, group, topic_id))


def drops_orphans(catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport]) -> list[ReconcileEffect]:
    """A replica that has no record is taken for deleted."""
    orphans = [DeleteReplica(s, g, stray.replica.topic_id) for s, r in reports.items() for g, stray in r.strays.items()]
    return [*plan(catalog, reports, leaders), *orphans]


def counts_strangers(catalog: Catalog, reports: Reports) -> Reports:
    """Whatever a store holds under a group's id counts for the topic that the group's record names."""
    return reports


class BelievesTheOlderCopy(MetadataGuard):
    """What ZooKeeper holds is taken for the newest there is, whatever the stores were told."""

    async def check(self) -> None:
        return


class KeepsWhatIsDerived(CatalogChange):
    """What was derived from the records of before a change is taken for what follows from those after it."""

    def _derive(self, before: Catalog, after: Catalog) -> None:
        after.__dict__.update({name: before.__dict__[name] for name in DERIVED_OF_TABLES if name in before.__dict__})


class SetsApartOnce(ReportsApart):
    """Whose a replica is, is asked when its store says something of it, and not when a record changes."""

    def recorded(self, catalog: Catalog, groups: Collection[int]) -> None:
        super().recorded(catalog, ())


class TellsOfTheTouchedAlone(BrokerRouting):
    """Of a bundle that it is given, a broker is told that it has it, and not which partitions it has."""

    def _touched(self, change: RoutingChange, catalog: Catalog) -> Iterable[str]:
        return super()._touched(replace(change, bundles=set()), catalog)


class PlansOnce(PlanScope):
    """What was planned counts as done."""

    def planned(self, is_idle: bool) -> None:
        super().planned(is_idle=True)
