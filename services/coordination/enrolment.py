"""The order in which a process joins the cluster, and leaves it (R1.8, R4.8).

Guarantee: whoever finds the process in ZooKeeper can dial it: its port is open before its name is registered, its name is its own
before its member node appears, and it campaigns only as a member.  A step that fails undoes those before it, in reverse; leaving is
the same way back.

Usage: ``enrolment = Enrolment(open_port, name, member, campaign); await enrolment.join(); ...; await enrolment.leave()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

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
