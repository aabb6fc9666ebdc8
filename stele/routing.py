"""Which broker a partition is sent to.

Guarantee: a route that failed is looked up again before it is used again; lookups of one topic never run side by side, and at most
every ``LOOKUP_INTERVAL_MIN_S``.  Whoever watches a topic is told of a moved partition within ``REFRESH_INTERVAL_S`` even if its old broker
is silent.  Once a topic was made anew under its name, nobody is told of the former one again, nor of fewer partitions than it has.

A route is a hint: the broker refuses what it does not own, and the answer to that is another lookup.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from stele import arguments
from stele.errors import ClientClosed
from stele.services.errors import InvalidArgument, PartitionNotFound, SteleError, TopicNotFound, Unreachable
from stele.services.library_log import LibraryLog
from stele.services.pb import common_pb2, nameserver_pb2
from stele.services.rpc.status import task_is_cancelled
from stele.services.tasks import Tasks, unheard

LOOKUP_TIMEOUT_S = 5.0
LOOKUP_INTERVAL_MIN_S = 0.02
REFRESH_INTERVAL_S = 2.0
FORMER_MAX_S = 10.0  # how long a nameserver may speak of a topic's predecessor before it is believed
ENDPOINTS_MAX = 100

Lookup = Callable[[str], Awaitable[nameserver_pb2.LookupResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    partition: int
    broker: str
    endpoint: str  # "" while no live broker owns the partition
    owner_epoch: int


@dataclass(frozen=True, slots=True)
class TopicRoutes:
    topic: str
    topic_id: int
    partitions: tuple[Route, ...]

    def of(self, partition: int) -> Route:
        """Raises PartitionNotFound."""
        if partition >= len(self.partitions):
            has = f"{self.topic} has partitions 0 to {len(self.partitions) - 1} now"
            raise PartitionNotFound(f"{has}, not {partition}", topic=self.topic, partition=partition)
        return self.partitions[partition]


def parse_bootstrap(servers: str | Sequence[str]) -> list[str]:
    """``"a:1,b:2"`` or a list of them → endpoints.  Raises InvalidArgument."""
    parts = servers.split(",") if isinstance(servers, str) else servers
    if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
        raise arguments.refusal("servers", servers, "a string, or a list of strings, of host:port")
    endpoints = [p.strip() for p in parts if p.strip()]
    if not 1 <= len(endpoints) <= ENDPOINTS_MAX:
        given = arguments.shown(servers) if isinstance(servers, str) else f"{len(endpoints)}"
        raise InvalidArgument(
            f"servers: give 1 to {ENDPOINTS_MAX} nameservers as host:port, separated by commas, not {given}"
        )
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535
        if not host or not is_port or not host.isprintable():
            raise InvalidArgument(
                f"servers: {arguments.shown(endpoint)} is not the address of a nameserver: write it as host:port"
            )
    return endpoints


def is_inside(bootstrap: Iterable[str], members: Iterable[common_pb2.Address]) -> bool:
    """Whether the client is in the cluster's own network: a bootstrap address is one of the internal endpoints."""
    internal = {m.endpoint for m in members}
    return any(b in internal for b in bootstrap)


def choose_address(address: common_pb2.Address, inside: bool) -> str:
    """The address of a process for this client."""
    return address.endpoint if inside else address.advertised or address.endpoint


def read_routes(answer: nameserver_pb2.LookupResponse, inside: bool) -> TopicRoutes:
    """The routes in an answer.  Raises TopicNotFound for a topic that is being deleted, Unreachable for one that is not laid out yet."""
    topic = answer.topic
    if topic.state == "deleting":
        raise TopicNotFound(f"topic {topic.topic} is being deleted", topic=topic.topic)
    routes = {
        p.partition: Route(
            p.partition, p.broker, choose_address(p.broker_address, inside) if p.broker else "", p.owner_epoch
        )
        for p in answer.partitions
    }
    if not topic.partitions or sorted(routes) != list(range(topic.partitions)):
        raise Unreachable(f"topic {topic.topic} is still being created", topic=topic.topic)
    return TopicRoutes(topic.topic, topic.id, tuple(routes[i] for i in range(topic.partitions)))


def _extent(routes: TopicRoutes) -> tuple[int, int]:
    return routes.topic_id, len(routes.partitions)


Watcher = Callable[[TopicRoutes], None]


class _Topic:
    """What the router knows of one topic."""

    def __init__(self) -> None:
        self.routes: TopicRoutes | None = None
        self.lookup: asyncio.Task[TopicRoutes] | None = None
        self.looked_up_s = float("-inf")
        self.former_since_s: float | None = None  # since when lookups have found less than is known
        self.watchers: list[Watcher] = []
        self.refresher: asyncio.Task[None] | None = None


class Router:
    """``await router.routes("ns/topic")`` from memory, ``await router.refresh("ns/topic")`` anew.

    ``lookup`` asks a nameserver and bounds itself.  Raises what it raises (TopicNotFound, Unreachable, …) while nothing is known of the
    topic or the refusal is definite and terminal; otherwise the last known routes count.
    """

    def __init__(self, lookup: Callable[[str], Awaitable[TopicRoutes]]) -> None:
        self._lookup = lookup
        self._tasks = Tasks()
        self._topics: dict[str, _Topic] = {}
        self._log = LibraryLog("routing")

    async def routes(self, topic: str) -> TopicRoutes:
        known = self._topics.setdefault(topic, _Topic()).routes
        return known if known is not None else await self.refresh(topic)

    async def refresh(self, topic: str) -> TopicRoutes:
        """Asks a nameserver; joins a lookup that is under way.  What was known before is returned while no nameserver answers.  Raises
        what the lookup raises."""
        known = self._topics.setdefault(topic, _Topic())
        if known.lookup is None or known.lookup.done():
            known.lookup = asyncio.create_task(self._look_up(topic, known), name=f"lookup {topic}")
            known.lookup.add_done_callback(unheard)
        lookup = known.lookup
        try:
            return await asyncio.shield(lookup)
        except asyncio.CancelledError:
            if not lookup.cancelled() or task_is_cancelled():
                raise
            raise ClientClosed("the client is closed") from None  # ``close`` cancels lookups, not who waits for one

    def watch(self, topic: str, watcher: Watcher) -> Callable[[], None]:
        """Calls ``watcher`` after every change of the topic's routes; the result ends that."""
        known = self._topics.setdefault(topic, _Topic())
        known.watchers.append(watcher)
        if known.refresher is None:
            known.refresher = self._tasks.keep(functools.partial(self._keep_fresh, topic), f"refresh {topic}")

        def end() -> None:
            if watcher in known.watchers:
                known.watchers.remove(watcher)
            if not known.watchers and known.refresher is not None:
                known.refresher.cancel()
                known.refresher = None

        return end

    async def close(self) -> None:
        """Whoever waits for a lookup is told ClientClosed."""
        tasks = [t for known in self._topics.values() for t in (known.lookup, known.refresher) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._topics.clear()

    async def _look_up(self, topic: str, known: _Topic) -> TopicRoutes:
        loop = asyncio.get_running_loop()
        wait_s = known.looked_up_s + LOOKUP_INTERVAL_MIN_S - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        try:
            routes = await self._lookup(topic)
        except SteleError as e:
            if known.routes is None or (e.definite and not e.retryable):
                raise
            # Brokers serve without nameservers: the last known route is worth trying.
            self._log.debug("lookup_failed", topic=topic, reason=e.reason)
            return known.routes
        finally:
            known.looked_up_s = loop.time()
        if self._is_former(routes, known):
            assert known.routes is not None
            return known.routes
        before, known.routes = known.routes, routes
        if before != routes:
            for watcher in list(known.watchers):
                try:
                    watcher(routes)
                except Exception as e:  # of one who watches: the others, and who asked, must not suffer for it
                    self._log.error("routes_not_taken", e, topic=topic)
        return routes

    def _is_former(self, routes: TopicRoutes, known: _Topic) -> bool:
        """Ids only rise, and so do the partitions of one: whoever answers with less lags.  If all do, and for long, the cluster is
        another one."""
        now_s = asyncio.get_running_loop().time()
        if known.routes is None or _extent(routes) >= _extent(known.routes):
            known.former_since_s = None
            return False
        if known.former_since_s is None:
            known.former_since_s = now_s
        return now_s - known.former_since_s < FORMER_MAX_S

    async def _keep_fresh(self, topic: str) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            try:
                await self.refresh(topic)
            except SteleError as e:
                self._log.debug("refresh_failed", topic=topic, reason=e.reason)
            except Exception as e:  # or nobody would be told of a moved partition any more
                self._log.error("refresh_failed", e, topic=topic)
