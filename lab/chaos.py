"""Chaos on a cluster of real processes: faults at random, from a seed, under load, and after each period the verdict.

A period makes a topic, lets load run over it while faults come and go, mends everything, waits until the cluster is healthy and the
load is answered and delivered, reads all of it back and judges it (lab/checker.py).  The same seed draws the same faults at the same
times; what they meet is up to the machine.

``python -m stele.lab.chaos --minutes 10 --seed 1`` (`make chaos`).  Exit status 0 if nothing acknowledged was lost, duplicated or out
of order, nothing that was refused for certain is stored, and nothing hung; 1 if anything was: the cluster's directory is then kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import stele
from stele.health import judge as judge_health
from stele.lab import links
from stele.lab.checker import judge
from stele.lab.history import History
from stele.lab.load import Load
from stele.local.cluster import LocalCluster
from stele.local.errors import NoSuchProcess
from stele.local.processes import ProcessState, last_line
from stele.local.state import ClusterSpec
from stele.services.errors import SteleError

DESCRIPTION = """Faults at random on a cluster of real processes under load, and proof that nothing acknowledged was lost.

    python -m stele.lab.chaos                             ten minutes
    python -m stele.lab.chaos --minutes 60 --seed 7       an hour of it, drawn from that seed
    python -m stele.lab.chaos --faults kill,pause         these alone

Cuts of links need root, iptables and cgroup v2; full disks need root. Without them the other faults are drawn, and the run says so.
"""
PARTITIONS, PRODUCERS, CONSUMERS = 4, 2, 2
ZOOKEEPER = "zk1"  # there is one
MESSAGES_PER_S, SIZE_BYTES = 500, 200
SEND_TIMEOUT_S = 20.0
HANG_AFTER_S = SEND_TIMEOUT_S + 30.0  # the load is over: whatever is not answered by then hangs
HEALTHY_WITHIN_S = 90.0
PAUSE_BETWEEN_S = (0.5, 4.0)
AT_ONCE_MAX = 2
KINDS = ("kill", "pause", "cut", "zookeeper", "disk")
DISK_BYTES = 192 << 20
DISK_LEFT_BYTES = 2 << 20


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    periods: int = 0
    acknowledged: int = 0
    indefinite: int = 0
    refused: int = 0
    redelivered: int = 0
    exits: Counter[str] = field(default_factory=Counter)  # of processes that ended by themselves, by what they said
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"seconds": round(self.seconds, 1)}


class FillableDisks:
    """A file system of its own for each datanode, that can be filled and freed."""

    def __init__(self, cluster: LocalCluster, names: list[str]) -> None:
        self._paths = {name: cluster.files.data_path(name) for name in names}
        for path in self._paths.values():
            path.mkdir(parents=True)
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)],
                check=True,
                capture_output=True,
            )

    def fill(self, name: str) -> None:
        path = self._paths[name]
        stat = os.statvfs(path)
        left = stat.f_bavail * stat.f_frsize - DISK_LEFT_BYTES
        if left > 0:
            with (path / "filler").open("wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, left)

    def free(self, name: str) -> None:
        (self._paths[name] / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        for path in self._paths.values():
            subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


class Chaos:
    """One cluster, and what is done to it."""

    def __init__(
        self,
        cluster: LocalCluster,
        seed: int,
        kinds: list[str],
        disks: FillableDisks | None,
        cutter: links.ProcessLinks | None,
    ) -> None:
        self._cluster, self._kinds, self._disks, self._cutter = cluster, kinds, disks, cutter
        self._rng = random.Random(seed)
        self._busy: set[str] = set()
        self.tally = Tally(seed)
        self._began = time.monotonic()

    def started(self, name: str, doing: str) -> None:
        """Progress of ``LocalCluster``: a new process is followed before it opens a socket."""
        if doing == "starting" and name != ZOOKEEPER and self._cutter is not None:
            self._cutter.follow(name, self._cluster.files.load().processes[name].pid)

    async def run(self, seconds: float, period_s: float) -> Tally:
        while (left := seconds - self.tally.seconds) > 0 and not self.tally.problems:
            began = time.monotonic()
            await self._period(min(period_s, max(left, 20.0)))
            self.tally.periods += 1
            self.tally.seconds += time.monotonic() - began
            self._say(
                f"period {self.tally.periods}: {self.tally.acknowledged:,} acknowledged so far, {self.tally.faults.total()} faults, "
                f"{len(self.tally.problems)} problems"
            )
        return self.tally

    # --- a period ---------------------------------------------------------------------------------------------------

    async def _period(self, seconds: float) -> None:
        topic, history = f"chaos/run-{self.tally.periods + 1}", History()
        async with stele.connect(self._cluster.bootstrap, timeout_s=30) as client:
            await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
            messages = int(MESSAGES_PER_S * seconds)
            load = Load(client, topic, history, messages, SIZE_BYTES, seconds, PARTITIONS, SEND_TIMEOUT_S)
            consumers = [asyncio.create_task(load.consume("billing", f"consumer-{n}")) for n in range(CONSUMERS)]
            producers = [asyncio.create_task(load.produce(n, PRODUCERS)) for n in range(PRODUCERS)]
            faults = asyncio.create_task(self._faults(time.monotonic() + seconds))
            try:
                await faults
                await self._mend()
                await self._answered(producers)
                await self._healthy(client)
                if not self.tally.problems and not await load.all_delivered(lambda _: None):
                    self._problem(f"{topic}: not everything acknowledged was delivered")
                for task in consumers:
                    if task.done() and not task.cancelled() and task.exception() is not None:
                        self._problem(f"{topic}: a consumer ended with {task.exception()!r}")
                await load.read_back(lambda _: None)
            finally:
                for task in (faults, *producers, *consumers):
                    task.cancel()
                await asyncio.gather(faults, *producers, *consumers, return_exceptions=True)
            verdict = judge(history)
            tally = self.tally
            tally.acknowledged += verdict.acknowledged
            tally.indefinite += verdict.indefinite
            tally.refused += len(history.definite)
            tally.redelivered += verdict.redelivered
            for problem in verdict.problems:
                self._problem(f"{topic}: {problem}")
            if not tally.problems:  # a disk of a fixed size: room for the next
                await client.admin.delete_topic(topic)

    async def _answered(self, producers: list[asyncio.Task[None]]) -> None:
        done, hanging = await asyncio.wait(producers, timeout=HANG_AFTER_S)
        if hanging:
            self._problem(f"sends were not answered {HANG_AFTER_S:g} s after the last fault")
        for task in done:
            if task.exception() is not None:
                self._problem(f"a producer ended with {task.exception()!r}")

    async def _healthy(self, client: stele.Client) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while True:
            try:
                admin = client.admin
                checks = judge_health(
                    await admin.cluster(),
                    await admin.list_stores(),
                    await admin.list_brokers(),
                    await admin.list_partitions(),
                )
                bad = [f"{c.name}: {c.detail}" for c in checks if not c.ok]
            except SteleError as e:
                bad = [str(e)]
            if not bad:
                return
            if time.monotonic() > deadline:
                self._problem(f"not healthy {HEALTHY_WITHIN_S:g} s after the last fault: {'; '.join(bad)}")
                return
            await asyncio.sleep(0.25)

    # --- faults -----------------------------------------------------------------------------------------------------

    async def _faults(self, until: float) -> None:
        """Up to AT_ONCE_MAX at a time, each on processes that no other one is at."""
        running: set[asyncio.Task[None]] = set()
        try:
            while time.monotonic() < until:
                await asyncio.sleep(self._rng.uniform(*PAUSE_BETWEEN_S))
                running = {task for task in running if not _finished(task)}
                if len(running) < AT_ONCE_MAX:
                    running.add(asyncio.create_task(self._fault(self._rng.choice(self._kinds), until)))
            for task in running:
                await task
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _fault(self, kind: str, until: float) -> None:
        rng, cluster = self._rng, self._cluster
        names = [n for n in cluster.names() if n != ZOOKEEPER and n not in self._busy]
        lasting = rng.uniform(0.2, 9.0)
        target, other = rng.choice(names), rng.choice([*cluster.names()])
        wide = rng.random() < 0.1
        if kind == "zookeeper":
            target = ZOOKEEPER
        elif kind == "disk":
            target = rng.choice([n for n in names if n.startswith("dn")] or names)
        involved = {target} if kind != "cut" else {target, other}
        if (
            self._busy & involved
            or (kind == "disk" and not target.startswith("dn"))
            or (kind == "cut" and target == other)
        ):
            return
        if kind == "kill" and wide:  # every process of a role at once, as when the power goes
            involved = {n for n in names if n[:2] == target[:2]}
        self._busy |= involved
        self.tally.faults[kind] += 1
        try:
            match kind:
                case "kill":
                    self._say(f"kill -9 {', '.join(sorted(involved))} for {lasting:.1f} s")
                    await asyncio.gather(*(self._signal(name, signal.SIGKILL) for name in involved))
                    await asyncio.sleep(lasting)
                    for name in sorted(involved):
                        await asyncio.to_thread(cluster.start, name, False, self.started)
                case "pause":
                    self._say(f"pause {target} for {lasting:.1f} s")
                    await self._signal(target, signal.SIGSTOP)
                    await asyncio.sleep(lasting)
                    await self._signal(target, signal.SIGCONT)
                case "cut":
                    both = rng.random() < 0.6
                    self._say(f"cut {target} {'–' if both else '→'} {other} for {lasting:.1f} s")
                    await asyncio.to_thread(self._cut, target, other, both)
                    await asyncio.sleep(lasting)
                    await asyncio.to_thread(self._heal)
                case "zookeeper":
                    if rng.random() < 0.5:
                        self._say(f"kill -9 {target} for {lasting:.1f} s")
                        await self._signal(target, signal.SIGKILL)
                        await asyncio.sleep(lasting)
                        await asyncio.to_thread(cluster.start, target)
                    else:
                        self._say(f"pause {target} for {lasting:.1f} s")
                        await self._signal(target, signal.SIGSTOP)
                        await asyncio.sleep(lasting)
                        await self._signal(target, signal.SIGCONT)
                    for name in names:  # one that was started while it was away has ended
                        if name not in self._busy:
                            await asyncio.to_thread(cluster.start, name, False, self.started)
                case "disk":
                    assert self._disks is not None
                    self._say(f"fill the disk of {target} for {lasting:.1f} s")
                    await asyncio.to_thread(self._disks.fill, target)
                    await asyncio.sleep(lasting)
                    await asyncio.to_thread(self._disks.free, target)
        finally:
            self._busy -= involved

    async def _signal(self, name: str, number: int) -> None:
        """One that has ended by itself takes none: one that was started while ZooKeeper was away, for example."""
        with contextlib.suppress(NoSuchProcess):
            await asyncio.to_thread(self._cluster.kill, name, number)

    def _cut(self, target: str, other: str, both: bool) -> None:
        assert self._cutter is not None
        self._cutter.cut(target, self._ports(other), both_ways=both)
        if both and other != ZOOKEEPER:
            self._cutter.cut(other, self._ports(target), both_ways=True)

    def _heal(self) -> None:
        """All of them: two cuts at once end together."""
        if self._cutter is not None:
            self._cutter.heal()

    def _ports(self, name: str) -> list[int]:
        if name == ZOOKEEPER:
            return [self._cluster.zookeeper.port]
        record = self._cluster.files.load().processes[name]
        return [p for p in (record.port, record.raft_port) if p]

    async def _mend(self) -> None:
        """Whatever a fault left: everything runs, every link is whole, every disk has room."""
        self._heal()
        for name in self._cluster.names():
            if self._disks is not None and name.startswith("dn"):
                self._disks.free(name)
        for process in await asyncio.to_thread(self._cluster.status):
            if process.state == ProcessState.PAUSED:
                await self._signal(process.name, signal.SIGCONT)
            if process.state == ProcessState.DEAD and process.name != ZOOKEEPER:
                why = last_line(Path(process.log), 0)
                self.tally.exits[why.rpartition(";")[0][:100] or why] += 1
                self._say(f"{process.name} had ended by itself: {why}")
        try:
            await asyncio.to_thread(self._cluster.up, None, self.started)
        except SteleError as e:
            self._problem(f"a process does not come back: {e}")

    def _problem(self, text: str) -> None:
        self.tally.problems.append(text)
        self._say(f"PROBLEM: {text}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:8.1f} s  {text}", file=sys.stderr, flush=True)


def _finished(task: asyncio.Task[None]) -> bool:
    """True once it has ended well; an error of the chaos itself is raised."""
    if task.done():
        task.result()
    return task.done()


def _end(cluster: LocalCluster) -> None:
    if cluster.exists:
        cluster.down(now=True)


@contextlib.contextmanager
def _prepared(directory: Path, seed: int, kinds: list[str]) -> Iterator[Chaos]:
    """A fresh cluster with what the faults need, ended at the end; its files stay for the caller to remove."""
    cluster = LocalCluster(directory)
    with contextlib.ExitStack() as ended:
        disks, cutter = None, None
        if "disk" in kinds:
            disks = FillableDisks(cluster, ClusterSpec().names()[3:6])
            ended.callback(disks.close)
        if "cut" in kinds:
            cutter = links.ProcessLinks(f"chaos-{os.getpid()}")
            ended.callback(cutter.close)
        settings = {"datanode": {"disk_reserve_bytes": "16MiB", "segment_bytes": "4MiB"}}
        ended.callback(_end, cluster)
        chaos = Chaos(cluster, seed, kinds, disks, cutter)
        cluster.up(ClusterSpec(settings=settings), chaos.started)
        yield chaos


def _possible(asked: list[str], say: Callable[[str], None]) -> list[str]:
    reasons = {"cut": links.obstacle(), "disk": "" if os.geteuid() == 0 else "disks are filled by root alone"}
    for kind in asked:
        if reasons.get(kind):
            say(f"without {kind}: {reasons[kind]}")
    return [kind for kind in asked if not reasons.get(kind)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stele.lab.chaos", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long in total (default: %(default)s)")
    parser.add_argument(
        "--period", type=float, default=60.0, help="seconds of load between verdicts (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="what the faults are drawn from (default: %(default)s)")
    parser.add_argument("--faults", default=",".join(KINDS), help="kinds, with commas (default: %(default)s)")
    parser.add_argument("--json", default="", metavar="FILE", help="also write the results as JSON")
    given = parser.parse_args(argv)
    asked = [kind for kind in given.faults.split(",") if kind]
    if unknown := [kind for kind in asked if kind not in KINDS]:
        parser.error(f"--faults {','.join(unknown)}: accepted are {', '.join(KINDS)}")
    if given.minutes <= 0 or given.period < 20 or not asked:
        parser.error("accepted: --minutes above 0, --period from 20, at least one of --faults")
    kinds = _possible(asked, lambda text: print(f"chaos: {text}", file=sys.stderr))
    directory = Path(tempfile.mkdtemp(prefix="stele-chaos-"))
    tally: Tally | None = None
    try:
        with _prepared(directory / "cluster", given.seed, kinds) as chaos:
            tally = chaos.tally
            asyncio.run(chaos.run(given.minutes * 60, given.period))
    except KeyboardInterrupt:
        return 130
    except SteleError as e:
        print(f"chaos: {e}", file=sys.stderr)
        return 1
    finally:
        if tally is None or not tally.problems:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"chaos: the cluster's files are kept: {directory}", file=sys.stderr)
    print(json.dumps(tally.as_json()))
    if given.json:
        Path(given.json).write_text(json.dumps(tally.as_json(), indent=1) + "\n")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
