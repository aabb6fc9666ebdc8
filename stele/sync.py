"""Stele without asyncio: the same names, each call blocking until it is done.

Usage; the loop goes on for ever, unless it is left::

    import stele

    with stele.sync.connect("127.0.0.1:6600") as client:
        client.admin.create_topic("shop/orders", partitions=4)
        with client.producer("shop/orders") as producer:
            producer.send(b"hello")
        with client.consumer("shop/orders", "billing") as consumer:
            for message in consumer:
                print(message.value)
                consumer.ack(message)
                break

A client runs its own event loop in a thread; it may be used from any number of threads.  Guarantees are those of the asynchronous calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import stele.admin
import stele.client
import stele.consumer
import stele.producer
from stele.client import CONNECT_TIMEOUT_S
from stele.errors import ClientClosed
from stele.forks import Birthplace
from stele.model import (
    BrokerInfo,
    BundleInfo,
    ClusterInfo,
    DecommissionPlan,
    Event,
    Explained,
    FinalizedUpgrade,
    Message,
    NameserverInfo,
    NamespaceInfo,
    OperationInfo,
    OrphanInfo,
    PartitionExplanation,
    PartitionInfo,
    RebalancePlan,
    SendResult,
    SkippedStore,
    StopSafety,
    StoreInfo,
    SubscriptionInfo,
    TopicInfo,
    TrashInfo,
)
from stele.producer import Octets
from stele.routing import TopicRoutes
from stele.services.errors import SteleError

T = TypeVar("T")
JOIN_TIMEOUT_S = 10.0


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._birthplace = Birthplace()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stele", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        try:
            self._birthplace.check("the client")
        except ClientClosed:
            work.close()
            raise
        if not self._thread.is_alive():
            work.close()
            raise ClientClosed("the client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; a Ctrl-C while waiting cancels the work."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """The result of a function that must run on the loop."""

        async def on_loop() -> T:
            return function()

        return self.run(on_loop())

    def iterate(self, events: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[bool, T | None]:
            try:
                return True, await anext(events)
            except StopAsyncIteration:
                return False, None

        while True:
            more, item = self.run(following())
            if not more:
                return
            yield item  # type: ignore[misc]

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(JOIN_TIMEOUT_S)
            if not self._thread.is_alive():
                self._loop.close()


class Producer:
    """See ``stele.Producer``."""

    def __init__(self, loop: _LoopThread, inner: stele.producer.Producer) -> None:
        self._loop, self._inner = loop, inner
        self.topic = inner.topic

    def send(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> SendResult:
        return self._loop.run(self._inner.send(value, key, headers, partition))

    def enqueue(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> concurrent.futures.Future[SendResult]:
        """Waits for room; the future holds the result."""
        taken = self._loop.run(_wrapped(self._inner.enqueue(value, key, headers, partition)))
        return self._loop.submit(_awaited(taken[0]))

    def send_nowait(
        self,
        value: Octets,
        key: Octets | None = None,
        headers: Mapping[str, Octets] | None = None,
        partition: int | None = None,
    ) -> concurrent.futures.Future[SendResult]:
        taken = self._loop.call(lambda: [self._inner.send_nowait(value, key, headers, partition)])
        return self._loop.submit(_awaited(taken[0]))

    def flush(self) -> None:
        self._loop.run(self._inner.flush())

    def close(self) -> None:
        self._loop.run(self._inner.close())

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._inner.__aexit__(kind, error, trace))


class Consumer:
    """See ``stele.Consumer``."""

    def __init__(self, loop: _LoopThread, inner: stele.consumer.Consumer) -> None:
        self._loop, self._inner = loop, inner
        self.topic, self.subscription = inner.topic, inner.subscription

    @property
    def skipped(self) -> int:
        return self._loop.call(lambda: self._inner.skipped)

    @property
    def began_at(self) -> dict[int, int]:
        return self._loop.call(lambda: self._inner.began_at)

    def open(self, timeout_s: float = stele.consumer.OPEN_TIMEOUT_S) -> None:
        self._loop.run(self._inner.open(timeout_s))

    def receive(self, timeout_s: float | None = None) -> Message | None:
        return self._loop.run(self._inner.receive(timeout_s))

    def __iter__(self) -> Iterator[Message]:
        return self._loop.iterate(aiter(self._inner))

    def ack(self, message: Message) -> None:
        self._loop.run(self._inner.ack(message))

    def ack_nowait(self, message: Message) -> concurrent.futures.Future[None]:
        taken = self._loop.call(lambda: [self._inner.ack_nowait(message)])
        return self._loop.submit(_awaited(taken[0]))

    def ack_cumulative(self, message: Message) -> None:
        self._loop.run(self._inner.ack_cumulative(message))

    def nack(self, message: Message, delay_s: float = 0.0) -> None:
        self._loop.call(lambda: self._inner.nack(message, delay_s))

    def flush(self) -> None:
        self._loop.run(self._inner.flush())

    def seek(
        self, to: int | str | None = None, *, timestamp_ms: int | None = None, partition: int | None = None
    ) -> None:
        self._loop.run(self._inner.seek(to, timestamp_ms=timestamp_ms, partition=partition))

    def close(self) -> None:
        self._loop.run(self._inner.close())

    def __enter__(self) -> Consumer:
        self._loop.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Admin:
    """See ``stele.Admin``."""

    def __init__(self, loop: _LoopThread, inner: stele.admin.Admin) -> None:
        self._loop, self._inner = loop, inner

    def cluster(self) -> ClusterInfo:
        return self._loop.run(self._inner.cluster())

    def list_nameservers(self) -> list[NameserverInfo]:
        return self._loop.run(self._inner.list_nameservers())

    def list_brokers(self) -> list[BrokerInfo]:
        return self._loop.run(self._inner.list_brokers())

    def list_stores(self) -> list[StoreInfo]:
        return self._loop.run(self._inner.list_stores())

    def list_orphans(self) -> list[OrphanInfo]:
        return self._loop.run(self._inner.list_orphans())

    def list_trash(self) -> list[TrashInfo]:
        return self._loop.run(self._inner.list_trash())

    def remove_orphan(self, orphan: OrphanInfo) -> None:
        self._loop.run(self._inner.remove_orphan(orphan))

    def adopt_orphans(self, topic: str, *, topic_id: int = 0, partitions: int = 0) -> TopicInfo:
        return self._loop.run(self._inner.adopt_orphans(topic, topic_id=topic_id, partitions=partitions))

    def decommission_store(self, store_id: int, *, dry_run: bool = False) -> DecommissionPlan:
        return self._loop.run(self._inner.decommission_store(store_id, dry_run=dry_run))

    def recommission_store(self, store_id: int) -> None:
        self._loop.run(self._inner.recommission_store(store_id))

    def cordon_store(self, store_id: int, *, cordoned: bool = True) -> None:
        self._loop.run(self._inner.cordon_store(store_id, cordoned=cordoned))

    def decommissioning(self, store_id: int, timeout_s: float) -> Iterator[OperationInfo]:
        return self._loop.iterate(self._inner.decommissioning(store_id, timeout_s))

    def explain_partition(self, group: int) -> PartitionExplanation:
        return self._loop.run(self._inner.explain_partition(group))

    def rebalance(self, *, dry_run: bool = False) -> RebalancePlan:
        return self._loop.run(self._inner.rebalance(dry_run=dry_run))

    def rebalancing(self, timeout_s: float) -> Iterator[OperationInfo]:
        return self._loop.iterate(self._inner.rebalancing(timeout_s))

    def remove_tombstones(self, store_ids: list[int] | None = None) -> tuple[list[int], list[SkippedStore]]:
        return self._loop.run(self._inner.remove_tombstones(store_ids))

    def move_partition(self, group: int, from_store: int, to_store: int) -> None:
        self._loop.run(self._inner.move_partition(group, from_store, to_store))

    def transfer_leader(self, group: int, to_store: int = 0) -> tuple[int, int]:
        return self._loop.run(self._inner.transfer_leader(group, to_store))

    def list_bundles(self, namespace: str = "") -> list[BundleInfo]:
        return self._loop.run(self._inner.list_bundles(namespace))

    def move_bundle(self, bundle: str, broker: str) -> None:
        self._loop.run(self._inner.move_bundle(bundle, broker))

    def split_bundle(self, bundle: str) -> tuple[str, str]:
        return self._loop.run(self._inner.split_bundle(bundle))

    def drain_broker(self, broker: str) -> None:
        self._loop.run(self._inner.drain_broker(broker))

    def undrain_broker(self, broker: str) -> None:
        self._loop.run(self._inner.undrain_broker(broker))

    def draining(self, broker: str, timeout_s: float) -> Iterator[int]:
        return self._loop.iterate(self._inner.draining(broker, timeout_s))

    def unload_broker(self, broker: str, bundles: list[str] | None = None) -> dict[str, str]:
        return self._loop.run(self._inner.unload_broker(broker, bundles))

    def safe_to_stop(self, name: str) -> StopSafety:
        return self._loop.run(self._inner.safe_to_stop(name))

    def until_safe_to_stop(self, name: str, timeout_s: float) -> Iterator[StopSafety]:
        return self._loop.iterate(self._inner.until_safe_to_stop(name, timeout_s))

    def list_operations(self) -> list[OperationInfo]:
        return self._loop.run(self._inner.list_operations())

    def cancel_operation(self, operation: str) -> None:
        self._loop.run(self._inner.cancel_operation(operation))

    def recover_metadata(self) -> None:
        self._loop.run(self._inner.recover_metadata())

    def finalize_upgrade(self, *, dry_run: bool = False) -> FinalizedUpgrade:
        return self._loop.run(self._inner.finalize_upgrade(dry_run=dry_run))

    def events(self, follow: bool = False, since_ms: int = 0) -> Iterator[Event]:
        return self._loop.iterate(self._inner.events(follow, since_ms))

    def explain(self, what: str, *, at_ms: int = 0) -> Explained:
        return self._loop.run(self._inner.explain(what, at_ms=at_ms))

    def create_namespace(
        self,
        namespace: str,
        *,
        bundles: int = 0,
        replication: int = 0,
        retention_bytes: int = 0,
        retention_ms: int = 0,
        if_absent: bool = True,
    ) -> bool:
        work = self._inner.create_namespace(
            namespace,
            bundles=bundles,
            replication=replication,
            retention_bytes=retention_bytes,
            retention_ms=retention_ms,
            if_absent=if_absent,
        )
        return self._loop.run(work)

    def alter_namespace(
        self,
        namespace: str,
        *,
        replication: int = 0,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
    ) -> NamespaceInfo:
        work = self._inner.alter_namespace(
            namespace, replication=replication, retention_bytes=retention_bytes, retention_ms=retention_ms
        )
        return self._loop.run(work)

    def delete_namespace(self, namespace: str) -> None:
        self._loop.run(self._inner.delete_namespace(namespace))

    def list_namespaces(self) -> list[NamespaceInfo]:
        return self._loop.run(self._inner.list_namespaces())

    def create_topic(
        self,
        topic: str,
        partitions: int = 1,
        replication: int = 0,
        if_absent: bool = False,
        *,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
        racks: str = "prefer",
    ) -> TopicInfo:
        work = self._inner.create_topic(
            topic,
            partitions,
            replication,
            if_absent,
            retention_bytes=retention_bytes,
            retention_ms=retention_ms,
            racks=racks,
        )
        return self._loop.run(work)

    def alter_topic(self, topic: str, **changes: Any) -> TopicInfo:
        """The changes are those of ``stele.Admin.alter_topic``."""
        return self._loop.run(self._inner.alter_topic(topic, **changes))

    def altering(self, altered: TopicInfo, timeout_s: float) -> Iterator[OperationInfo]:
        return self._loop.iterate(self._inner.altering(altered, timeout_s))

    def delete_topic(self, topic: str) -> None:
        self._loop.run(self._inner.delete_topic(topic))

    def list_topics(self, namespace: str = "", *, limit: int | None = None, after: str = "") -> list[TopicInfo]:
        return self._loop.run(self._inner.list_topics(namespace, limit=limit, after=after))

    def describe_topic(self, topic: str) -> TopicInfo:
        return self._loop.run(self._inner.describe_topic(topic))

    def lookup(self, topic: str) -> TopicRoutes:
        return self._loop.run(self._inner.lookup(topic))

    def list_partitions(self, topic: str = "", *, limit: int | None = None, after: str = "") -> list[PartitionInfo]:
        return self._loop.run(self._inner.list_partitions(topic, limit=limit, after=after))

    def list_subscriptions(self, topic: str) -> list[SubscriptionInfo]:
        return self._loop.run(self._inner.list_subscriptions(topic))

    def create_subscription(self, topic: str, subscription: str, start: int | str = "earliest") -> bool:
        return self._loop.run(self._inner.create_subscription(topic, subscription, start))

    def delete_subscription(self, topic: str, subscription: str) -> None:
        self._loop.run(self._inner.delete_subscription(topic, subscription))

    def seek_subscription(
        self,
        topic: str,
        subscription: str,
        to: int | str | None = None,
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> dict[int, int]:
        work = self._inner.seek_subscription(topic, subscription, to, timestamp_ms=timestamp_ms, partition=partition)
        return self._loop.run(work)


class Client:
    """See ``stele.Client``."""

    def __init__(self, servers: str | Sequence[str] | None, timeout_s: float, seed: int | None) -> None:
        self._loop = _LoopThread()
        try:
            self._inner = self._loop.call(lambda: stele.client.connect(servers, timeout_s=timeout_s, seed=seed))
            self.admin = Admin(self._loop, self._inner.admin)
        except BaseException:
            self._loop.stop()
            raise

    def __enter__(self) -> Client:
        try:
            self._loop.run(self._inner.__aenter__())
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def producer(self, topic: str, **settings: Any) -> Producer:
        """The settings are those of ``stele.Client.producer``."""
        return Producer(self._loop, self._loop.call(lambda: self._inner.producer(topic, **settings)))

    def consumer(self, topic: str, subscription: str, **settings: Any) -> Consumer:
        """The settings are those of ``stele.Client.consumer``."""
        return Consumer(self._loop, self._loop.call(lambda: self._inner.consumer(topic, subscription, **settings)))

    def close(self) -> None:
        try:
            self._loop.run(self._inner.close())
        except ClientClosed:
            return
        finally:
            self._loop.stop()


def connect(
    servers: str | Sequence[str] | None = None, *, timeout_s: float = CONNECT_TIMEOUT_S, seed: int | None = None
) -> Client:
    """A client to be used with ``with``; see ``stele.connect``."""
    return Client(servers, timeout_s, seed)


async def _wrapped(work: Coroutine[Any, Any, asyncio.Future[T]]) -> list[asyncio.Future[T]]:
    """A future that is a result, not to be awaited on the way."""
    return [await work]


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future


__all__ = ["Admin", "Client", "Consumer", "Producer", "SteleError", "connect"]
