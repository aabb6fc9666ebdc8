"""Which snapshot a log begins behind, when one is taken and which go: decisions by the case."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.log import SegmentLog
from stele.datanode.retention import (
    SNAPSHOTS_KEPT,
    SNAPSHOTS_MAX,
    SnapshotSpacing,
    compaction_point,
    snapshot_due,
    superfluous,
    trim_due,
)
from stele.services.raft.storage import REGULAR, Entry, Members, Snapshot
from stele.services.topics import Retention

MIB = 1 << 20
HOUR_MS = 3_600_000
USUAL = SnapshotSpacing(snapshot_bytes=64 * MIB, snapshot_interval_ms=600_000)


def snapshot(index: int, mark: int = -1, taken_ms: int = 0, size: int = 100) -> Snapshot:
    return Snapshot(index, 1, Members((1, 2, 3)), index * 10 if mark < 0 else mark, taken_ms, size, 0)


def one_mib_each(last_index: int):
    """A log whose every entry has 1 MiB."""
    return lambda index: max(0, last_index - index) * MIB


HOURLY = [snapshot(10 * n, taken_ms=n * HOUR_MS) for n in range(1, 6)]  # entries 10, 20, … 50, marks 100, 200, … 500


@pytest.mark.parametrize(
    ("retention", "last_index", "now_h", "log_start", "wanted"),
    [
        pytest.param(Retention(), 10_000, 10_000, 0, None, id="kept for ever"),
        pytest.param(Retention(size_bytes=100 * MIB), 60, 5, 0, None, id="shorter than the bound"),
        pytest.param(Retention(size_bytes=45 * MIB), 60, 5, 0, 10, id="45 MiB are left behind the first"),
        pytest.param(Retention(size_bytes=50 * MIB), 60, 5, 0, 10, id="exactly the bound is left"),
        pytest.param(Retention(size_bytes=51 * MIB), 60, 5, 0, None, id="a byte too few would be left"),
        pytest.param(Retention(size_bytes=5 * MIB), 60, 5, 0, 50, id="as far as there is a snapshot"),
        pytest.param(Retention(age_ms=2 * HOUR_MS), 60, 5, 0, 30, id="stored two hours ago or before"),
        pytest.param(Retention(age_ms=2 * HOUR_MS), 60, 2.99, 0, None, id="everything is younger"),
        pytest.param(Retention(age_ms=HOUR_MS), 60, 100, 0, 50, id="everything is older"),
        pytest.param(Retention(25 * MIB, 4 * HOUR_MS), 60, 5, 0, 30, id="either bound: bytes go further"),
        pytest.param(Retention(55 * MIB, 2 * HOUR_MS), 60, 5, 0, 30, id="either bound: age goes further"),
        pytest.param(Retention(age_ms=2 * HOUR_MS), 60, 5, 300, None, id="it begins there already"),
        pytest.param(Retention(age_ms=2 * HOUR_MS), 60, 5, 250, 30, id="it begins a little before"),
        pytest.param(Retention(age_ms=2 * HOUR_MS), 60, 5, 400, None, id="another leader went further"),
        pytest.param(Retention(age_ms=HOUR_MS), 60, -5, 0, None, id="the clock was set back"),
    ],
)
def test_where_the_log_should_begin(
    retention: Retention, last_index: int, now_h: float, log_start: int, wanted: int | None
) -> None:
    found = trim_due(HOURLY, one_mib_each(last_index), retention, log_start, round(now_h * HOUR_MS))
    assert (found.index if found else None) == wanted


def test_a_snapshot_without_a_message_before_it_is_no_start() -> None:
    idle = [snapshot(5, mark=0), snapshot(9, mark=0)]
    assert trim_due(idle, one_mib_each(1000), Retention(size_bytes=MIB), 0, 0) is None


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30), st.integers(0, 5 * HOUR_MS)), max_size=15),
    st.integers(0, 400),
    st.sampled_from([0, MIB, 100 * MIB]),
    st.sampled_from([0, HOUR_MS, 24 * HOUR_MS]),
    st.integers(0, 100 * HOUR_MS),
)
def test_leaders_that_follow_one_another_never_take_a_start_back(steps, log_start, size_bytes, age_ms, now_ms) -> None:
    """And what is left behind the start is always what was asked for."""
    snapshots, index, mark, taken_ms = [], 0, 0, 0
    for entries, messages, ms in steps:
        index, mark, taken_ms = index + entries, mark + messages, taken_ms + ms
        snapshots.append(snapshot(index, mark, taken_ms))
    retention, after = Retention(size_bytes, age_ms), one_mib_each(index + 30)
    found = trim_due(snapshots, after, retention, log_start, now_ms)
    if found is not None:
        assert found.mark > log_start
        assert (size_bytes and after(found.index) >= size_bytes) or (age_ms and found.taken_ms <= now_ms - age_ms)
        assert trim_due(snapshots, after, retention, found.mark, now_ms) is None


@pytest.mark.parametrize(
    ("newest", "applied", "log_mib", "retention", "now_s", "wanted"),
    [
        pytest.param(None, 0, 0, Retention(), 10_000, False, id="nothing was applied"),
        pytest.param(None, 5, 5, Retention(), 10, False, id="the first, soon after the start"),
        pytest.param(None, 5, 5, Retention(), 600, True, id="the first, by the clock"),
        pytest.param(None, 70, 70, Retention(), 10, True, id="the first, by bytes"),
        pytest.param(snapshot(50, taken_ms=0), 50, 70, Retention(), 9_999, False, id="nothing was applied since"),
        pytest.param(snapshot(50, taken_ms=0), 51, 51, Retention(), 599, False, id="too soon, too few bytes"),
        pytest.param(snapshot(50, taken_ms=0), 51, 51, Retention(), 600, True, id="by the clock"),
        pytest.param(snapshot(50, taken_ms=0), 120, 120, Retention(), 1, True, id="by bytes"),
        pytest.param(
            snapshot(50, size=80 * MIB), 120, 120, Retention(), 1, False, id="its state is larger than the log"
        ),
        pytest.param(snapshot(50), 53, 53, Retention(size_bytes=16 * MIB), 1, True, id="closer for a small retention"),
        pytest.param(snapshot(50), 51, 51, Retention(size_bytes=16 * MIB), 1, False, id="an eighth of it"),
        pytest.param(snapshot(50), 51, 51, Retention(age_ms=40_000), 5, True, id="closer for a short retention"),
        pytest.param(snapshot(50), 51, 51, Retention(age_ms=40_000), 4, False, id="an eighth of that"),
        pytest.param(snapshot(50, taken_ms=10**9), 51, 51, Retention(), 1, True, id="the clock was set back"),
    ],
)
def test_when_a_snapshot_is_due(
    newest: Snapshot | None, applied: int, log_mib: int, retention: Retention, now_s: int, wanted: bool
) -> None:
    assert snapshot_due(newest, applied, one_mib_each(log_mib), retention, USUAL, 0, now_s * 1000) is wanted


def test_a_replica_compacts_to_the_last_of_its_own_snapshots_that_the_start_has_reached() -> None:
    own = [snapshot(7, mark=50), snapshot(22, mark=200), snapshot(23, mark=200), snapshot(31, mark=290)]
    assert compaction_point(own, 0) is None
    assert compaction_point(own, 49) is None
    assert compaction_point(own, 250) == own[2]
    assert compaction_point(own, 290) == own[3]
    assert compaction_point([snapshot(3, mark=0)], 0) is None
    assert compaction_point([], 100) is None


def test_without_retention_the_newest_two_are_kept() -> None:
    many = [snapshot(n) for n in range(1, 7)]
    assert superfluous(many, one_mib_each(10), Retention(), 0, False) == {1, 2, 3, 4}
    assert superfluous(many[:2], one_mib_each(10), Retention(), 0, False) == set()


def test_what_a_follower_behind_the_beginning_is_given_is_kept() -> None:
    many = [snapshot(n) for n in range(1, 7)]
    assert superfluous(many, one_mib_each(10), Retention(), 0, True) == {2, 3, 4}
    assert superfluous(many, one_mib_each(10), Retention(), 20, True) == {3, 4}
    assert superfluous(many, one_mib_each(10), Retention(), 20, False) == {3, 4}


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5 * HOUR_MS)), min_size=1, max_size=40),
    st.sampled_from([Retention(), Retention(100 * MIB), Retention(0, HOUR_MS), Retention(MIB, 50 * HOUR_MS)]),
    st.integers(0, 2_000),
    st.booleans(),
)
def test_snapshots_are_bounded_and_the_needed_ones_stay(steps, retention, log_start, is_shortened) -> None:
    snapshots, index, taken_ms = [], 0, 0
    for entries, ms in steps:
        index, taken_ms = index + entries, taken_ms + ms
        snapshots.append(snapshot(index, taken_ms=taken_ms))
    after = one_mib_each(index + 30)
    gone = superfluous(snapshots, after, retention, log_start, is_shortened)
    begins = compaction_point(snapshots, log_start)
    left = [s for s in snapshots if s.index not in gone]
    assert left[-SNAPSHOTS_KEPT:] == snapshots[-SNAPSHOTS_KEPT:]
    assert begins is None or begins in left
    assert compaction_point(left, log_start) == begins
    assert not is_shortened or snapshots[0] in left
    behind = [s for s in left if begins is None or s.index >= begins.index]
    assert len(behind) <= (SNAPSHOTS_MAX if retention else SNAPSHOTS_KEPT + 1)


def test_those_that_stay_divide_the_retention_evenly() -> None:
    """Snapshots come one by one; thinning at every step leaves a retention by age with usable steps."""
    kept: list[Snapshot] = []
    for n in range(1, 500):
        kept.append(snapshot(n, taken_ms=n * 60_000))
        gone = superfluous(kept, one_mib_each(500), Retention(age_ms=400 * 60_000), 0, False)
        kept = [s for s in kept if s.index not in gone]
    steps = [b.taken_ms - a.taken_ms for a, b in itertools.pairwise(kept)]
    assert len(kept) == SNAPSHOTS_MAX
    assert max(steps) <= 100 * 60_000


def test_the_log_knows_how_many_bytes_stand_behind_an_entry(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=64 << 10, disk_reserve_bytes=0)
    size = 1000
    for index in range(1, 401):
        log.append([Entry(index, 1, REGULAR, bytes(size))])
    per_entry = log.bytes / 400
    for index in range(0, 401):
        exact, found = (400 - index) * per_entry, log.bytes_after(index)
        assert exact - (80 << 10) <= found <= exact, index
    assert log.bytes_after(0) == log.bytes
    assert log.bytes_after(400) == 0
    assert 0 <= 100 * per_entry - log.bytes_after(380) * 5 <= 5 * (17 << 10)
    log.close()
