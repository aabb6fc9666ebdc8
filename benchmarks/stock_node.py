"""PySyncObj as it comes, in a process of a benchmark: its own thread, its TCP transport, its FileJournal, its default settings.

Only ``appendEntriesUseBatch`` is set, the mode under test.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

from benchmarks import children
from benchmarks.loads import Figures, Run, payload_of

LATE_S = 15.0  # what is given to the answers of a load that has ended


class Counting(SyncObj):  # type: ignore[misc]
    """A replicated counter: what is measured is replication."""

    def __init__(self, own: str, others: Sequence[str], conf: SyncObjConf) -> None:
        self.count = 0
        super().__init__(own, list(others), conf)

    @replicated  # type: ignore[untyped-decorator]
    def put(self, payload: bytes) -> int:
        self.count += 1
        return self.count


class StockNode:
    """One replica.  ``start`` comes first."""

    def __init__(self) -> None:
        self._replica: Counting

    async def start(self, journal: str, ports: Sequence[int], number: int, batch: bool) -> Figures:
        logging.basicConfig(level=logging.ERROR)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        own = addresses.pop(number - 1)
        self._replica = Counting(own, addresses, SyncObjConf(journalFile=journal, appendEntriesUseBatch=batch))
        return {}

    async def state(self) -> Figures:
        replica = self._replica
        return {
            "led": replica._isLeader(),
            "ready": replica.isReady(),
            "with_leader": replica._getLeader() is not None,
            "applied": replica.raftLastApplied,
        }

    async def load(self, size: int, in_flight: int, seconds: float) -> Figures:
        """Proposals to the replica of this process, which leads: each answer brings the next, from the library's own thread."""
        replica, payload = self._replica, payload_of(size)
        run = Run(size, seconds, time.perf_counter())
        over = threading.Event()
        problems: set[int] = set()
        outstanding = in_flight

        def propose() -> None:
            asked = time.perf_counter()
            replica.put(payload, callback=lambda _, failed: answered(failed, asked))

        def answered(failed: int, asked: float) -> None:
            nonlocal outstanding
            now = time.perf_counter()
            if failed == FAIL_REASON.SUCCESS:
                run.answered(asked, now)
            else:
                problems.add(failed)
            if failed == FAIL_REASON.SUCCESS and now < run.end:
                propose()
                return
            outstanding -= 1
            if not outstanding:
                over.set()

        for _ in range(in_flight):
            propose()
        unanswered = not await asyncio.to_thread(over.wait, run.end - time.perf_counter() + LATE_S)
        result = run.result()
        if unanswered:
            result["problem"] = f"{outstanding} of {in_flight} proposals were never answered"
        elif problems:
            result["problem"] = f"refused, reasons {sorted(problems)}"
        return result

    async def propose(self, size: int) -> Figures:
        """One write for a client elsewhere, if this replica leads."""
        if not self._replica._isLeader():
            return {"leader": None}
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[int] = loop.create_future()

        def answer(failed: int) -> None:
            if not answered.done():
                answered.set_result(failed)

        self._replica.put(payload_of(size), callback=lambda _, failed: loop.call_soon_threadsafe(answer, failed))
        failed = await answered
        return {"acknowledged": True} if failed == FAIL_REASON.SUCCESS else {"error": failed}


async def run() -> None:
    node = StockNode()
    commands: dict[str, Any] = {name: getattr(node, name) for name in ("start", "state", "load", "propose")}
    await children.serve(commands)


if __name__ == "__main__":
    asyncio.run(run())
