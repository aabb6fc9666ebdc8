"""What each command does to a partition, one rule at a time."""

from __future__ import annotations

import pytest

from stele.datanode import commands, partition
from stele.datanode.commands import (
    EARLIEST,
    LATEST,
    Ack,
    Appended,
    AppendOutcome,
    CreateCursor,
    CursorOutcome,
    DeleteCursor,
    DeleteOutcome,
    FenceOutcome,
    FenceOwner,
    Outcome,
    Position,
    Refused,
    ResetCursor,
    Start,
    Trim,
    TrimOutcome,
)
from stele.datanode.partition import PartitionState
from stele.datanode.redeliveries import Redeliveries
from stele.datanode.snapshot_codec import SnapshotDamaged
from stele.services.batch import EPOCH_SEQUENCES
from stele.services.errors import (
    Fenced,
    InvalidArgument,
    OutOfOrderSequence,
    Overloaded,
    SubscriptionNotFound,
)
from tests.unit.datanode.entries import make_batch


class Log:
    """A partition fed one entry after the other; invariants are checked after each."""

    def __init__(self, **bounds: int) -> None:
        self.partition = PartitionState(**bounds)
        self.index = 0

    def raw(self, payload: bytes) -> Outcome:
        self.index += 1
        outcome = self.partition.apply(self.index, 1, payload)
        self.partition.validate()
        return outcome

    def do(self, command) -> Outcome:
        return self.raw(commands.encode(command))

    def append(self, *batches: bytes, epoch: int = 1) -> tuple[Appended | Refused, ...]:
        outcome = self.raw(commands.encode_append(epoch, batches))
        assert isinstance(outcome, AppendOutcome), outcome
        return outcome.results

    def offset_of_new(self, position: Position) -> int:
        outcome = self.do(CreateCursor(self.partition.owner_epoch, f"new-{self.index}", position))
        assert isinstance(outcome, CursorOutcome), outcome
        return outcome.ack_floor

    def offset_of(self, position: Position) -> int:
        outcome = self.do(ResetCursor(1, "s", position))
        assert isinstance(outcome, CursorOutcome), outcome
        return outcome.ack_floor


def refused(outcome: object, error: type) -> dict[str, str]:
    assert isinstance(outcome, Refused), outcome
    assert isinstance(outcome.error(), error), outcome
    assert type(outcome.error()) is error
    return dict(outcome.facts)


# --- offsets ----------------------------------------------------------------------------------------------------------


def test_offsets_have_no_gaps():
    log = Log()
    assert log.append(make_batch(3), make_batch(2)) == (Appended(0), Appended(3))
    assert log.append(make_batch(1)) == (Appended(5),)
    assert log.partition.high_watermark == 6


def test_a_refused_batch_takes_no_offset_and_the_rest_of_the_entry_is_stored():
    log = Log()
    results = log.append(make_batch(2), make_batch(1, producer_id=7, sequence=5), make_batch(2))
    assert results[0] == Appended(0)
    refused(results[1], OutOfOrderSequence)
    assert results[2] == Appended(2)


def test_an_index_is_applied_once():
    log = Log()
    log.append(make_batch())
    with pytest.raises(ValueError, match="applied after"):
        log.partition.apply(1, 1, b"")


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\x01", b"\x01" + bytes(30), b"\x02", b"\x63" + bytes(20), b"\x04" + bytes(9)]
)
def test_h11_a_damaged_command_is_an_outcome(payload):
    log = Log()
    log.append(make_batch(2))
    before = log.partition.encode_snapshot()
    first, second = log.raw(payload), log.raw(payload)
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert isinstance(first.error(), InvalidArgument)
    assert log.partition.high_watermark == 2
    again = PartitionState()
    again.restore(before)
    assert again.apply(2, 1, payload) == first


def test_damage_after_a_good_batch_stores_nothing_of_the_entry():
    log = Log()
    outcome = log.raw(commands.encode_append(1, [make_batch(2)]) + b"tail")
    assert isinstance(outcome, Refused)
    assert log.partition.high_watermark == 0


# --- producers --------------------------------------------------------------------------------------------------------


def test_a_retried_batch_is_stored_once():
    log = Log()
    first = make_batch(3, producer_id=7)
    assert log.append(first) == (Appended(0),)
    assert log.append(make_batch(1)) == (Appended(3),)
    assert log.append(first) == (Appended(0, duplicate=True),)
    assert log.append(first, first) == (Appended(0, duplicate=True), Appended(0, duplicate=True))
    assert log.partition.high_watermark == 4


def test_a_retry_inside_one_entry_is_stored_once():
    log = Log()
    first = make_batch(3, producer_id=7)
    assert log.append(first, first) == (Appended(0), Appended(0, duplicate=True))


def test_a_retry_of_a_part_of_a_batch_is_a_duplicate_at_its_own_offset():
    log = Log()
    log.append(make_batch(10), make_batch(10, producer_id=7))
    assert log.append(make_batch(4, producer_id=7, sequence=3)) == (Appended(13, duplicate=True),)


@pytest.mark.parametrize(("sequence", "count", "expected"), [(5, 1, 3), (2, 2, 3), (0, 4, 3), (4 + 2**40, 1, 3)])
def test_a_gap_or_overlap_is_refused_with_the_expected_sequence(sequence, count, expected):
    log = Log()
    log.append(make_batch(3, producer_id=7))
    facts = refused(log.append(make_batch(count, producer_id=7, sequence=sequence))[0], OutOfOrderSequence)
    assert facts["expected"] == str(expected)
    assert facts["got"] == str(sequence)
    assert log.append(make_batch(1, producer_id=7, sequence=3)) == (Appended(3),)


def test_an_epoch_that_begins_ends_the_one_before():
    log = Log()
    log.append(make_batch(3, producer_id=7))
    begins = make_batch(2, producer_id=7, sequence=EPOCH_SEQUENCES)
    assert log.append(begins, begins) == (Appended(3), Appended(3, duplicate=True))
    # Stored before or not: of the epoch that has ended nothing is known, and nothing is taken.
    for late in (0, 2, 3, 4):
        refused(log.append(make_batch(1, producer_id=7, sequence=late))[0], OutOfOrderSequence)
    refused(log.append(make_batch(1, producer_id=7, sequence=EPOCH_SEQUENCES + 3))[0], OutOfOrderSequence)
    assert log.append(make_batch(1, producer_id=7, sequence=EPOCH_SEQUENCES + 2)) == (Appended(5),)
    assert log.append(make_batch(1, producer_id=7, sequence=5 * EPOCH_SEQUENCES)) == (Appended(6),)
    assert log.append(make_batch(1, producer_id=9, sequence=2 * EPOCH_SEQUENCES)) == (Appended(7),)


def test_an_unknown_producer_begins_at_0():
    log = Log()
    facts = refused(log.append(make_batch(1, producer_id=7, sequence=1))[0], OutOfOrderSequence)
    assert facts == {"expected": "0", "got": "1", "producer": "unknown"}


def test_producer_0_is_never_checked():
    log = Log()
    same = make_batch(1, producer_id=0, sequence=9)
    assert log.append(same, same) == (Appended(0), Appended(1))


def test_a_sequence_that_leaves_64_bits_is_refused():
    log = Log()
    refused(log.append(make_batch(2, producer_id=7, sequence=2**64 - 1))[0], InvalidArgument)


def test_a_duplicate_older_than_the_window_is_refused_not_stored_again():
    log = Log()
    for sequence in range(70):
        log.append(make_batch(1, producer_id=7, sequence=sequence))
    assert log.append(make_batch(1, producer_id=7, sequence=6)) == (Appended(6, duplicate=True),)
    facts = refused(log.append(make_batch(1, producer_id=7, sequence=5))[0], OutOfOrderSequence)
    assert facts["expected"] == "70"
    assert log.partition.high_watermark == 70


def test_the_producer_that_wrote_longest_ago_is_forgotten():
    log = Log(producers_max=2)
    log.append(make_batch(1, producer_id=1))
    log.append(make_batch(1, producer_id=2))
    log.append(make_batch(1, producer_id=1, sequence=1))
    log.append(make_batch(1, producer_id=3))
    assert len(log.partition.producers) == 2
    refused(log.append(make_batch(1, producer_id=2, sequence=1))[0], OutOfOrderSequence)
    assert log.append(make_batch(1, producer_id=1, sequence=2)) == (Appended(4),)


def test_a_refused_batch_forgets_nobody():
    log = Log(producers_max=1)
    log.append(make_batch(1, producer_id=1))
    refused(log.append(make_batch(1, producer_id=2, sequence=4))[0], OutOfOrderSequence)
    assert log.append(make_batch(1, producer_id=1, sequence=1)) == (Appended(1),)


# --- owner epoch (R5.10) ----------------------------------------------------------------------------------------------


def test_r5_10_a_fence_refuses_every_lower_epoch():
    log = Log()
    log.append(make_batch(2), epoch=3)
    assert log.do(FenceOwner(5)) == FenceOutcome(5, high_watermark=2, log_start=0)
    for outcome in (
        log.raw(commands.encode_append(4, [make_batch()])),
        log.do(FenceOwner(4)),
        log.do(CreateCursor(4, "s", LATEST)),
        log.do(Ack(4, "s", 1, ((0, 0),))),
        log.do(ResetCursor(4, "s", LATEST)),
        log.do(DeleteCursor(4, "s")),
    ):
        assert refused(outcome, Fenced) == {"epoch": "4", "seen": "5"}
    assert log.partition.high_watermark == 2
    assert log.append(make_batch(), epoch=5) == (Appended(2),)


def test_r5_10_an_append_of_a_higher_epoch_fences_the_lower():
    log = Log()
    log.append(make_batch(), epoch=7)
    refused(log.raw(commands.encode_append(6, [make_batch()])), Fenced)


# --- cursors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "floor"),
    [
        (EARLIEST, 0),
        (LATEST, 10),
        (Position(Start.OFFSET, 4), 4),
        (Position(Start.OFFSET, 10), 10),
        (Position(Start.OFFSET, 11), 10),
        (Position(Start.OFFSET, 2**64 - 1), 10),
    ],
)
def test_a_cursor_begins_where_it_is_told(position, floor):
    log = Log()
    log.append(make_batch(10))
    assert log.do(CreateCursor(1, "s", position)) == CursorOutcome("s", floor, 1, created=True)


def test_creating_a_cursor_again_changes_nothing():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    log.do(Ack(1, "s", 1, ((0, 3),)))
    assert log.do(CreateCursor(1, "s", LATEST)) == CursorOutcome("s", 4, 1, created=False)


def test_acks_move_the_floor_and_keep_ranges():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.do(Ack(1, "s", 1, ((2, 3), (5, 5)))) == CursorOutcome("s", 0, 1)
    assert log.partition.cursor("s").ranges == [(2, 3), (5, 5)]
    assert log.do(Ack(1, "s", 1, ((0, 1),))) == CursorOutcome("s", 4, 1)
    assert log.do(Ack(1, "s", 1, ((0, 9),))) == CursorOutcome("s", 10, 1)


@pytest.mark.parametrize("ranges", [((3, 2),), ((0, 10),), ((10, 10),), ((0, 0), (12, 12))])
def test_what_does_not_exist_is_not_acknowledged(ranges):
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert refused(log.do(Ack(1, "s", 1, ranges)), InvalidArgument) == {"high_watermark": "10"}
    assert log.partition.cursor("s").ack_floor == 0


def test_an_ack_of_an_older_generation_is_dropped():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.do(ResetCursor(1, "s", Position(Start.OFFSET, 5))) == CursorOutcome("s", 5, 2)
    assert log.do(Ack(1, "s", 1, ((5, 9),))) == CursorOutcome("s", 5, 2)
    assert log.do(Ack(1, "s", 2, ((5, 9),))) == CursorOutcome("s", 10, 2)


def test_a_cursor_created_again_under_its_name_does_not_take_acks_of_the_former():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.do(DeleteCursor(1, "s")) == DeleteOutcome(True)
    assert log.do(CreateCursor(1, "s", EARLIEST)) == CursorOutcome("s", 0, 2, created=True)
    assert log.do(Ack(1, "s", 1, ((0, 9),))) == CursorOutcome("s", 0, 2)


def test_a_reset_clears_the_ranges_and_may_go_back():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    log.do(Ack(1, "s", 1, ((0, 3), (6, 7))))
    assert log.do(ResetCursor(1, "s", EARLIEST)) == CursorOutcome("s", 0, 2)
    assert log.partition.cursor("s").ranges == []


def test_a_reset_beyond_the_end_is_clamped():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.offset_of(Position(Start.OFFSET, 99)) == 10
    assert log.offset_of(LATEST) == 10


def test_a_reset_by_time_never_skips_a_message_at_or_after_it():
    log = Log()
    for i in range(10):
        log.append(make_batch(2, timestamp_ms=10_000 + i * 2_000))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.offset_of(Position(Start.TIMESTAMP, 0)) == 0
    assert log.offset_of(Position(Start.TIMESTAMP, 14_000)) == 4
    assert log.offset_of(Position(Start.TIMESTAMP, 15_999)) == 4
    assert log.offset_of(Position(Start.TIMESTAMP, 28_000)) == 18
    assert log.offset_of(Position(Start.TIMESTAMP, 28_001)) == 20


@pytest.mark.parametrize("command", [Ack(1, "none", 1, ((0, 0),)), ResetCursor(1, "none", LATEST)])
def test_a_subscription_that_does_not_exist_is_named(command):
    log = Log()
    log.append(make_batch())
    assert refused(log.do(command), SubscriptionNotFound) == {"subscription": "none"}


def test_deleting_a_cursor_twice_is_no_error():
    log = Log()
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.do(DeleteCursor(1, "s")) == DeleteOutcome(True)
    assert log.do(DeleteCursor(1, "s")) == DeleteOutcome(False)


def test_subscriptions_are_bounded():
    log = Log(subscriptions_max=2)
    log.do(CreateCursor(1, "a", EARLIEST))
    log.do(CreateCursor(1, "b", EARLIEST))
    assert refused(log.do(CreateCursor(1, "c", EARLIEST)), Overloaded) == {"limit": "2"}
    assert log.do(CreateCursor(1, "a", EARLIEST)) == CursorOutcome("a", 0, 1)


def test_acknowledged_ranges_are_bounded():
    log = Log(ranges_max=2)
    log.append(make_batch(20))
    log.do(CreateCursor(1, "s", EARLIEST))
    log.do(Ack(1, "s", 1, ((2, 2), (4, 4))))
    assert refused(log.do(Ack(1, "s", 1, ((6, 6),))), Overloaded) == {"limit": "2"}
    assert log.partition.cursor("s").ranges == [(2, 2), (4, 4)]
    assert log.do(Ack(1, "s", 1, ((0, 1),))) == CursorOutcome("s", 3, 1)


# --- trims ------------------------------------------------------------------------------------------------------------


def test_a_trim_raises_the_start_and_never_lowers_it():
    log = Log()
    log.append(make_batch(10))
    assert log.do(Trim(4)) == TrimOutcome(4)
    assert log.do(Trim(2)) == TrimOutcome(4)
    assert log.do(Trim(4)) == TrimOutcome(4)
    assert log.partition.log_start == 4
    assert log.offset_of_new(EARLIEST) == 4
    assert log.offset_of_new(Position(Start.OFFSET, 1)) == 4


def test_a_trim_goes_no_further_than_what_is_stored():
    log = Log()
    assert log.do(Trim(7)) == TrimOutcome(0)
    log.append(make_batch(3))
    assert log.do(Trim(7)) == TrimOutcome(3)
    assert log.append(make_batch(1)) == (Appended(3),)
    assert log.offset_of_new(EARLIEST) == 3


def test_r5_10_a_trim_is_nobodys_write():
    """It is not refused under a high owner epoch, and fences nobody."""
    log = Log()
    log.append(make_batch(10), epoch=7)
    assert log.do(Trim(4)) == TrimOutcome(4)
    assert log.partition.owner_epoch == 7
    assert log.append(make_batch(1), epoch=7) == (Appended(10),)
    refused(log.do(FenceOwner(6)), Fenced)


def test_a_cursor_moves_up_to_the_start():
    log = Log()
    log.append(make_batch(20))
    log.do(CreateCursor(1, "behind", EARLIEST))
    log.do(CreateCursor(1, "ahead", Position(Start.OFFSET, 15)))
    log.do(Ack(1, "behind", 1, ((2, 3), (9, 12), (16, 16))))
    assert log.do(Trim(10)) == TrimOutcome(10, unacked=7)  # 0, 1 and 4 to 8
    behind = log.partition.cursor("behind")
    assert (behind.ack_floor, behind.ranges, behind.generation) == (13, [(16, 16)], 1)
    assert log.partition.cursor("ahead").ack_floor == 15


def test_acknowledgements_that_were_on_their_way_are_as_good_as_before_a_trim():
    log = Log()
    log.append(make_batch(20))
    log.do(CreateCursor(1, "s", EARLIEST))
    log.do(Trim(10))
    assert log.do(Ack(1, "s", 1, ((0, 11),))) == CursorOutcome("s", 12, 1)
    assert log.do(Ack(1, "s", 1, ((3, 4),))) == CursorOutcome("s", 12, 1)


def test_a_producer_is_remembered_beyond_its_messages():
    log = Log()
    first = make_batch(3, producer_id=7)
    log.append(first)
    log.do(Trim(3))
    assert log.append(first) == (Appended(0, duplicate=True),)


# --- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b[1:]])
def test_a_damaged_snapshot_changes_nothing(damage):
    log = Log()
    log.append(make_batch(3, producer_id=1))
    log.do(CreateCursor(1, "s", EARLIEST))
    good = log.partition.encode_snapshot()
    with pytest.raises(SnapshotDamaged):
        log.partition.restore(damage(good))
    assert log.partition.encode_snapshot() == good


def test_a_snapshot_of_before_redeliveries_were_counted_is_read(monkeypatch):
    log = Log()
    log.append(make_batch(10, producer_id=1))
    log.do(CreateCursor(1, "s", EARLIEST))
    log.do(Ack(1, "s", 1, ((2, 3), (5, 5))))
    now = log.partition.encode_snapshot()
    with monkeypatch.context() as before:
        before.setattr(partition, "_SNAPSHOT_MAGIC", partition._SNAPSHOT_MAGIC_1)
        before.setattr(Redeliveries, "encode", lambda self, out: None)
        former = log.partition.encode_snapshot()
    assert former != now
    log.partition.restore(former)
    assert log.partition.encode_snapshot() == now


# --- redeliveries -----------------------------------------------------------------------------------------------------


def test_p15_counts_of_redeliveries_are_kept_with_the_cursor():
    log = Log()
    log.append(make_batch(10))
    log.do(CreateCursor(1, "s", EARLIEST))
    assert log.do(Ack(1, "s", 1, (), ((2, 5, 3), (7, 7, 1)))) == CursorOutcome("s", 0, 1)
    log.do(Ack(1, "s", 1, ((0, 2), (4, 4)), ((7, 7, 2),)))
    assert log.partition.cursor("s").redeliveries.ranges == [(3, 3, 3), (5, 5, 3), (7, 7, 2)]
    log.do(Ack(1, "s", 9, (), ((8, 8, 1),)))
    assert log.partition.cursor("s").redeliveries.ranges == [(3, 3, 3), (5, 5, 3), (7, 7, 2)], "another generation's"
    again = PartitionState()
    again.restore(log.partition.encode_snapshot())
    assert again.cursor("s").redeliveries.ranges == [(3, 3, 3), (5, 5, 3), (7, 7, 2)]
    assert refused(log.do(Ack(1, "s", 1, (), ((9, 10, 1),))), InvalidArgument)
    log.do(Trim(6))
    assert log.partition.cursor("s").redeliveries.ranges == [(7, 7, 2)]
    log.do(ResetCursor(1, "s", EARLIEST))
    assert log.partition.cursor("s").redeliveries.ranges == []


# --- the sum of all cursors -------------------------------------------------------------------------------------------


def test_p13_cursors_full_of_holes_leave_one_another_room():
    log = Log(ranges_sum_max=500)
    log.append(make_batch(4_000))
    for name in ("a", "b", "c"):
        log.do(CreateCursor(1, name, EARLIEST))
    holes = tuple((o, o) for o in range(1, 4_000, 2))
    assert isinstance(log.do(Ack(1, "a", 1, holes[:450])), CursorOutcome)
    assert refused(log.do(Ack(1, "b", 2, holes[:101])), Overloaded) == {"limit": "100"}
    assert isinstance(log.do(Ack(1, "b", 2, holes[:100])), CursorOutcome), "each has its least part"
    assert refused(log.do(Ack(1, "a", 1, holes[:460])), Overloaded)
    assert isinstance(log.do(Ack(1, "a", 1, ((0, 3_000),))), CursorOutcome), "what makes less of them is always taken"
    assert isinstance(log.do(Ack(1, "c", 3, holes[:390])), CursorOutcome)
    assert sum(len(c.ranges) for c in log.partition.cursors.values()) <= 500
