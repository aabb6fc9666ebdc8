"""Owners and leaders that write after they were deposed, or that are chosen although they are gone (R5.9, R5.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stele.broker.owned_partitions import OwnedPartitions
from stele.broker.ownership import Key, RoutingTable
from stele.broker.partition_client import PartitionClient
from stele.datanode.commands import Outcome
from stele.datanode.partition import PartitionState
from stele.nameserver.bundle_assignment import EVENING_MOVES_MAX, Assign, BrokerCandidate, Pulse, assign, split
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.catalog import BundleEntry, Catalog, Member, MemberKind
from stele.nameserver.clusterview import ClusterView
from stele.services.coordination.election import Election, Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import BundleRecord
from stele.services.errors import Fenced
from stele.services.pb import datanode_pb2, nameserver_pb2
from stele.services.rpc.never_back import NeverBack, Revision
from stele.services.rpc.status import from_pb


class LeadershipWithoutEpoch(Leadership):
    """A leader writes whatever it believes it may, with nothing in its transactions that a successor would have changed."""

    def transaction(self) -> Transaction:
        return MetadataStore(self._session).transaction()


class LeadsByWhatItDecidedBefore(Election):
    """Who saw that it is the first candidate leads, also if that was under a session that has ended since."""

    async def _lead(self, candidate: str) -> bool:
        return await super()._lead("")


def assigns_by_name(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate], *more: Any
) -> list[Assign]:
    """An owner lives as long as its name is written somewhere: registrations never expire."""
    remembered = {
        b.broker: BrokerCandidate(Member(MemberKind.BROKERS, b.broker, ""))
        for b in records.values()
        if b.broker not in brokers
    }
    return assign(wanted, records, {**remembered, **brokers}, *more)


class WritesUnchecked(BundleWriter):
    """An assignment is written without asking ZooKeeper whether the broker that it names is still registered."""

    async def _write(self, changes: Sequence[Assign], catalog: Catalog) -> None:
        transaction = self._leadership.transaction()
        for change in changes:
            record = BundleRecord(broker=change.broker, epoch=change.epoch)
            known = catalog.bundles.get(change.bundle)
            if known is None:
                transaction.create(f"bundles/{change.bundle}", record)
            else:
                transaction.set(f"bundles/{change.bundle}", record, known.node_version)
        await transaction.commit()


def keeps_the_epoch(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate], *more: Any
) -> list[Assign]:
    """A broker of the same name is taken for the same process, and its epoch is not raised."""
    as_if_never_gone = {n: BrokerCandidate(replace(b.member, joined_zxid=0), b.pulse) for n, b in brokers.items()}
    return assign(wanted, records, as_if_never_gone, *more)


def drains_the_process(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate], *more: Any
) -> list[Assign]:
    """The operator's word ends with the process about which it was said: the next one of its name is given bundles."""
    first = min(b.member.joined_zxid for b in brokers.values())
    forgotten = {n: replace(b, drained=b.drained and b.member.joined_zxid <= first) for n, b in brokers.items()}
    return assign(wanted, records, forgotten, *more)


def forgets_what_was_seen(
    wanted: Sequence[str],
    records: Mapping[str, BundleEntry],
    brokers: Mapping[str, BrokerCandidate],
    evening_moves_max: int = EVENING_MOVES_MAX,
    seen: Mapping[str, int] | None = None,
    *more: Any,
) -> list[Assign]:
    """The epoch in ZooKeeper is taken for the highest that there was."""
    return assign(wanted, records, brokers, evening_moves_max, None, *more)


def splits_under_the_old_epoch(
    bundle: str, two: tuple[str, str], records: Mapping[str, BundleEntry], owner: str, seen: int
) -> list[Assign]:
    """A bundle's halves go on under its epoch: they are the same partitions, and the owner is the same."""
    return [replace(a, epoch=a.epoch - (a.bundle in two)) for a in split(bundle, two, records, owner, seen)]


class BorrowsEpoch(PartitionClient):
    """A broker that is told of a higher owner epoch sends that one from then on, instead of giving up what it no
    longer owns."""

    def append(self, batches: Sequence[bytes]) -> asyncio.Future[datanode_pb2.AppendResponse]:
        return asyncio.ensure_future(self._append(batches))

    async def _append(self, batches: Sequence[bytes]) -> datanode_pb2.AppendResponse:
        response = await super().append(batches)
        error = from_pb(response.error)
        if isinstance(error, Fenced):
            self.epoch = int(error.facts["seen"])
            response = await super().append(batches)
        return response


class IgnoresEpoch(PartitionState):
    """A partition that takes writes under any owner epoch, as one does that trusts whoever registered to be the
    owner."""

    def _apply(self, index: int, payload: bytes) -> Outcome:
        self.owner_epoch = 0
        return super()._apply(index, payload)


class BelievesWhoeverSpeaks(RoutingTable):
    """What a nameserver does not list is gone, however long it has not heard from ZooKeeper."""

    def observe(self, routing: nameserver_pb2.Routing, now_s: float) -> set[Key]:
        believed = nameserver_pb2.Routing()
        believed.CopyFrom(routing)
        believed.age_ms = 0
        return super().observe(believed, now_s)


class NeverTooOld(ClusterView):
    """A view is good for ever, also without ZooKeeper."""

    def check_fresh(self) -> None:
        return


class TakesWhatIsOlder(NeverBack):
    """Whoever answers is believed, also one who lags behind what another has told."""

    def takes(self, revision: Revision, now_s: float) -> bool:
        self.taken = revision
        return True


class ServesWhatIsBeingCreated(OwnedPartitions):
    """A partition that has a leader can be written, whether or not it is recorded which replicas there are."""

    def observe(self, routing: nameserver_pb2.Routing) -> None:
        super().observe(routing)
        self.routes.creating.clear()


class DeniesWhatItHasNotHeardOf(OwnedPartitions):
    """A topic that this broker has not heard of is not there, whatever a nameserver would say."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        async def is_absent(_topic: str) -> bool:
            return True

        super().__init__(*arguments, **{**options, "is_absent": is_absent})


def takes_what_nobody_can_have(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate], *more: Any
) -> list[Assign]:
    """Whose port seems to refuse is gone, also where nobody else could take what it has."""
    heard = {name: b for name, b in brokers.items() if b.pulse is not Pulse.REFUSED}
    return assign(wanted, records, heard, *more)
