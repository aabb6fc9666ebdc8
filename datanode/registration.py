"""How a store gets its id, and learns that it has none any more.

Guarantee: a new data directory gets an id from the leading nameserver once and keeps it; a store that was removed does
not come back (R2.6).  A store that has its id starts without any nameserver, if ZooKeeper does not say that it was removed: it is
confirmed as soon as one answers.
"""

from __future__ import annotations

import asyncio

import structlog

from stele.datanode.directory import DataDirectory
from stele.services.coordination.members import live
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import BuriedRecord, StoreRecord
from stele.services.coordination.session import Session
from stele.services.errors import ClusterMismatch, DirectoryBusy, SteleError, StoreMismatch, StoreTombstone
from stele.services.intervals import IntervalSet
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.nameservers import NameserverClient

ATTEMPT_S = 5.0
CONFIRM_FIRST_S = 1.0  # how long a start waits for the confirmation of an id it has
LOG_INTERVAL_S = 30.0
FORMER_RUN_MARGIN_S = 2.0  # ZooKeeper expires sessions in steps of its tick


async def wait_until_alone(session: Session, directory: DataDirectory, name: str) -> None:
    """No other live process is this store.  A former run of this one, under another name, ends with its session and is
    waited for.

    Raises DirectoryBusy: two stores of one id would vote twice.
    """
    store_id = directory.identity.store_id
    loop = asyncio.get_running_loop()
    deadline = loop.time() + session.negotiated_timeout_s + FORMER_RUN_MARGIN_S
    while True:
        found = await live(session, "datanodes")
        others = [(n, record) for n, record in found.items() if n != name and record.store_id == store_id]
        if not others:
            return
        if loop.time() >= deadline:
            other, record = others[0]
            raise DirectoryBusy(
                f"store {store_id} is run by the live process {other} at {record.endpoint}: was {directory.path} copied?",
                path=directory.path,
                owner=other,
            )
        await asyncio.sleep(0.2)


class Registration:
    """Of one data directory, under one name."""

    def __init__(
        self,
        directory: DataDirectory,
        name: str,
        cluster_id: str,
        nameservers: NameserverClient,
        records: MetadataStore,
        rack: str = "",
    ) -> None:
        self._directory = directory
        self._records = records
        self._name = name
        self._cluster_id = cluster_id
        self._rack = rack
        self._nameservers = nameservers
        self._log = structlog.get_logger()

    async def obtain(self) -> bool:
        """The directory has an id when this returns; True if a nameserver has confirmed it.

        Errors: StoreTombstone, StoreMismatch (a copied directory), ClusterMismatch, MetadataBehind, and whatever else a nameserver says
        that no waiting will change.
        """
        if self._directory.identity.store_id == 0:
            await self.confirm()
            return True
        try:
            async with asyncio.timeout(CONFIRM_FIRST_S):
                await self.confirm()
        except TimeoutError:
            await self._check_not_removed()
            return False
        return True

    async def _check_not_removed(self) -> None:
        """BEFORE anybody is shown it.  Who is removed from here on is told so as a running store is."""
        store_id = self._directory.identity.store_id
        buried = await self._records.get("stores/buried", BuriedRecord)
        known = await self._records.get(f"stores/{store_id}", StoreRecord)
        is_buried = buried is not None and store_id in IntervalSet.of(buried.record.intervals)
        if is_buried or (known is not None and known.record.state == "tombstone"):
            raise StoreTombstone(f"store {store_id} was removed from this cluster", store_id=store_id)

    async def confirm(self) -> None:
        """Asks until a nameserver answers."""
        loop = asyncio.get_running_loop()
        log_at = loop.time()
        while True:
            try:
                await self._register()
                return
            except SteleError as e:
                if not e.retryable or isinstance(e, StoreMismatch):  # a copied directory: waiting makes it no other
                    raise
                if loop.time() >= log_at:
                    log_at = loop.time() + LOG_INTERVAL_S
                    self._log.info("store_registration_waits", reason=e.reason, error=e.message)
            await asyncio.sleep(0.2)

    async def _register(self) -> None:
        mine = self._directory.identity
        request = pb.RegisterStoreRequest(
            uuid=mine.uuid,
            name=self._name,
            store_id=mine.store_id,
            cluster_id=mine.cluster_id or self._cluster_id,
            seen=mine.seen.message(),
            rack=self._rack,
        )
        answer = await self._nameservers.call("RegisterStore", request, ATTEMPT_S)
        if answer.cluster_id != self._cluster_id or mine.store_id not in (0, answer.store_id):
            raise ClusterMismatch(
                f"{self._directory.path} holds store {mine.store_id}, which the nameservers of cluster {answer.cluster_id} "
                f"know as store {answer.store_id}",
                expected=self._cluster_id,
                got=answer.cluster_id,
            )
        if mine.store_id == 0:
            await asyncio.to_thread(self._directory.record_registration, answer.store_id, answer.cluster_id)
            self._log.info("store_registered", store_id=answer.store_id)
