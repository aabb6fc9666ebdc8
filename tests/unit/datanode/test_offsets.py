"""The sparse indexes: bounded, and never beyond what they are asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.offsets import DOUBTS_MAX, OffsetIndex, TimeIndex
from stele.datanode.snapshot_codec import SnapshotDecoder, SnapshotEncoder
from tests.support.both_ways import holds_and_mutant_fails, promise


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40_000)), min_size=1, max_size=200), st.integers(2, 8))
def test_an_offset_is_located_at_or_before_its_entry(entries, points_max):
    index = OffsetIndex(points_max, spacing=3)
    begins: list[tuple[int, int]] = []
    offset = 0
    for at, (count, size) in enumerate(entries, 1):
        begins.append((at, offset))
        index.stored(at, offset, size)
        offset += count
        index.validate(at, 0, offset)
    for wanted in range(offset):
        found = index.locate(wanted)
        assert found in begins
        assert found is not None
        assert found[1] <= wanted


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40_000)), min_size=1, max_size=200),
    st.integers(2, 8),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_after_trims_what_is_kept_is_still_located_and_nothing_else_remembered(entries, points_max, trims):
    index, twin = OffsetIndex(points_max, spacing=3), OffsetIndex(points_max, spacing=3)
    begins: list[tuple[int, int]] = []
    offset = log_start = 0
    for at, (count, size) in enumerate(entries, 1):
        begins.append((at, offset))
        for one in (index, twin):
            one.stored(at, offset, size)
            if count == 1:
                one.stored_only(at, 5)
        offset += count
        if at - 1 in trims:
            log_start = max(log_start, offset - at % 7)
            index.trim(log_start)
            twin.trim(log_start)
        index.validate(at, log_start, offset)
    for wanted in range(log_start, offset):
        found = index.locate(wanted)
        assert found in begins
        assert found is not None
        assert found[1] <= wanted
        for at, base in begins:
            if base >= found[1] and entries[at - 1][0] == 1:
                assert index.mask(at) == 5
    packed = SnapshotEncoder(), SnapshotEncoder()
    index.encode(packed[0])
    twin.encode(packed[1])
    assert packed[0].bytes() == packed[1].bytes()


def test_points_stand_closer_again_once_trims_have_made_room():
    index = OffsetIndex(points_max=16, spacing=1)
    for i in range(1, 1001):
        index.stored(i, i - 1, 1)
    index.trim(990)
    for i in range(1001, 1041):
        index.stored(i, i - 1, 1)
        index.trim(i - 10)
    located = [index.locate(offset) for offset in range(1031, 1040)]
    assert all(
        found is not None and found[1] <= offset for found, offset in zip(located, range(1031, 1040), strict=True)
    )
    assert len(set(located)) >= 3


def test_the_first_entry_is_always_found():
    index = OffsetIndex(points_max=2, spacing=1)
    for i in range(1, 1000):
        index.stored(i, i - 1, 1)
    assert index.locate(0) == (1, 0)


def test_large_entries_are_spaced_by_bytes():
    index = OffsetIndex()
    for i in range(1, 11):
        index.stored(i, i - 1, 1 << 20)
    assert index.locate(9) == (10, 9)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=100),
    st.integers(2, 6),
    st.integers(1, 5),
    st.integers(0, 55),
)
def test_a_time_is_never_located_late(times, points_max, spacing_ms, wanted):
    index = TimeIndex(points_max, spacing_ms)
    for offset, time_ms in enumerate(times):
        index.stored(time_ms, offset)
        index.validate(offset + 1)
    start = index.locate(wanted) or 0
    assert all(time_ms < wanted for time_ms in times[:start])


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=100),
    st.integers(2, 6),
    st.integers(1, 5),
    st.integers(0, 55),
    st.integers(0, 100),
)
def test_a_time_is_never_located_late_after_a_trim(times, points_max, spacing_ms, wanted, trimmed_at):
    index, log_start = TimeIndex(points_max, spacing_ms), 0
    for offset, time_ms in enumerate(times):
        index.stored(time_ms, offset)
        if offset == trimmed_at:
            log_start = offset // 2
            index.trim(log_start)
        index.validate(offset + 1)
    start = max(index.locate(wanted) or 0, log_start)
    assert all(time_ms < wanted for time_ms in times[log_start:start])


HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000
YEAR_MS = 366 * 24 * HOUR_MS


def indexed(times: list[int]) -> TimeIndex:
    index = TimeIndex()
    for offset, time_ms in enumerate(times):
        index.stored(time_ms, offset)
        index.validate(offset + 1)
    return index


def at_ten_seconds_each(count: int) -> list[int]:
    return [NOW_MS + i * 10_000 for i in range(count)]


@pytest.mark.parametrize("absurd_ms", [NOW_MS + YEAR_MS, (1 << 64) - 1, NOW_MS + 2 * HOUR_MS])
@pytest.mark.parametrize("at", [0, 1, 50])
async def test_p31_one_absurd_time_does_not_freeze_what_is_found_by_time(absurd_ms: int, at: int) -> None:
    async def scenario(kind: type[TimeIndex]) -> None:
        times = at_ten_seconds_each(200)
        times.insert(at, absurd_ms)
        index = kind()
        for offset, time_ms in enumerate(times):
            index.stored(time_ms, offset)
        with promise("one clock that is set wrong does not hide times that are right"):
            for offset in range(at + 2 * DOUBTS_MAX, 201):
                assert index.locate(times[offset]) == offset
            assert index.latest_ms == times[-1]

    await holds_and_mutant_fails(scenario, TimeIndex, "retention.BelievesEveryTime")


def test_p31_producers_whose_clocks_are_wrong_do_not_freeze_it_while_most_are_right() -> None:
    times = at_ten_seconds_each(400)
    wrong = [NOW_MS + YEAR_MS + i if i % 3 == 0 else time_ms for i, time_ms in enumerate(times)]
    index = indexed(wrong)
    for offset in range(100, 400):
        if offset % 3:
            found = index.locate(times[offset])
            assert found is not None
            assert offset - 10 * DOUBTS_MAX < found <= offset


def test_a_pause_of_days_is_no_wrong_clock() -> None:
    before, after = at_ten_seconds_each(20), [t + 72 * HOUR_MS for t in at_ten_seconds_each(20)]
    index = indexed(before + after)
    assert index.locate(before[7]) == 7
    assert index.locate(after[0] - 1) == 19
    assert index.locate(after[7]) == 27


def test_a_clock_that_was_reset_to_1970_hides_nothing() -> None:
    times = at_ten_seconds_each(300)
    mixed = [i if i % 4 == 0 else time_ms for i, time_ms in enumerate(times)]
    index = indexed(mixed)
    assert index.locate(times[101]) == 101


@given(st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([0, 0, 0, 0, 1, -1])), min_size=1, max_size=150))
def test_right_times_are_never_located_late_whatever_others_say(steps) -> None:
    times, right, now_ms = [], [], NOW_MS
    for ahead_ms, wrong in steps:
        now_ms += ahead_ms
        times.append(now_ms + wrong * YEAR_MS)
        right.append(not wrong)
    index = indexed(times)
    for offset, time_ms in enumerate(times):
        if right[offset]:
            assert (index.locate(time_ms) or 0) <= offset
            copy = TimeIndex()
            out = SnapshotEncoder()
            index.encode(out)
            index.encode_leaps(out)
            source = SnapshotDecoder(out.bytes())
            copy.decode(source)
            copy.decode_leaps(source)
            source.end()
            assert copy.locate(time_ms) == index.locate(time_ms)
