"""Feels the pulse of every registered broker, so that its bundles need not wait for its session to expire.

Guarantee: a broker counts as REFUSED only after its connection broke or could not be made and its port then refused two connections in a
row, which a living process on a reachable host does not do; anything less is SILENT.  A wrong verdict is made harmless by the
epoch: whoever gets the bundles next fences the former owner (R5.10).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stele.nameserver.bundle_assignment import Pulse
from stele.nameserver.catalog import Member
from stele.services.errors import SteleError
from stele.services.events import EventKind
from stele.services.rpc.channels import Channels
from stele.services.rpc.status import typed_errors
from stele.services.tasks import Tasks

REDIALS = 2
REDIAL_PAUSE_S = 0.08
DIAL_TIMEOUT_S = 0.5
ANSWER_TIMEOUT_S = 1.0
PROBE_AGAIN_S = 0.25

_log = structlog.get_logger()


class BrokerProbes:
    """``follow(members)`` after each change of the registrations; ``changed()`` is called after each change of a pulse.

    ``saw`` records what was seen of a process that does not answer: kind, name, cause, the event that it follows from, facts, and how many
    seconds ago.  Only the leader probes; the others call ``follow({})``."""

    def __init__(
        self,
        channels: Channels,
        changed: Callable[[], None],
        saw: Callable[[str, str, str, str, Mapping[str, str], float], str] = lambda *seen: "",
    ) -> None:
        self._channels, self._changed, self._saw = channels, changed, saw
        self._lost_at: dict[tuple[str, int], float] = {}  # when its connection broke, of whom it was not told yet
        self._signs: dict[tuple[str, int], str] = {}  # the newest event of who is not heard
        self._pulses: dict[tuple[str, int], Pulse] = {}
        self._tasks = Tasks()
        self._probing: dict[tuple[str, int], asyncio.Task[None]] = {}

    def pulse(self, member: Member) -> Pulse:
        return self._pulses.get(_incarnation(member), Pulse.UNPROBED)

    def follow(self, members: Mapping[str, Member]) -> None:
        """Probes exactly ``members``.  A broker that registers again is another one and is probed anew."""
        wanted = {_incarnation(m): m for m in members.values()}
        for key in self._probing.keys() - wanted.keys():
            self._probing.pop(key).cancel()
            self._pulses.pop(key, None)
            self._signs.pop(key, None)
            self._lost_at.pop(key, None)
        for key in wanted.keys() - self._probing.keys():
            self._probing[key] = self._tasks.keep(
                functools.partial(self._probe, wanted[key]), f"probe-{wanted[key].name}"
            )

    async def stop(self) -> None:
        self.follow({})
        await self._tasks.cancel()

    async def _probe(self, member: Member) -> None:
        while True:
            with contextlib.suppress(SteleError):
                await self._listen(member)
            if self.pulse(member) is Pulse.ALIVE:
                self._lost_at[_incarnation(member)] = asyncio.get_running_loop().time()
            refused = await self._refuses(member.endpoint)
            self._publish(member, Pulse.REFUSED if refused else Pulse.SILENT)
            if refused:
                await self._channels.close(member.endpoint)  # the next attempt dials at once instead of backing off
            await asyncio.sleep(PROBE_AGAIN_S)

    async def _listen(self, member: Member) -> None:
        """Holds a health stream: the broker is alive from its first answer until the stream breaks."""
        channel = await self._channels.connected(member.endpoint, ANSWER_TIMEOUT_S)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest())
        try:
            with typed_errors():
                try:
                    async with asyncio.timeout(ANSWER_TIMEOUT_S):
                        answer = await stream.read()
                except TimeoutError:
                    return
                while answer is not grpc.aio.EOF:  # type: ignore[attr-defined]
                    self._publish(member, Pulse.ALIVE)
                    answer = await stream.read()
        finally:
            stream.cancel()

    async def _refuses(self, endpoint: str) -> bool:
        """Whether the port refuses ``REDIALS`` connections in a row."""
        for attempt in range(REDIALS):
            if attempt:
                await asyncio.sleep(REDIAL_PAUSE_S)
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    await self._channels.knock(endpoint)
            except ConnectionRefusedError:
                continue
            except (OSError, TimeoutError):
                return False
            return False
        return True

    def _publish(self, member: Member, pulse: Pulse) -> None:
        key = _incarnation(member)
        if key in self._probing and self._pulses.get(key) is not pulse:
            self._pulses[key] = pulse
            self._record(member, pulse)  # BEFORE anything is decided by it: what is names the event
            _log.info("broker_pulse", broker=member.name, endpoint=member.endpoint, pulse=pulse.value)
            self._changed()

    def _record(self, member: Member, pulse: Pulse) -> None:
        key = _incarnation(member)
        if pulse is Pulse.ALIVE:
            self._signs.pop(key, None)
            return
        facts = {"kind": "broker", "incarnation": str(member.joined_zxid), "endpoint": member.endpoint}
        sign = self._signs.get(key, "")
        if (lost_at := self._lost_at.pop(key, None)) is not None:
            ago_s = asyncio.get_running_loop().time() - lost_at
            sign = self._saw(EventKind.CONNECTION_LOST, member.name, "closed", "", facts, ago_s)
        kind = EventKind.PROCESS_GONE if pulse is Pulse.REFUSED else EventKind.PROCESS_SILENT
        self._signs[key] = self._saw(kind, member.name, pulse.value, sign, facts, 0.0)


def _incarnation(member: Member) -> tuple[str, int]:
    return member.name, member.joined_zxid
