"""The demonstration: a cluster, its parts killed in turn under load, and the verdict; ``python -m stele.lab.demo`` runs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import stele
from stele.lab.checker import Verdict, judge, longest_gap_s
from stele.lab.faults import Fault, Faults
from stele.lab.history import History
from stele.lab.load import Load
from stele.lab.report import SHOWN_KINDS, Cost, Moment, as_json, show
from stele.local.cluster import ClusterSpec, LocalCluster
from stele.services.errors import SteleError

DESCRIPTION = """A real cluster under load, its parts killed in turn, and proof that nothing acknowledged was lost.

    python -m stele.lab.demo                      as `make demo`
    python -m stele.lab.demo --repeat 20          twenty runs, with medians
    python -m stele.lab.demo --messages 50000 --seconds 40 --json run.json

Exit status: 0 if nothing was lost, duplicated or out of order; 1 if anything was; 130 on Ctrl-C.
"""
TOPIC = "demo/orders"
REPORT_COLUMNS = 120  # where the output is no terminal
PARTITIONS = 4
PRODUCERS = 2
CONSUMERS = 2
FIRST_FAULT_AFTER_S = 6.0
ORDINARY_MAX_S = 0.25  # a longer pause is never called ordinary, whatever happened before the first fault
SETTLED_TIMEOUT_S = 40.0


@dataclass(slots=True)
class Run:
    timeline: list[Moment]
    costs: list[Cost]
    verdict: Verdict
    noise_ms: tuple[int, int]


class Demonstration:
    def __init__(self, cluster: LocalCluster, console: Console, messages: int, seconds: float, size_bytes: int) -> None:
        self._cluster = cluster
        self._console = console
        self._messages = messages
        self._seconds = seconds
        self._size_bytes = size_bytes
        self._history = History()
        self._timeline: list[Moment] = []
        self._started = 0.0
        self._started_wall_ms = 0

    async def run(self, progress: Progress) -> Run:
        async with stele.connect(self._cluster.bootstrap, timeout_s=30) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication=3)
            await self._settled(client)
            load = Load(client, TOPIC, self._history, self._messages, self._size_bytes, self._seconds, PARTITIONS)
            self._started, self._started_wall_ms = time.monotonic(), int(time.time() * 1000)
            watching = asyncio.create_task(self._watch(client))
            consumers = [asyncio.create_task(load.consume("billing", f"consumer-{i + 1}")) for i in range(CONSUMERS)]
            producers = [asyncio.create_task(load.produce(i, PRODUCERS)) for i in range(PRODUCERS)]
            shown = progress.add_task("acknowledged", total=self._messages)
            showing = asyncio.create_task(self._show(progress, shown))
            try:
                windows = await self._faults(client)
                await asyncio.gather(*producers)
                progress.update(shown, completed=len(self._history.acked))
                delivered = progress.add_task("delivered", total=len(self._history.acked))
                await load.all_delivered(lambda n: progress.update(delivered, completed=n))
                back = progress.add_task("read back", total=len(self._history.acked))
                await load.read_back(lambda n: progress.update(back, completed=n))
                progress.update(back, completed=len(self._history.acked))
            finally:
                for task in (showing, watching, *consumers, *producers):
                    task.cancel()
                await asyncio.gather(showing, watching, *consumers, *producers, return_exceptions=True)
            for task in (*consumers, *producers):
                if not task.cancelled() and task.exception() is not None:
                    raise task.exception()  # type: ignore[misc]
        return self._judge(windows)

    async def _settled(self, client: stele.Client) -> None:
        """Every partition has a leader, a broker and three replicas: the load starts on a whole cluster."""
        deadline = time.monotonic() + SETTLED_TIMEOUT_S
        while True:
            partitions = await client.admin.list_partitions(TOPIC)
            stores = await client.admin.list_stores()
            whole = all(p.leader_store_id and p.broker and len(p.replicas) == 3 for p in partitions)
            if partitions and whole and all(s.live and s.status == "ready" for s in stores):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{TOPIC} was not whole within {SETTLED_TIMEOUT_S:g} s: `stele health` says why")
            await asyncio.sleep(0.1)

    async def _faults(self, client: stele.Client) -> list[tuple[Fault, str, float, float]]:
        """Does every fault in turn, evenly over the run; returns (fault, process, start, end) in seconds of the client's clock."""
        faults = Faults(self._cluster, client, TOPIC).all()
        each_s = (self._seconds - FIRST_FAULT_AFTER_S) / len(faults)
        windows: list[tuple[Fault, str, float, float]] = []
        for number, fault in enumerate(faults):
            begins = self._started + FIRST_FAULT_AFTER_S + number * each_s
            await asyncio.sleep(max(0.0, begins - time.monotonic()))
            if number:
                await self._settled(client)
            at = time.monotonic()
            process = await fault.hit()
            self._note("fault", f"{fault.title}: {process}", at)
            await asyncio.sleep(fault.after_s)
            outcome = await fault.mend(process)
            self._note("mend", f"{process} {outcome}")
            windows.append((fault, process, at, begins + each_s))
        return windows

    def _note(self, kind: str, text: str, at: float | None = None) -> None:
        self._timeline.append(Moment((at or time.monotonic()) - self._started, kind, text))

    async def _watch(self, client: stele.Client) -> None:
        """What the cluster did, in the words of its own events."""
        async for event in client.admin.events(follow=True, since_ms=self._started_wall_ms):
            if event.kind in SHOWN_KINDS:
                facts = ", ".join(f"{k} {v}" for k, v in {**event.facts, "cause": event.cause}.items() if v)
                text = f"{event.kind.replace('_', ' ')}: {event.subject}" + (f" ({facts})" if facts else "")
                self._timeline.append(Moment((event.time_ms - self._started_wall_ms) / 1000, event.kind, text))

    async def _show(self, progress: Progress, task: object) -> None:
        while True:
            progress.update(task, completed=len(self._history.acked))  # type: ignore[arg-type]
            await asyncio.sleep(0.2)

    def _judge(self, windows: list[tuple[Fault, str, float, float]]) -> Run:
        history, verdict = self._history, judge(self._history)
        calm = (self._started + 1.0, windows[0][2])
        noise_s = [min(ORDINARY_MAX_S, longest_gap_s(t, *calm)) for t in (history.ack_times, history.delivery_times)]
        costs = []
        for number, (fault, process, start, end) in enumerate(windows):
            last = number == len(windows) - 1
            end = end if not last else min(end, max(max(t) for t in history.ack_times.values()))
            gaps = (longest_gap_s(history.ack_times, start, end), longest_gap_s(history.delivery_times, start, end))
            shown = [0 if gap <= noise else round(gap * 1000) for gap, noise in zip(gaps, noise_s, strict=True)]
            during = {m for m, at in history.acked_at.items() if start <= at < end}
            lost = sum(m in during for m in (*verdict.lost, *verdict.undelivered))
            costs.append(
                Cost(fault.title, process, shown[0], shown[1], lost, sum(m in during for m in verdict.duplicated))
            )
        return Run(self._timeline, costs, verdict, (round(noise_s[0] * 1000), round(noise_s[1] * 1000)))


@contextlib.contextmanager
def _cluster(directory: str, console: Console) -> Iterator[LocalCluster]:
    """A fresh cluster, always removed at the end."""
    cluster = LocalCluster(Path(directory or tempfile.mkdtemp(prefix="stele-demo-")) / "cluster")
    try:
        with console.status("starting zk1, ns1…ns3, dn1…dn3, br1, br2") as status:
            cluster.up(ClusterSpec(), lambda name, what: status.update(f"{name} {what}"))
        yield cluster
    finally:
        if cluster.exists:
            with console.status("stopping the cluster"):
                cluster.destroy()
        if not directory:
            shutil.rmtree(cluster.directory.parent, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stele.lab.demo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000, help="messages in total (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=80.0, help="how long the load lasts (default: %(default)s)")
    parser.add_argument("--size", type=int, default=100, help="bytes of a message (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1, help="runs, each on a cluster of its own (default: %(default)s)"
    )
    parser.add_argument(
        "--dir",
        default="",
        help="where the cluster lives while it runs (default: a temporary directory)",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="also write the results as JSON")
    given = parser.parse_args(argv)
    if given.messages < PRODUCERS or given.seconds < FIRST_FAULT_AFTER_S + 50 or given.size < 24 or given.repeat < 1:
        parser.error(
            f"accepted: --messages from {PRODUCERS}, --seconds from {FIRST_FAULT_AFTER_S + 50:g}, --size from 24, --repeat from 1"
        )
    console = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)
    runs: list[Run] = []
    try:
        for number in range(given.repeat):
            if given.repeat > 1:
                console.rule(f"run {number + 1} of {given.repeat}")
            with _cluster(given.dir, console) as cluster, _progress() as progress:
                run = asyncio.run(
                    Demonstration(cluster, console, given.messages, given.seconds, given.size).run(progress)
                )
            show(console, run.timeline, run.costs, run.verdict, run.noise_ms)
            runs.append(run)
    except KeyboardInterrupt:
        return 130
    except SteleError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    if given.repeat > 1:
        _summary(console, runs)
    if given.json:
        results = [as_json(r.timeline, r.costs, r.verdict, r.noise_ms) for r in runs]
        Path(given.json).write_text(json.dumps(results, indent=1) + os.linesep)
    return 0 if all(r.verdict.holds for r in runs) else 1


def _summary(console: Console, runs: list[Run]) -> None:
    bad = sum(not r.verdict.holds for r in runs)
    acked = sum(r.verdict.acknowledged for r in runs)
    console.rule(f"{len(runs)} runs, {acked} acknowledged messages, {bad} runs with a violation")
    for number, cost in enumerate(runs[0].costs):
        writes = [r.costs[number].writes_ms for r in runs]
        reads = [r.costs[number].reads_ms for r in runs]
        console.print(
            f"{cost.fault}: writes back after {statistics.median(writes):.0f} ms (median; worst {max(writes)}), "
            f"reads {statistics.median(reads):.0f} ms (worst {max(reads)})",
            highlight=False,
        )


def _progress() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
