"""Age is time that was seen to pass: clocks that are set wrong, restarts and crashes make nothing older than it is."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.commands import AppendOutcome
from stele.datanode.directory import GroupSpec
from stele.datanode.log_cleaner import LogCleaner
from stele.datanode.observed_time import BEGIN_MS, ObservedTime
from stele.datanode.replica import Replica
from stele.datanode.retention import SnapshotSpacing
from stele.datanode.storage import opener
from stele.services.errors import StorageFailed
from stele.services.raft.registry import Registry
from stele.services.topics import Retention
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch
from tests.unit.raft.lone import FAST, NoLinks

HOUR_MS = 3_600_000
YEAR_MS = 366 * 24 * HOUR_MS
KEPT = "what a retention keeps outlives any step of a clock"


class TwoClocks:
    """One that passes, and one that is set."""

    def __init__(self) -> None:
        self.passed_s, self.set_ms = 1_000.0, 1_800_000_000_000

    def monotonic(self) -> float:
        return self.passed_s

    def wall_ms(self) -> int:
        return self.set_ms

    def passes(self, seconds: float) -> None:
        self.passed_s += seconds
        self.set_ms += int(seconds * 1000)


class _Room:
    def take(self, size: int) -> bool:
        return True


class Lone:
    """One replica whose messages are kept for an hour, its cleaner looked through by hand."""

    def __init__(self, path: Path, clock: TwoClocks, time: ObservedTime) -> None:
        self.clock, self.time = clock, time
        (path / "groups" / "1").mkdir(parents=True, exist_ok=True)
        self.registry = Registry(
            1,
            path / "groups",
            NoLinks(),
            opener(16 << 20, 0),
            observed_ms=time.now_ms,
            rng=random.Random(1),
            timing=FAST,
        )
        self.registry.may_lead = True
        self.replica = Replica(GroupSpec(1, "kept/topic", 0, (1,), Retention(age_ms=HOUR_MS)), 1, 1 << 20, _Room())
        self.cleaner = LogCleaner(
            {1: self.replica}, SnapshotSpacing(64 << 20, 600_000), 0.0, lambda: False, time.now_ms, clock
        )

    async def start(self) -> None:
        group = await self.registry.create(1, [1], self.replica)
        self.replica.run(group)
        await eventually(lambda: group.is_leader and group.applied_index == group.last_index > 0)

    async def append(self, count: int) -> None:
        for _ in range(count):
            outcome = await self.replica.append(1, [make_batch(size=100)])
            assert isinstance(outcome, AppendOutcome)

    async def look_often(self) -> None:
        """Several looks of the cleaner, and whatever they proposed has been applied."""
        for _ in range(4):
            self.clock.passes(2)
            await self.cleaner.look()
            await self.append(1)  # stands behind what was proposed before it

    @property
    def log_start(self) -> int:
        return self.replica.partition.log_start


@asynccontextmanager
async def lone(path: Path, clock: TwoClocks, kind: Callable[..., ObservedTime]):
    one = Lone(path, clock, kind(path / "observed.json", clock))
    await one.start()
    try:
        yield one
    finally:
        await one.registry.close()
        one.time.record()


@pytest.mark.parametrize("mutant", ["retention.AgesByTheWallClock", "retention.CountsTheDowntime"])
async def test_p36_a_clock_that_is_set_ahead_removes_nothing(tmp_path: Path, mutant: str) -> None:
    run = iter(range(2))

    async def scenario(kind: type[ObservedTime]) -> None:
        path, clock = tmp_path / str(next(run)), TwoClocks()
        path.mkdir()
        async with lone(path, clock, kind) as one:
            await one.append(50)
            await one.cleaner.look()
            clock.passes(600)  # a snapshot is due
            await one.look_often()
            assert one.replica.group is not None
            assert one.replica.group.snapshots
            clock.set_ms += YEAR_MS
            await one.look_often()
            with promise(KEPT):
                assert one.log_start == 0
            clock.set_ms -= YEAR_MS
        clock.set_ms += YEAR_MS  # while nothing runs
        async with lone(path, clock, kind) as one:
            await one.look_often()
            with promise(KEPT):
                assert one.log_start == 0
            clock.passes(3_600)
            await one.look_often()
            assert one.log_start >= 50, "what is old by all that was seen to pass is removed, also across a restart"

    await holds_and_mutant_fails(scenario, ObservedTime, mutant)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("passes"), st.floats(0, 1e6)),
            st.tuples(st.just("set"), st.integers(-(10**12), 10**12)),
            st.tuples(st.just("record"), st.just(0)),
            st.tuples(st.just("stop"), st.floats(0, 1e6)),
            st.tuples(st.just("crash"), st.floats(0, 1e6)),
        ),
        max_size=20,
    )
)
def test_p36_no_more_is_observed_than_passed_and_no_less_than_was_recorded(tmp_path_factory, steps) -> None:
    path, clock = tmp_path_factory.mktemp("observed") / "observed.json", TwoClocks()
    time = ObservedTime(path, clock)
    begin_ms, recorded_ms, ran_s, last_ms = time.now_ms(), 0.0, 0.0, time.now_ms()
    assert begin_ms == BEGIN_MS
    for step, value in steps:
        if step == "passes":
            clock.passes(value)
            ran_s += value
        elif step == "set":
            clock.set_ms += value
        else:
            if step != "crash":
                time.record()
                recorded_ms = time.now_ms() - begin_ms
            if step != "record":
                clock.passed_s, clock.set_ms = value, clock.set_ms + int(value * 1000)  # another boot
                time = ObservedTime(path, clock)
                last_ms = 0
        observed_ms = time.now_ms() - begin_ms
        assert recorded_ms <= observed_ms <= ran_s * 1000 + 1
        assert time.now_ms() >= last_ms
        last_ms = time.now_ms()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"observed_ms": "x", "format": 1}', '{"observed_ms": 5, "format": 1}']
)
def test_a_record_that_cannot_be_read_makes_nothing_old(tmp_path: Path, content: str) -> None:
    path = tmp_path / "observed.json"
    path.write_text(content)
    assert ObservedTime(path, TwoClocks()).now_ms() == BEGIN_MS


def test_a_record_that_does_not_open_for_a_moment_is_not_taken_for_gone(tmp_path: Path) -> None:
    path = tmp_path / "observed.json"
    ObservedTime(path).record()
    kept = path.read_bytes()
    held = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, held[1]))
    try:
        with pytest.raises(StorageFailed, match=r"observed\.json"):
            ObservedTime(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, held)
    assert path.read_bytes() == kept


async def test_what_passes_is_recorded_while_the_process_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stele.datanode.observed_time.RECORD_INTERVAL_S", 0.01)
    path, clock = tmp_path / "observed.json", TwoClocks()
    time = ObservedTime(path, clock)
    keeping = asyncio.create_task(time.keep())
    clock.passes(100)
    await eventually(lambda: ObservedTime(path, TwoClocks()).now_ms() == BEGIN_MS + 100_000)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
