"""PySyncObj 0.3.17 as it comes, under the same network and the same plans of faults: how many runs break a promise.

    python -m tests.simulation.stock --runs 1000             processes are killed; disks keep everything that was written
    python -m tests.simulation.stock --runs 1000 --power     machines lose power: any prefix of what was written stays

What it is given, so that the comparison is fair:

* its own SyncObj, untouched, with its default times and limits, ``appendEntriesUseBatch`` and ``--batch-bytes`` as asked; only
  its clock, transport and journal are ours, through the arguments and module names that it offers;
* the journal of its FileJournal, entry for entry and as durable: what is written survives a kill, nothing is ever synced;
  term and vote are stored at once, the commit index once a second.  No torn writes, no damaged file;
* links that keep their order, lose nothing while they stand, never duplicate, and tell both ends when they break; processes that read
  what arrives as soon as its own loop would.  No snapshots, no changes of members, no clock faults, no full or failing disks.

A run fails when two lead in one term, when replicas apply different commands at one place, or when a command whose callback
reported success is not there at the end.  A run in which no command commits within 10 s after the faults is counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context

import pysyncobj.syncobj as library
from pysyncobj import FAIL_REASON, SyncObjConf

from stele.services.raft.timing import Timing
from tests.simulation.checks import Violation
from tests.simulation.faults import Strike
from tests.simulation.network import Network
from tests.simulation.plan import plan
from tests.simulation.runner import quiet
from tests.simulation.scheduler import Scheduler
from tests.simulation.stock_process import NoPoller, StockProcess, StockStore, clock

KINDS = ("kill", "pause", "disconnect", "isolate", "split", "one-way cut", "slow link", "idle")
LIVENESS_S = 10.0


class StockWorld:
    """The part of World that faults and network ask for."""

    def __init__(self, seed: int, nodes: int, power: bool, batch: bool, batch_bytes: int) -> None:
        self.rng = rng = random.Random(f"stock {seed}")
        random.seed(seed)  # the library draws its election timeouts from the module
        self.nodes = nodes or (5 if rng.random() < 0.2 else 3)
        self.ids = list(range(1, self.nodes + 1))
        self.seconds = rng.uniform(3.0, 8.0)
        self.batch = batch
        self.batch_bytes = batch_bytes
        drawing = random.Random(f"faults {seed}")
        kinds = [kind for kind in KINDS if drawing.random() < 0.4] or [drawing.choice(KINDS)]
        if power:
            kinds = ["power-loss", *kinds]
        self.faults = plan(drawing, self.ids, self.seconds, kinds)
        self.trace = None
        self.fault_counts: Counter[str] = Counter()
        self.scheduler = Scheduler()
        self.timing = Timing()  # of the links' own clockwork, which the library does without
        self.stores = {i: StockStore(i, random.Random(f"disk {i} {seed}")) for i in self.ids}
        self.network = Network(self, random.Random(f"network {seed}"))  # type: ignore[arg-type]
        self.network.delay_s = 10 ** rng.uniform(-3.7, -2.0)
        self.workload = self
        self.idle_until = 0.0
        self.healed = False
        self.leaders: dict[int, int] = {}
        self.list: list[bytes] = []
        self.acked: list[bytes] = []
        self._proposed = 0
        self._gap_s = 10 ** rng.uniform(-2.3, -0.9)
        self._error: Violation | None = None
        self._remains: list[StockProcess] = []

    def run(self) -> None:
        for store in self.stores.values():
            self.start(store)
        self.scheduler.after(0.1, self._propose)
        strike = Strike(self)  # type: ignore[arg-type]
        for fault in self.faults:
            self.scheduler.at(fault.at, strike, fault)
        self._run_until(self.seconds)
        self._heal()
        before = len(self.acked)
        self._run_until(self.scheduler.now + LIVENESS_S, lambda: len(self.acked) > before + 3)
        live = len(self.acked) > before
        self._proposed = -1
        self._run_until(self.scheduler.now + 5.0)
        self._check_end()
        if not live:
            raise Violation("liveness", "nothing commits after the faults")

    def _run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        self.scheduler.run_until(end, lambda: self._error is not None or done())
        if self._error is not None:
            raise self._error

    def _propose(self) -> None:
        rng = self.rng
        if self._proposed < 0:
            return
        leading = [s.process for s in self.stores.values() if s.process is not None and s.process.replica._isLeader()]
        if leading and (self.healed or self.scheduler.now >= self.idle_until):
            process = rng.choice(leading)
            self._proposed += 1
            size = rng.choice((10, 60, 60, 700)) if rng.random() < 0.97 else 20_000
            process.loop.arrive(self._put, process, b"%d" % self._proposed + b"x" * size)
        self.scheduler.after(rng.expovariate(1 / self._gap_s), self._propose)

    def _put(self, process: StockProcess, payload: bytes) -> None:
        def answered(result: object, error: object) -> None:
            if error == FAIL_REASON.SUCCESS and not process.loop.dead:
                self.acked.append(payload)

        clock[0] = process.loop.time
        process.replica.put(payload, callback=answered)
        process.tick_soon()

    def applied(self, process: StockProcess, position: int, payload: bytes) -> None:
        if process.loop.dead:
            return
        if position == len(self.list):
            self.list.append(payload)
        elif position > len(self.list) or self.list[position] != payload:
            self._error = self._error or Violation("states differ", f"store {process.store.id} at {position}")

    def _check_end(self) -> None:
        lists = [s.process.replica.applied for s in self.stores.values() if s.process is not None]
        longest = set(max(lists, key=len))
        lost = [payload for payload in self.acked if payload not in longest]
        if lost:
            raise Violation("acknowledged and lost", f"{len(lost)} of {len(self.acked)} commands")

    # --- what faults and network ask for ----------------------------------------------------------------------------------

    def start(self, store: StockStore) -> None:
        if store.process is None:
            asyncio.events._set_running_loop(None)
            store.process = StockProcess(self, store)
            self.network.process_started(store.id)

    def kill(self, store: StockStore, why: str, lose_log: bool = False) -> None:
        process = store.process
        if process is None:
            return
        process.loop.end()
        self._remains.append(process)
        store.process = None
        if store.power_fails:
            store.disk.lose_power(self.rng)
        self.network.process_ended(store.id)
        self.scheduler.after(store.down_s, self.start, store)

    def leader_store(self) -> StockStore | None:
        leading = [s for s in self.stores.values() if s.process is not None and s.process.replica._isLeader()]
        return max(leading, key=lambda s: int(s.process.replica.raftCurrentTerm)) if leading else None  # type: ignore[union-attr]

    def after_unless_healed(self, seconds: float, event: Callable[[], object]) -> None:
        self.scheduler.after(seconds, lambda: None if self.healed else event())

    def say(self, line: str) -> None:
        """Nothing is traced here."""

    def unhandled(self, error: BaseException | str) -> None:
        if self._error is None:
            found = error if isinstance(error, Violation) else Violation("unhandled error", repr(error))
            self._error = found

    def _heal(self) -> None:
        self.healed = True
        for store in self.stores.values():
            if store.process is not None:
                store.process.loop.fuse = None
                store.process.loop.resume()
            self.start(store)
        self.network.heal()


def _one(given: tuple[int, int, bool, bool, int]) -> tuple[int, str, str, int]:
    seed = given[0]
    original = library.monotonicTime, library.createJournal, library.createPoller
    library.monotonicTime = lambda: clock[0]()
    library.createJournal = lambda journal: journal
    library.createPoller = lambda kind: NoPoller()
    world = StockWorld(*given)
    try:
        world.run()
    except Violation as e:
        return seed, e.kind, str(e), len(world.acked)
    except Exception as e:
        return seed, "unhandled error", repr(e), len(world.acked)
    finally:
        library.monotonicTime, library.createJournal, library.createPoller = original
    return seed, "", "", len(world.acked)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.stock", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--power", action="store_true", help="machines lose power, too")
    parser.add_argument("--single", action="store_true", help="without appendEntriesUseBatch")
    parser.add_argument("--batch-bytes", type=int, default=SyncObjConf().appendEntriesBatchSizeBytes)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    quiet()
    logging.disable(logging.CRITICAL)
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    acked = runs = 0
    shape = (given.nodes, given.power, not given.single, given.batch_bytes)
    asked = [(seed, *shape) for seed in range(given.seed, given.seed + given.runs)]
    with suppress(KeyboardInterrupt), get_context("fork").Pool(given.jobs) as pool:
        for seed, kind, message, count in pool.imap_unordered(_one, asked, 5):
            runs += 1
            acked += count
            if kind:
                kinds[kind] += 1
                first.setdefault(kind, f"seed {seed}: {message}")
    failed = sum(count for kind, count in kinds.items() if kind != "liveness")
    print(f"runs                {runs}, acknowledged commands {acked}")
    print(f"broke a promise     {failed}")
    for kind, count in kinds.most_common():
        print(f"  {kind:<24} {count:>5}   first: {first[kind]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
