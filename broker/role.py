"""The broker process: what it opens, in which order, and how it goes.

Start: ZooKeeper session → port → name → member node (R1.8), then the routing facts are followed for as long as it
lives; the ready gate opens with the first of them. Drain: the member node says ``draining``, so that the leading
nameserver moves the bundles while this broker still serves them; what is left then is handed back with NotOwner,
appends in flight are answered, the registration goes, the port closes.

While the session is suspended the broker serves on: the owner epoch makes that safe (R5.10). Once it is lost nothing
is owned until the broker is registered again and its bundles are assigned anew.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import structlog

from stele.broker.metrics import BrokerMetrics
from stele.broker.owned_partitions import OwnedPartitions
from stele.broker.ownership import DELETING
from stele.broker.server import BrokerServicer
from stele.broker.subscription_metrics import SubscriptionMetrics
from stele.services.config import BrokerConfig
from stele.services.coordination.enrolment import Enrolment, Presence, open_session
from stele.services.coordination.members import known_nameservers
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.errors import SteleError, TopicNotFound
from stele.services.pb import broker_pb2_grpc, nameserver_pb2
from stele.services.process import Runtime
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.servers import Server
from stele.services.tasks import Tasks

HANDOVER_SHARE = 0.5  # of the drain's time
GRACE_S = 1.0
LOOKUP_TIMEOUT_S = 3.0

log = structlog.get_logger()


class Broker:
    """A role (services/process.py)."""

    def __init__(self, config: BrokerConfig, runtime: Runtime) -> None:
        self._config, self._runtime = config, runtime
        self._opened = AsyncExitStack()
        self._tasks = Tasks(runtime.task_failed)
        self._observed = asyncio.Event()  # set at each routing fact; who waits clears it
        self._presence: Presence | None = None
        self.session: Session
        self.partitions: OwnedPartitions
        self._server: Server
        self._enrolment: Enrolment | None = None

    @property
    def endpoint(self) -> str:
        """Empty before its port is open."""
        return self._presence.endpoint if self._presence is not None else ""

    # --- start ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        config, runtime = self._config, self._runtime
        runtime.ready.add("registered")
        runtime.ready.add("routing", detail="no nameserver has answered yet")
        self.session = await open_session(config, runtime, self._opened)
        self._opened.callback(self.session.subscribe(self._session_changed))
        channels = Channels(transport=runtime.transport)
        self._opened.push_async_callback(channels.close)
        nameservers = NameserverClient(channels, known_nameservers(self.session))

        async def is_absent(topic: str) -> bool:
            try:
                found = await nameservers.call("Lookup", nameserver_pb2.LookupRequest(topic=topic), LOOKUP_TIMEOUT_S)
            except TopicNotFound:
                return True
            except SteleError:
                return False
            return bool(found.topic.state == DELETING)

        self.partitions = OwnedPartitions(
            config.name,
            channels,
            is_absent=is_absent,
            inflight_appends_max=config.inflight_appends_max,
            ack_flush_interval_s=config.ack_flush_interval_s,
            metrics=BrokerMetrics(runtime.registry),
        )
        self._opened.push_async_callback(self.partitions.stop)
        SubscriptionMetrics(self.partitions, runtime.registry)
        self._server = Server(config.host, config.port, transport=runtime.transport)
        servicer = BrokerServicer(self.partitions, config.produce_credit_bytes, config.produce_bytes_max)
        self._server.add(broker_pb2_grpc.add_BrokerServicer_to_server, servicer, "stele.v1.Broker")
        self._server.set_serving(False)
        self._opened.push_async_callback(self._server.stop)
        presence = self._presence = Presence("brokers", config, runtime, self.session)
        enrolment = Enrolment(
            port=presence.port(self._server, _nothing),
            name=presence.name,
            member=presence.member,
        )
        await enrolment.join()
        self._enrolment = enrolment
        self._opened.push_async_callback(enrolment.leave)
        runtime.ready.set("registered", True, detail=self.endpoint)
        self._tasks.start(self._follow(nameservers), "routing")

    # --- what the cluster says ------------------------------------------------------------------------------------

    async def _follow(self, nameservers: NameserverClient) -> None:
        async for routing in nameservers.watch_routing(self._config.name):
            self.partitions.observe(routing)
            self._observed.set()
            if not self._runtime.ready.holds("routing"):
                self._runtime.ready.set("routing", True, detail=f"from {routing.answered_by}")
                self._server.set_serving(True)

    def _session_changed(self, event: SessionEvent) -> None:
        if event.state is SessionState.LOST or event.new_session:
            self.partitions.void()

    # --- the end --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        if self._enrolment is None:
            return
        self._server.set_serving(False)
        if self._presence is not None:
            await self._presence.tell_draining()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_timeout_s * HANDOVER_SHARE):
                await self._bundles_moved()
        log.info("bundles_handed_over", still_owned=len(self.partitions.ownership.owned))
        await self.partitions.drain()
        await self._enrolment.leave()
        await self._server.stop(GRACE_S)

    async def _bundles_moved(self) -> None:
        """The nameserver has given the bundles to others; at once if there is nobody to take them."""
        while self.partitions.ownership.owned and self.partitions.has_successor:
            self._observed.clear()
            await self._observed.wait()

    async def stop(self) -> None:
        await self._tasks.cancel()
        await self._opened.aclose()


async def _nothing() -> None:
    """The port closes last, after what was taken through it is answered."""
