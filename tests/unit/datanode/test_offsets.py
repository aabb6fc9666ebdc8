"""The sparse indexes: bounded, and never beyond what they are asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datanode.offsets import OffsetIndex, TimeIndex


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40_000)), min_size=1, max_size=200), st.integers(2, 8))
def test_an_offset_is_located_at_or_before_its_entry(entries, points_max):
    index = OffsetIndex(points_max, spacing=3)
    begins: list[tuple[int, int]] = []
    offset = 0
    for at, (count, size) in enumerate(entries, 1):
        begins.append((at, offset))
        index.stored(at, offset, size)
        offset += count
        index.validate(at, offset)
    for wanted in range(offset):
        found = index.locate(wanted)
        assert found in begins
        assert found is not None
        assert found[1] <= wanted


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
