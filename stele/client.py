"""A connection to a cluster: where producers, consumers and administration come from.

Usage::

    async with stele.connect("127.0.0.1:6600,127.0.0.1:6601") as client:
        await client.admin.create_topic("shop/orders", partitions=4)
        async with client.producer("shop/orders") as producer:
            await producer.send(b"hello")

Any of the nameservers is enough to begin with; the others are learned.  A client inside the cluster's network dials internal endpoints,
any other one the advertised addresses; which it is, is told by the address that it was given.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from types import TracebackType

from stele import arguments
from stele.admin import Admin
from stele.broker_calls import BrokerCalls
from stele.consumer import Consumer
from stele.errors import ClientClosed
from stele.forks import Birthplace
from stele.produce_streams import ProduceStreams
from stele.producer import Producer, ProducerSettings
from stele.routing import LOOKUP_TIMEOUT_S, Router, TopicRoutes, choose_address, is_inside, parse_bootstrap, read_routes
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import InvalidArgument, SteleError, Unimplemented, Unreachable
from stele.services.library_log import LibraryLog
from stele.services.pb import common_pb2, nameserver_pb2
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.transport import GRPC, Transport
from stele.services.tasks import Tasks
from stele.services.topics import parse_topic

CONNECT_TIMEOUT_S = 10.0
MEMBERS_REFRESH_S = 10.0
SERVER_VARIABLE = "STELE_SERVER"  # also read by the command


class Client:
    """Made by ``stele.connect``.  Everything that it made is closed with it."""

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
        seed: int | None = None,
        transport: Transport = GRPC,
        clock: Clock = SYSTEM,
    ) -> None:
        self._bootstrap = parse_bootstrap(servers)
        arguments.number("timeout_s", timeout_s, 0.001, arguments.TIMEOUT_S_MAX, "of seconds")
        if seed is not None:
            arguments.whole("seed", seed, -(1 << 63), (1 << 64) - 1)
        self._timeout_s = timeout_s
        self._birthplace = Birthplace()
        self._clock = clock
        self._rng = random.Random(seed)
        self._channels = Channels(transport=transport)
        self._nameservers = NameserverClient(
            self._channels, self.nameserver_endpoints, rng=self._rng, check_open=self.check_open
        )
        self._known: list[str] = []
        self._inside = False
        self._router = Router(self.look_up)
        self._streams = ProduceStreams(self._channels)
        self._brokers = BrokerCalls(self._router, self._channels, self._rng, self.check_open)
        self.admin = Admin(self._nameservers, self._brokers, self, self._channels)
        self._opened: set[Producer | Consumer] = set()
        self._refresher: asyncio.Task[None] | None = None
        self._closed = False
        self._log = LibraryLog("client")

    async def __aenter__(self) -> Client:
        self.check_open()
        self._birthplace.connect()
        try:
            await self._refresh_members(self._timeout_s)
        except Unimplemented:
            await self.close()
            raise InvalidArgument(
                f"{', '.join(self._bootstrap)} is no nameserver: give the address of one",
                servers=",".join(self._bootstrap),
            ) from None
        except SteleError as e:
            await self.close()
            raise Unreachable(
                f"no nameserver answered at {', '.join(self._bootstrap)} within {self._timeout_s:g} s: {e}",
                last=e.reason,
            ) from None
        except BaseException:
            await self.close()
            raise
        self._refresher = Tasks().keep(self._keep_members_fresh, "nameservers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def producer(
        self,
        topic: str,
        *,
        linger_ms: float = 5.0,
        batch_bytes_max: int = 64 * 1024,
        send_timeout_s: float = 30.0,
        buffer_bytes_max: int = 32 * 1024 * 1024,
        idempotent: bool = True,
    ) -> Producer:
        """Sends to ``"namespace/topic"``.  A batch leaves when it is full or ``linger_ms`` old; a message fails when it is not stored
        within ``send_timeout_s``; with ``idempotent=False`` a retry may store it twice."""
        self.check_open()
        settings = ProducerSettings(
            linger_ms=linger_ms,
            batch_bytes_max=batch_bytes_max,
            send_timeout_s=send_timeout_s,
            buffer_bytes_max=buffer_bytes_max,
            idempotent=idempotent,
        )
        producer = Producer(
            topic,
            self._router,
            self._streams,
            settings,
            rng=random.Random(self._rng.random()),
            clock=self._clock,
            on_closed=self._opened.discard,
        )
        self._opened.add(producer)
        return producer

    def consumer(
        self,
        topic: str,
        subscription: str,
        *,
        type: str = "shared",
        start: int | str = "earliest",
        credit: int = 1000,
        ack_timeout_s: float | None = None,
        on_damage: str = "raise",
        name: str = "",
    ) -> Consumer:
        """Receives through a subscription, which is created at ``start`` ("earliest", "latest" or an offset) if it does not exist.
        ``type``: exclusive (one consumer), failover (one at a time), shared (spread).  ``credit``: messages held ready here.
        ``ack_timeout_s``: a message not acknowledged so long after it was received is delivered again.  ``on_damage``: where messages
        can be read from no replica any more, "raise" an error that names them, or "skip" them, counted in ``skipped``."""
        self.check_open()
        consumer = Consumer(
            topic,
            subscription,
            self._router,
            self._channels,
            self._brokers.topic_routes,
            self.admin._has_begun,
            self.admin._seek_partition,
            type=type,
            start=start,
            credit=credit,
            ack_timeout_s=ack_timeout_s,
            on_damage=on_damage,
            name=name,
            rng=random.Random(self._rng.random()),
            on_closed=self._opened.discard,
        )
        self._opened.add(consumer)
        return consumer

    async def close(self) -> None:
        """Closes every producer (what is unanswered fails) and consumer of this client, then its connections."""
        self._birthplace.check("the client")
        self._closed = True
        users = list(self._opened)
        await asyncio.gather(
            *(u.abort() if isinstance(u, Producer) else u.close() for u in users), return_exceptions=True
        )
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        await self._router.close()
        await self._streams.close()
        await self._channels.close()
        self._birthplace.disconnect()

    async def look_up(self, topic: str) -> TopicRoutes:
        """The topic's routes, from a nameserver.  Raises TopicNotFound."""
        parse_topic(topic)
        self.check_open()
        answer = await self._nameservers.call("Lookup", nameserver_pb2.LookupRequest(topic=topic), LOOKUP_TIMEOUT_S)
        return read_routes(answer, self._inside)

    async def nameserver_endpoints(self) -> list[str]:
        """Those of the cluster as last heard, then those given."""
        return list(dict.fromkeys([*self._known, *self._bootstrap]))

    async def _refresh_members(self, timeout_s: float) -> None:
        answer: nameserver_pb2.GetClusterResponse = await self._nameservers.call(
            "GetCluster", nameserver_pb2.GetClusterRequest(), timeout_s
        )
        addresses: list[common_pb2.Address] = [m.address for m in answer.nameservers]
        self._inside = self._inside or is_inside(self._bootstrap, addresses)
        self._known = [choose_address(a, self._inside) for a in addresses]

    async def _keep_members_fresh(self) -> None:
        while True:
            await asyncio.sleep(MEMBERS_REFRESH_S)
            try:
                await self._refresh_members(self._timeout_s)
            except SteleError as e:
                self._log.debug("nameservers_unreachable", reason=e.reason)
            except Exception as e:  # or a nameserver that comes later would never be known
                self._log.error("nameservers_not_learned", e)

    def check_open(self) -> None:
        """Raises ClientClosed."""
        self._birthplace.check("the client")
        if self._closed:
            raise ClientClosed("the client is closed")


def connect(
    servers: str | Sequence[str] | None = None, *, timeout_s: float = CONNECT_TIMEOUT_S, seed: int | None = None
) -> Client:
    """A client of the cluster whose nameservers are at ``"host:port,host:port"``, or in the environment's ``STELE_SERVER``; use it
    with ``async with``.  Raises there Unreachable when none answers within ``timeout_s``, InvalidArgument when what answers is another
    kind of process."""
    if servers is None and not (servers := os.environ.get(SERVER_VARIABLE)):
        raise InvalidArgument(
            f'no cluster is named: give its nameservers as stele.connect("host:port,host:port"), or set {SERVER_VARIABLE} to them; '
            f'for the cluster that `stele cluster up` started: eval "$(stele cluster env)"'
        )
    return Client(servers, timeout_s=timeout_s, seed=seed)
