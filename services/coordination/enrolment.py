"""The order in which a process joins the cluster, and leaves it (R1.8, R4.8).

Guarantee: whoever finds the process in ZooKeeper can dial it: its port is open before its name is registered, its name is its own
before its member node appears, and it campaigns only as a member.  A step that fails undoes those before it, in reverse; leaving is
the same way back.

Usage: ``session = await open_session(config, runtime, opened)``, then for a process with one port
``presence = Presence("brokers", config, runtime, session)``,
``enrolment = Enrolment(presence.port(server, close), presence.name, presence.member)``, ``await enrolment.join()``, ...,
``await enrolment.leave()``.  A datanode, whose port opens long after it registered (R4.1), takes the steps of its presence one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from stele.services.config import NodeConfig
from stele.services.coordination import incarnation
from stele.services.coordination.access import ZooKeeperAccess
from stele.services.coordination.kazoo_client import LeaseClient
from stele.services.coordination.members import Membership
from stele.services.coordination.names import NameHold, register_name
from stele.services.coordination.records import MemberRecord
from stele.services.coordination.session import Session, SessionEvent
from stele.services.errors import SteleError
from stele.services.metrics import latency
from stele.services.process import Runtime
from stele.services.rpc.servers import Server

SESSION_START_S = 10.0
TELL_TIMEOUT_S = 1.0

Action = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Step:
    do: Action
    undo: Action


class Enrolment:
    """Four steps, the last one for nameservers only."""

    def __init__(self, port: Step, name: Step, member: Step, campaign: Step | None = None) -> None:
        self.port, self.name, self.member, self.campaign = port, name, member, campaign
        self._done = AsyncExitStack()

    def order(self) -> list[Step]:
        return [self.port, self.name, self.member, *([self.campaign] if self.campaign else [])]

    async def join(self) -> None:
        """Raises what the failing step raised, with nothing left behind."""
        async with AsyncExitStack() as stack:
            for step in self.order():
                await step.do()
                stack.push_async_callback(step.undo)
            self._done = stack.pop_all()

    async def leave(self) -> None:
        """Idempotent."""
        await self._done.aclose()


class EventLoopMetrics:
    """How long the loop of this process stood still, as its session saw it."""

    def __init__(self, session: Session, registry: CollectorRegistry) -> None:
        Gauge(
            "stele_event_loop_longest_stall_seconds",
            "Longest time for which the event loop stood still; past its timeout the session with ZooKeeper ends",
            registry=registry,
        ).set_function(lambda: session.longest_stall_s)


class ZooKeeperMetrics:
    """How long ZooKeeper takes to answer this process."""

    def __init__(self, session: Session, registry: CollectorRegistry) -> None:
        answers = latency(
            "stele_zookeeper_operation_seconds",
            "From sending a request to ZooKeeper to its answer, by operation; requests without one are not in it",
            registry,
            ("operation",),
        )
        session.on_answer = lambda operation, took_s: answers.labels(operation).observe(took_s)


async def open_session(config: NodeConfig, runtime: Runtime, opened: AsyncExitStack, identity: str = "") -> Session:
    """A session that stands; it is closed with ``opened``.  ``identity`` is what only one process can hold (the uuid of a locked data
    directory).  The process ends with ClusterMismatch where ZooKeeper turns out to hold another cluster later.  CoordinationUnreachable,
    CoordinationRefused, FormatUnknown; InvalidConfig: a file of the settings cannot be used."""
    session = Session(
        config.zookeeper,
        config.cluster,
        config.session_timeout_s,
        incarnation=incarnation.current(identity),
        connect=runtime.zookeeper
        or functools.partial(LeaseClient, access=ZooKeeperAccess.of(config.zookeeper_access, os.environ)),
        on_mismatch=runtime.fail,
        record_format=runtime.record_format,
    )
    runtime.ready.add("coordination")
    ZooKeeperMetrics(session, registry=runtime.registry)
    await session.start(SESSION_START_S)
    opened.push_async_callback(session.close)
    EventLoopMetrics(session, registry=runtime.registry)

    def show(_: SessionEvent | None = None) -> None:
        # Without ZooKeeper what can be answered is answered all the same: the process stays ready.
        runtime.ready.set(
            "coordination", True, session.problem or f"{session.state.value}, cluster {session.cluster_id}"
        )

    opened.callback(session.subscribe(show))
    show()
    return session


class Presence:
    """Where a process is, its name and its member node.  ``kind`` is the folder of its members.

    The process fails (``Runtime.fail``) if another one takes its name or its node while it was cut off."""

    def __init__(self, kind: str, config: NodeConfig, runtime: Runtime, session: Session) -> None:
        self.endpoint = ""  # host:port that others dial; to be known before the name is taken
        self._kind, self._config, self._runtime, self._session = kind, config, runtime, session
        self._name: NameHold | None = None
        self._membership: Membership | None = None

    # --- the steps of a process that serves one port -----------------------------------------------------------------

    def port(self, server: Server, close: Action) -> Step:
        """``close`` is called when it leaves."""

        async def start() -> None:
            port = await server.start()
            self.endpoint = self._config.endpoint(port)
            self._runtime.announce(self.endpoint, advertised=self._config.advertised(port))

        return Step(start, close)

    @property
    def name(self) -> Step:
        return Step(self.take_name, self.release_name)

    @property
    def member(self) -> Step:
        return Step(self.become_member, self.leave_members)

    # --- one by one --------------------------------------------------------------------------------------------------

    async def take_name(self) -> None:
        """NameTaken, CoordinationUnknown."""
        self._name = await register_name(self._session, self._config.name, self.endpoint, on_taken=self._runtime.fail)

    async def release_name(self) -> None:
        if self._name is not None:
            await self._name.release()

    async def become_member(self, state: str = "ready", *, store_id: int = 0, raft_endpoint: str = "") -> None:
        """NameTaken, CoordinationUnknown."""
        runtime = self._runtime
        record = MemberRecord(
            endpoint=self.endpoint,
            advertised=runtime.advertised,
            raft_endpoint=raft_endpoint,
            store_id=store_id,
            state=state,
            version=version("stele"),
            started_ms=time.time_ns() // 1_000_000,
            admin_endpoint=runtime.admin.endpoint if runtime.admin is not None else "",
        )
        self._membership = Membership(self._session, self._kind, self._config.name, record, on_taken=runtime.fail)
        await self._membership.register()

    async def update(self, **changes: Any) -> None:
        """Changes fields of the member node, if there is one; without an answer from ZooKeeper (CoordinationUnknown) later."""
        if self._membership is not None:
            await self._membership.update(**changes)

    async def tell_draining(self) -> None:
        """Others see that it goes because it was told to.  It goes all the same where ZooKeeper does not answer."""
        with contextlib.suppress(SteleError, TimeoutError):
            async with asyncio.timeout(TELL_TIMEOUT_S):
                await self.update(state="draining")

    async def leave_members(self) -> None:
        if self._membership is not None:
            await self._membership.unregister()
