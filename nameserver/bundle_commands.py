"""What operators ask about the owners of bundles.

Guarantee: what was asked for is recorded when a call returns, and holds for whichever nameserver leads and whichever process has the
broker's name; a bundle changes hands under a higher epoch, so that its former owner's writes are refused from then on (R5.10); a broker is
drained only while another one can take what it has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog

from stele.nameserver.bundle_assignment import (
    Assign,
    BrokerCandidate,
    BundleCause,
    Pulse,
    change,
    is_ready,
    may_keep,
    split,
    takers,
    unload,
)
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.catalog import BundleEntry, Catalog
from stele.nameserver.recorded import read_now
from stele.nameserver.view import View
from stele.services.bundles import BUNDLES_MAX, bundles_of, halves
from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import BrokerRecord, BundleRecord, NamespaceRecord
from stele.services.coordination.znode import ANY_VERSION
from stele.services.errors import (
    BrokerNotFound,
    BundleNotFound,
    CoordinationUnknown,
    InvalidArgument,
    NotEnoughBrokers,
    NotReady,
    RecordExists,
    RecordMissing,
    VersionConflict,
)
from stele.services.pb import nameserver_pb2
from stele.services.topics import check_name

ROUNDS_MAX = 8
SHOWN_CHARS_MAX = 200

_log = structlog.get_logger()


class BundleCommands:
    """One per term of office."""

    def __init__(
        self,
        leadership: Leadership,
        metadata: MetadataStore,
        writer: BundleWriter,
        view: Callable[[], View],
        mirrored: Callable[[Callable[[Catalog], bool]], Awaitable[None]],
    ) -> None:
        """``mirrored`` waits until the view shows what was written."""
        self._leadership, self._metadata, self._writer = leadership, metadata, writer
        self._view, self._mirrored = view, mirrored

    async def move(self, bundle: str, broker: str) -> None:
        """The broker owns it from now on, until it goes, is drained, or is told to give it up.  Idempotent.  BundleNotFound,
        BrokerNotFound, InvalidArgument; NotReady for what may change by itself."""
        async with self._writer.turn:
            view = self._view()
            catalog = view.catalog
            _check_bundle(catalog, bundle)
            taker = self._writer.candidates(catalog).get(broker)
            if taker is None:
                raise _not_registered(broker)
            record = catalog.bundles.get(bundle)
            if record is not None and record.broker == broker and may_keep(record, taker):
                if record.cause == BundleCause.OPERATOR:
                    return
                # The word alone is recorded: under another epoch everything would be opened anew.
                moved = Assign(bundle, broker, record.epoch, broker, BundleCause.OPERATOR)
            else:
                _check_takes(taker)
                moved = change(bundle, record, broker, BundleCause.OPERATOR, view.owner_epochs().get(bundle, 0))
            if not await self._writer.write([moved], catalog):
                raise NotReady(f"the bundle {bundle} or {broker} was changed meanwhile; try again", bundle=bundle)
            await self._mirrored(
                lambda c: (
                    (b := c.bundles.get(bundle)) is not None
                    and (b.epoch > moved.epoch or (b.epoch, b.cause) == (moved.epoch, moved.cause))
                )
            )

    async def unload(self, broker: str, bundles: Sequence[str]) -> list[nameserver_pb2.BundleAssignment]:
        """What ``broker`` has of ``bundles``, none: all that it has, goes to others; it may be given some again.  Those that moved.
        BrokerNotFound, BundleNotFound, NotEnoughBrokers; NotReady for what may change by itself."""
        async with self._writer.turn:
            view = self._view()
            catalog = view.catalog
            for bundle in bundles:
                _check_bundle(catalog, bundle)
            chosen = {b.name for b in catalog.bundles.values() if b.broker == broker}
            if not chosen and broker not in catalog.brokers:
                raise _not_registered(broker)
            if bundles:
                chosen &= set(bundles)
            brokers = self._writer.candidates(catalog)
            changes = unload(chosen, catalog.bundles, brokers, view.owner_epochs(), self._writer.costs)
            if chosen and not changes:
                self._check_others(broker, catalog)
                raise NotReady(f"no other broker than {broker} answers at this moment", broker=broker)
            written = await self._writer.write(changes, catalog)
            if written < len(changes):
                raise NotReady("bundles or brokers were changed meanwhile; try again", broker=broker)
            epochs = {c.bundle: c.epoch for c in changes}
            await self._mirrored(
                lambda c: all(name in c.bundles and c.bundles[name].epoch >= epoch for name, epoch in epochs.items())
            )
            return [nameserver_pb2.BundleAssignment(bundle=c.bundle, broker=c.broker, epoch=c.epoch) for c in changes]

    async def split(self, bundle: str) -> tuple[str, str]:
        """The bundle becomes two, at the middle of its range, under one higher epoch and for now with the same owner; the two.  Idempotent.
        BundleNotFound; InvalidArgument where it cannot be cut."""
        try:
            check_name("namespace", bundle.partition("/")[0])
            middle, two = halves(bundle)
        except InvalidArgument:
            _check_bundle(self._view().catalog, bundle)
            raise
        namespace = bundle.partition("/")[0]
        async with self._writer.turn:
            for _ in range(ROUNDS_MAX):
                known = await self._metadata.get(f"namespaces/{namespace}", NamespaceRecord)
                layout = bundles_of(namespace, known.record.bundles, known.record.splits) if known is not None else []
                if known is None or bundle not in layout:
                    if two[0] in layout and two[1] in layout:
                        return two  # as was asked before
                    raise _no_bundle(bundle)
                if len(layout) >= BUNDLES_MAX:
                    raise InvalidArgument(f"a namespace has up to {BUNDLES_MAX} bundles, and {namespace} has them")
                record = replace(known.record, splits=tuple(sorted((*known.record.splits, middle))))
                transaction = self._leadership.transaction().set(f"namespaces/{namespace}", record, known.version)
                epoch = await self._hand_down(transaction, bundle, two)
                try:
                    await transaction.commit()
                except (RecordExists, RecordMissing, VersionConflict):
                    continue
                _log.info("bundle_split", bundle=bundle, into=two, epoch=epoch)
                await self._mirrored(lambda c: all(b in c.wanted_bundles and b in c.bundles for b in two))
                return two
        raise CoordinationUnknown(f"whether {bundle} is split is not settled after {ROUNDS_MAX} rounds", bundle=bundle)

    async def _hand_down(self, transaction: Transaction, bundle: str, two: tuple[str, str]) -> int:
        """``transaction`` gives what the bundle's owner has to that owner as two, and the bundle itself to nobody.  The epoch of it."""
        records: dict[str, BundleEntry] = {}
        for name in (bundle, *two):
            if (known := await self._metadata.get(f"bundles/{name}", BundleRecord)) is not None:
                record = known.record
                records[name] = BundleEntry(name, record.broker, record.epoch, node_version=known.version)
        owner = records[bundle].broker if bundle in records else ""
        if owner and (member := await self._metadata.session.get(f"members/brokers/{owner}")) is not None:
            transaction.check(f"members/brokers/{owner}", member.stat.version)
        elif owner:
            owner = ""
        given = split(bundle, two, records, owner, self._view().owner_epochs().get(bundle, 0))
        for a in given:
            written = BundleRecord(broker=a.broker, epoch=a.epoch, cause=a.cause)
            if a.bundle in records:
                transaction.set(f"bundles/{a.bundle}", written, records[a.bundle].node_version)
            else:
                transaction.create(f"bundles/{a.bundle}", written)
        return given[0].epoch

    async def drain(self, broker: str) -> None:
        """It gets no bundle from now on, and what it has goes to others, until ``undrain``; also where it restarts meanwhile.  Idempotent.
        BrokerNotFound, NotEnoughBrokers."""
        async with self._writer.turn:  # of whoever assigns: the next one sees it
            for _ in range(ROUNDS_MAX):
                # By ZooKeeper's own word: two calls must not drain each other's successor.
                catalog = await read_now(self._metadata.session, {"members/brokers": 1, "brokers": 1})
                if broker in catalog.drained:
                    return
                if broker not in catalog.brokers:
                    raise _not_registered(broker)
                successor = catalog.brokers[self._check_others(broker, catalog)]
                transaction = self._leadership.transaction()
                transaction.check(f"members/brokers/{successor.name}", successor.node_version)
                try:
                    await transaction.create(_path(broker), BrokerRecord(drained=True)).commit()
                except (RecordExists, RecordMissing, VersionConflict):
                    continue
                _log.info("broker_drained", broker=broker)
                await self._mirrored(lambda c: broker in c.drained)
                return
        raise CoordinationUnknown(
            f"whether {broker} is drained is not settled after {ROUNDS_MAX} rounds", broker=broker
        )

    async def undrain(self, broker: str) -> None:
        """It may be given bundles again.  Idempotent.  BrokerNotFound."""
        async with self._writer.turn:
            catalog = await read_now(self._metadata.session, {"members/brokers": 1, "brokers": 1})
            if broker not in catalog.drained:
                if broker not in catalog.brokers:
                    raise _not_registered(broker)
                return
            try:
                await self._leadership.transaction().delete(_path(broker), ANY_VERSION).commit()
            except RecordMissing:
                pass  # an answer was lost
            _log.info("broker_undrained", broker=broker)
            await self._mirrored(lambda c: broker not in c.drained)

    def _check_others(self, broker: str, catalog: Catalog) -> str:
        """Another broker, which may be given bundles."""
        others = {name: b for name, b in self._writer.candidates(catalog).items() if name != broker}
        if alive := [name for name in takers(others.values()) if others[name].pulse is Pulse.ALIVE]:
            return alive[0]
        if any(b.pulse is Pulse.UNPROBED and is_ready(b) for b in others.values()):
            raise NotReady("no other broker has answered yet", broker=broker)
        said = [
            f"{name} is {'drained' if b.drained else b.member.state if b.pulse is Pulse.ALIVE else b.pulse.value}"
            for name, b in sorted(others.items())
        ]
        raise NotEnoughBrokers(
            f"nobody could take the bundles of {broker}: {', '.join(said) or 'there is no other broker'}", broker=broker
        )


def _check_bundle(catalog: Catalog, bundle: str) -> None:
    if bundle not in catalog.wanted_bundles:
        raise _no_bundle(bundle)


def _check_takes(taker: BrokerCandidate) -> None:
    """Raises InvalidArgument, and NotReady for what may change by itself."""
    broker = taker.member.name
    if taker.drained:
        raise InvalidArgument(
            f"broker: {broker} is drained, and gets no bundle; `stele broker undrain {broker}` comes first"
        )
    if not is_ready(taker) or taker.pulse is not Pulse.ALIVE:
        why = taker.member.state if taker.pulse is Pulse.ALIVE else taker.pulse.value
        raise NotReady(f"broker: {broker} is {why}, and gets no bundle at this moment", broker=broker)


def _no_bundle(bundle: str) -> BundleNotFound:
    shown = bundle[:SHOWN_CHARS_MAX]
    return BundleNotFound(f"there is no bundle {shown!r}; `stele bundle ls` lists them", bundle=shown)


def _not_registered(broker: str) -> BrokerNotFound:
    return BrokerNotFound(f"no broker {broker!r} is registered; `stele broker ls` lists them", broker=broker)


def _path(broker: str) -> str:
    return f"brokers/{broker}"
