"""Whether a process can be stopped now.

Guarantee: ``safe`` is said only of what every member that it depends on has answered after the question; nothing is changed or reserved
by asking, so an answer holds for one process, and whoever stops another one next asks anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stele import arguments
from stele.model import StopSafety
from stele.operations import PROGRESS_S, Operations
from stele.services.errors import SteleError, Timeout
from stele.services.pb import nameserver_pb2 as pb
from stele.services.topics import check_name

ASK_TIMEOUT_S = 10.0  # of one question among several


class StopCalls(Operations):
    """The part of ``client.admin`` that is about stopping processes."""

    async def safe_to_stop(self, name: str) -> StopSafety:
        """Whether the nameserver, datanode or broker could be stopped now: no partition would be without a majority of its voters, no
        bundle without a broker that can take it, no leadership of nameservers without a successor; and nobody of whom that is asked is
        only just back, the process itself among them.  Raises NameNotFound, and NoLeader while nobody can say."""
        check_name("process", name)
        return _read(name, await self._write("SafeToStop", pb.SafeToStopRequest(name=name)))

    async def until_safe_to_stop(self, name: str, timeout_s: float) -> AsyncIterator[StopSafety]:
        """The same, now and again, until it can be stopped, which the last answer says.  While nobody can say, that is the reason.  Raises
        NameNotFound, and Timeout with the last reasons."""
        check_name("process", name)
        arguments.timeout_s(timeout_s)
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + timeout_s
        request = pb.SafeToStopRequest(name=name)
        while True:
            self._client.check_open()
            try:
                found = _read(name, await self._nameservers.call("SafeToStop", request, ASK_TIMEOUT_S))
            except SteleError as e:
                if not e.retryable:
                    raise
                found = StopSafety(name, "", False, (e.message,))
            yield found
            if found.safe:
                return
            if now_s() >= deadline_s:
                raise Timeout(
                    f"{name} is not safe to stop after {timeout_s:g} s: {'; '.join(found.reasons)}", timeout_s=timeout_s
                )
            await asyncio.sleep(PROGRESS_S)


def _read(name: str, answer: pb.SafeToStopResponse) -> StopSafety:
    return StopSafety(name, answer.role, answer.safe, tuple(answer.reasons))
