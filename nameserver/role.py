"""The nameserver process: what it opens, in which order, and how it goes.

Start: ZooKeeper session → view of the cluster → port → name → member node → campaign (R1.8), so that whoever finds it can dial it and gets
answers.  Leading or not changes nothing but who does the work of controller.py.

Drain: resigned first, so that the next candidate leads at once; then unregistered; then the port closes.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

import structlog

from stele.nameserver.clusterview import ClusterView
from stele.nameserver.controller import Controller
from stele.nameserver.leader_balance import LeaderBalanceLimits
from stele.nameserver.metrics import NameserverMetrics
from stele.nameserver.moves import MoveLimits
from stele.nameserver.operation_metrics import OperationMetrics
from stele.nameserver.server import NameserverServicer
from stele.services.config import NameserverConfig
from stele.services.coordination.election import Election, Leadership
from stele.services.coordination.enrolment import Enrolment, Presence, Step, open_session
from stele.services.coordination.session import Session
from stele.services.pb import nameserver_pb2_grpc
from stele.services.process import Runtime
from stele.services.rpc.channels import Channels
from stele.services.rpc.servers import Server
from stele.services.tasks import Tasks

GRACE_S = 0.5

log = structlog.get_logger()


class ControllerType(Protocol):
    """What begins a term of office."""

    def __call__(
        self,
        leadership: Leadership,
        session: Session,
        view: ClusterView,
        channels: Channels,
        *,
        limits: MoveLimits,
        store_down_after_s: float,
        leader_limits: LeaderBalanceLimits,
    ) -> Controller: ...


class Nameserver:
    """A role (services/process.py).  ``controller`` is put in the product's place by tests."""

    def __init__(self, config: NameserverConfig, runtime: Runtime, controller: ControllerType = Controller) -> None:
        self._config, self._runtime, self._new_controller = config, runtime, controller
        self._opened = AsyncExitStack()
        self._enrolment: Enrolment | None = None
        self._presence: Presence | None = None
        self._closing = Tasks()
        self.session: Session
        self.view: ClusterView
        self.election: Election
        self.controller: Controller | None = None

    @property
    def endpoint(self) -> str:
        """Empty before its port is open."""
        return self._presence.endpoint if self._presence is not None else ""

    # --- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        config, runtime = self._config, self._runtime
        for condition in ("view", "registered"):
            runtime.ready.add(condition)
        self.session = await open_session(config, runtime, self._opened)
        self._channels = Channels(transport=runtime.transport)
        self._opened.push_async_callback(self._channels.close)
        self.view = ClusterView(self.session, self._channels, config.name, runtime.fail)
        self._opened.push_async_callback(self.view.stop)
        await self.view.start()
        runtime.ready.set("view", True)
        self._metrics = NameserverMetrics(runtime.registry, self.view)
        self.view.on_derived = OperationMetrics(lambda: self.view.current, runtime.registry).observe
        self._open_server()
        presence = self._presence = Presence("nameservers", config, runtime, self.session)
        enrolment = Enrolment(
            port=presence.port(self._server, self._close_port),
            name=presence.name,
            member=presence.member,
            campaign=Step(self._campaign, self._resign),
        )
        await enrolment.join()
        self._enrolment = enrolment
        self._opened.push_async_callback(enrolment.leave)
        runtime.ready.set("registered", True, detail=self.endpoint)

    def _open_server(self) -> None:
        config = self._config
        servicer = NameserverServicer(
            config.name,
            config.cluster,
            self.session,
            self.view,
            self._channels,
            lambda: self.controller,
            self._metrics.lookups,
        )
        self._server = Server(config.host, config.port, transport=self._runtime.transport)
        self._server.add(nameserver_pb2_grpc.add_NameserverServicer_to_server, servicer, "stele.v1.Nameserver")

    async def _close_port(self) -> None:
        self._server.set_serving(False)
        self.view.events.close()
        await self._server.stop(GRACE_S)

    # --- leading ----------------------------------------------------------------------------------------------------

    async def _campaign(self) -> None:
        self.election = Election(self.session, self._config.name, self.endpoint)
        self.election.subscribe_leadership(self._on_leadership)
        await self.election.campaign()

    async def _resign(self) -> None:
        # The controller is closed BEFORE the leadership is given up: no order of ours is sent after a successor's.
        self._on_leadership(None)
        await self._closing.finished()
        await self.election.resign()

    def _on_leadership(self, leadership: Leadership | None) -> None:
        """A controller belongs to one leadership and goes with it."""
        if self.controller is not None:
            self._closing.start(self.controller.close(), "close-controller")
            self.controller = None
        if leadership is not None:
            config = self._config
            self.controller = self._new_controller(
                leadership,
                self.session,
                self.view,
                self._channels,
                limits=MoveLimits(config.moves_max, config.store_moves_max, config.replicas_differ_max),
                store_down_after_s=config.store_down_after_s,
                leader_limits=LeaderBalanceLimits(config.leader_balance_after_s, config.leader_transfers_max),
            )
            self.controller.open()
        self._metrics.epoch(leadership.epoch if leadership is not None else 0)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        if self._enrolment is not None:
            self._server.set_serving(False)
            if self._presence is not None:
                await self._presence.tell_draining()
            await self._enrolment.leave()

    async def stop(self) -> None:
        await self._opened.aclose()
        await self._closing.finished()
