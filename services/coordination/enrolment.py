"""The order in which a process joins the cluster, and leaves it (R1.8, R4.8).

Guarantee: whoever finds the process in ZooKeeper can dial it: its port is open before its name is registered, its name is its own
before its member node appears, and it campaigns only as a member.  A step that fails undoes those before it, in reverse; leaving is
the same way back.

Usage: ``enrolment = Enrolment(open_port, name, member, campaign); await enrolment.join(); ...; await enrolment.leave()``; the first three
steps of a process with one port are those of its :class:`Presence`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version

from stele.services.config import NodeConfig
from stele.services.coordination.members import Membership
from stele.services.coordination.names import NameHold, register_name
from stele.services.coordination.records import MemberRecord
from stele.services.coordination.session import Session
from stele.services.process import Runtime
from stele.services.rpc.servers import Server

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


class Presence:
    """The port, the name and the member node of a process that serves one port.  ``kind`` is the folder of its members."""

    def __init__(self, kind: str, config: NodeConfig, runtime: Runtime, session: Session, server: Server) -> None:
        self._kind, self._config, self._runtime = kind, config, runtime
        self._session, self._server = session, server
        self._name: NameHold | None = None
        self.membership: Membership | None = None
        self.endpoint = ""  # known once the port is open

    def port(self, close: Action) -> Step:
        """``close`` is called when it leaves."""
        return Step(self._open_port, close)

    @property
    def name(self) -> Step:
        return Step(self._take_name, self._leave_name)

    @property
    def member(self) -> Step:
        return Step(self._become_member, self._leave_members)

    async def _open_port(self) -> None:
        port = await self._server.start()
        self.endpoint = self._config.endpoint(port)
        self._runtime.announce(self.endpoint, advertised=self._config.advertised(port))

    async def _take_name(self) -> None:
        self._name = await register_name(self._session, self._config.name, self.endpoint, on_taken=self._runtime.fail)

    async def _leave_name(self) -> None:
        if self._name is not None:
            await self._name.release()

    async def _become_member(self) -> None:
        runtime = self._runtime
        record = MemberRecord(
            endpoint=self.endpoint,
            advertised=runtime.advertised,
            state="ready",
            version=version("stele"),
            started_ms=time.time_ns() // 1_000_000,
            admin_endpoint=runtime.admin.endpoint if runtime.admin is not None else "",
        )
        self.membership = Membership(self._session, self._kind, self._config.name, record, on_taken=runtime.fail)
        await self.membership.register()

    async def _leave_members(self) -> None:
        if self.membership is not None:
            await self.membership.unregister()
