"""A cursor against a plain set of offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.cursor import Cursor
from stele.datanode.snapshot_codec import SnapshotDecoder, SnapshotEncoder

END = 60
one_range = st.tuples(st.integers(0, END - 1), st.integers(0, END - 1)).map(lambda r: (min(r), max(r)))
acks = st.lists(st.lists(one_range, max_size=6), max_size=15)


def shape_of(acked: set[int]) -> tuple[int, list[tuple[int, int]]]:
    """Floor and ranges of a set of offsets that holds everything below the floor."""
    floor = 0
    while floor in acked:
        floor += 1
    ranges: list[tuple[int, int]] = []
    for offset in sorted(o for o in acked if o >= floor):
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1] = (ranges[-1][0], offset)
        else:
            ranges.append((offset, offset))
    return floor, ranges


@given(st.integers(0, END), acks)
def test_acks_make_the_union_of_their_offsets(floor, requests):
    cursor, acked = Cursor(floor, 1), set(range(floor))
    for ranges in requests:
        assert cursor.ack(ranges)
        acked |= {offset for first, last in ranges for offset in range(first, last + 1)}
        cursor.validate(END)
        assert (cursor.ack_floor, cursor.ranges) == shape_of(acked)
    assert [cursor.is_acked(o) for o in range(END)] == [o in acked for o in range(END)]


@given(st.lists(one_range, max_size=12), st.randoms(use_true_random=False))
def test_order_and_grouping_of_acks_do_not_matter(ranges, random):
    together = Cursor(0, 1)
    together.ack(ranges)
    shuffled = list(ranges)
    random.shuffle(shuffled)
    one_by_one = Cursor(0, 1)
    for r in shuffled:
        one_by_one.ack([r])
    assert (together.ack_floor, together.ranges) == (one_by_one.ack_floor, one_by_one.ranges)


@given(acks, st.integers(1, 4))
def test_an_ack_beyond_the_bound_changes_nothing(requests, ranges_max):
    cursor = Cursor(0, 1)
    acked: set[int] = set()
    for ranges in requests:
        wanted = acked | {offset for first, last in ranges for offset in range(first, last + 1)}
        accepted = cursor.ack(ranges, ranges_max)
        assert accepted == (len(shape_of(wanted)[1]) <= ranges_max)
        acked = wanted if accepted else acked
        cursor.validate(END, ranges_max)
        assert (cursor.ack_floor, cursor.ranges) == shape_of(acked)


def test_a_full_cursor_still_takes_the_ack_that_shrinks_it():
    cursor = Cursor(0, 1)
    assert cursor.ack([(2, 2), (4, 4), (6, 6)], ranges_max=3)
    assert not cursor.ack([(8, 8)], ranges_max=3)
    assert cursor.ack([(0, 1)], ranges_max=3)
    assert (cursor.ack_floor, cursor.ranges) == (3, [(4, 4), (6, 6)])


def test_p13_a_cursor_for_which_room_has_become_scarce_still_shrinks():
    cursor = Cursor(0, 1)
    assert cursor.ack([(2, 2), (4, 4), (6, 6), (8, 8)], ranges_max=4)
    assert not cursor.ack([(10, 10)], ranges_max=2)
    assert cursor.ack([(3, 3)], ranges_max=2)
    assert cursor.ack([(0, 1)], ranges_max=2)
    assert (cursor.ack_floor, cursor.ranges) == (5, [(6, 6), (8, 8)])


counted = st.lists(st.tuples(one_range, st.integers(1, 5)).map(lambda r: (*r[0], r[1])), max_size=4)


@given(st.lists(st.tuples(st.lists(one_range, max_size=3), counted), max_size=12))
def test_p15_counts_of_redeliveries_stay_until_the_message_is_acknowledged(requests):
    cursor, acked, counts = Cursor(0, 1), set(), {}
    for ranges, redelivered in requests:
        cursor.ack(ranges)
        acked |= {o for first, last in ranges for o in range(first, last + 1)}
        cursor.redelivered(redelivered)
        counts |= {o: n for first, last, n in redelivered for o in range(first, last + 1)}
        counts = {o: n for o, n in counts.items() if o not in acked}
        cursor.validate(END)
        found = {o: n for first, last, n in cursor.redeliveries.ranges for o in range(first, last + 1)}
        assert found == counts


def test_p15_of_too_many_counts_the_highest_are_kept():
    cursor = Cursor(0, 1)
    cursor.redelivered([(o, o, 1 + o % 3) for o in range(0, 3_000, 2)])
    kept = cursor.redeliveries.ranges
    assert len(kept) == 1_000
    assert [r for r in kept if r[2] > 1] == [(o, o, 1 + o % 3) for o in range(0, 3_000, 2) if o % 3]
    cursor.reset(0, 2)
    assert cursor.redeliveries.ranges == []


@given(acks, counted)
def test_a_cursor_survives_its_bytes(requests, redelivered):
    cursor = Cursor(3, 9)
    for ranges in requests:
        cursor.ack(ranges)
    cursor.redelivered(redelivered)
    out = SnapshotEncoder()
    cursor.encode(out)
    again = Cursor.decode(SnapshotDecoder(out.bytes()), with_redeliveries=True)
    assert again.redeliveries.ranges == cursor.redeliveries.ranges
    assert (again.ack_floor, again.ranges, again.generation) == (cursor.ack_floor, cursor.ranges, 9)
