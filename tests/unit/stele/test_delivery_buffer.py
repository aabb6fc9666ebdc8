"""What a consumer holds of one partition."""

from __future__ import annotations

import random

import pytest

from stele.delivery_buffer import ACKS_MAX, DeliveryBuffer, join, read_delivery
from stele.model import Message
from stele.services.batch import BatchRecord, encode
from stele.services.errors import BatchCorrupt, InvalidArgument, NotOwner, StaleAck
from tests.support.batches import undecodable_from
from tests.support.both_ways import holds_and_mutant_fails, promise


def message(offset: int, redelivery_count: int = 0) -> Message:
    return Message("a/b", 0, offset, None, b"%d" % offset, {}, 1, redelivery_count)


def taken(buffer: DeliveryBuffer) -> list[int]:
    offsets = []
    while (m := buffer.take()) is not None:
        offsets.append(m.offset)
    return offsets


def test_messages_come_in_the_order_of_delivery() -> None:
    buffer = DeliveryBuffer()
    assert buffer.delivered([message(3), message(4), message(1)]) == 0
    assert taken(buffer) == [3, 4, 1]


def test_acknowledgements_of_one_turn_are_joined() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered(message(o) for o in range(6))
    taken(buffer)
    for offset in (4, 0, 1, 2):
        buffer.ack(offset, f"promise {offset}")
    request = buffer.next_request()
    assert request is not None
    assert request.ranges == [(0, 2), (4, 4)]
    assert buffer.next_request() is None
    confirmed = buffer.confirmed(request.request_id)
    assert confirmed is not None
    assert confirmed.promises == ["promise 4", "promise 0", "promise 1", "promise 2"]
    assert not buffer.unconfirmed


def test_a_message_whose_acknowledgement_is_on_its_way_does_not_come_again() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered([message(0)])
    taken(buffer)
    buffer.ack(0, None)
    request = buffer.next_request()
    assert buffer.delivered([message(0, 1)]) == 1
    assert request is not None
    buffer.confirmed(request.request_id)
    assert buffer.delivered([message(0)]) == 0, "after that it comes only because somebody moved the subscription"


def test_an_acknowledged_message_that_waits_here_again_is_dropped() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered([message(0)])
    taken(buffer)
    buffer.delivered([message(0, 1)])
    buffer.ack(0, None)
    assert taken(buffer) == []


def test_unconfirmed_acknowledgements_are_repeated_on_the_next_stream() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered(message(o) for o in range(4))
    taken(buffer)
    buffer.ack(0, "a")
    first = buffer.next_request()
    buffer.ack(1, "b")
    buffer.opened(1)
    again = buffer.next_request()
    assert first is not None
    assert again is not None
    assert again.request_id != first.request_id
    assert (again.ranges, again.promises) == ([(0, 1)], ["a", "b"])
    assert buffer.confirmed(first.request_id) is None


def test_each_promise_belongs_to_its_own_offset_however_requests_are_cut() -> None:
    buffer = DeliveryBuffer()
    for offset in range(ACKS_MAX + 10):
        buffer.ack(offset, offset)
    first = buffer.next_request()
    assert first is not None
    buffer.ack(ACKS_MAX + 10, ACKS_MAX + 10)
    buffer.opened(1)
    while (request := buffer.next_request()) is not None:
        covered = {o for a, b in request.ranges for o in range(a, b + 1)}
        assert set(request.promises) == covered


def test_a_new_stream_repeats_neither_what_waits_nor_what_the_user_holds() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered(message(o) for o in range(3))
    first = buffer.take()
    assert first is not None
    buffer.opened(1)
    assert buffer.buffered == 0
    assert buffer.delivered(message(o) for o in range(3)) == 1
    assert taken(buffer) == [1, 2]
    assert buffer.delivered([message(0, 1)]) == 0, "a second repetition means it: the ack timeout passed"
    assert taken(buffer) == [0]


def test_what_was_handed_back_comes_again_also_on_a_new_stream() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered([message(0)])
    taken(buffer)
    assert buffer.nack(0)
    assert not buffer.nack(0)
    buffer.opened(1)
    buffer.delivered([message(0, 1)])
    assert taken(buffer) == [0]


def test_cumulative_acknowledgement_covers_everything_before_it() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered(message(o) for o in range(5))
    buffer.take()
    buffer.ack_cumulative(2, "p")
    assert buffer.buffered == 2
    request = buffer.next_request()
    assert request is not None
    assert request.cumulative
    assert request.ranges == [(2, 2)]
    assert buffer.delivered([message(1, 1)]) == 1
    buffer.confirmed(request.request_id)
    assert buffer.delivered([message(1)]) == 0


def test_a_refusal_that_may_pass_is_repeated_and_one_that_may_not_is_told() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered([message(0)])
    taken(buffer)
    buffer.ack(0, "p")
    first = buffer.next_request()
    assert first is not None
    assert buffer.refused(first.request_id, NotOwner("moved")) is None
    again = buffer.next_request()
    assert again is not None
    refused = buffer.refused(again.request_id, InvalidArgument("no such offset"))
    assert refused is not None
    assert refused.promises == ["p"]
    assert buffer.held == 1


def test_a_reset_forgets_everything_and_names_the_void_promises() -> None:
    buffer = DeliveryBuffer()
    buffer.delivered(message(o) for o in range(4))
    buffer.take()
    buffer.ack(0, "a")
    buffer.next_request()
    buffer.ack(1, "b")
    buffer.ack_cumulative(2, "c")
    assert buffer.reset() == ["a", "b", "c"]
    assert not buffer.unconfirmed
    assert buffer.delivered(message(o) for o in range(4)) == 0


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_events_keeps_the_invariants_and_every_promise(seed: int) -> None:
    rng = random.Random(seed)
    buffer = DeliveryBuffer()
    asked, answered = 0, 0
    held: list[int] = []
    sent = []
    for _ in range(400):
        match rng.randrange(8):
            case 0 | 1:
                buffer.delivered(message(rng.randrange(30), rng.randrange(2)) for _ in range(3))
            case 2 | 3:
                if (m := buffer.take()) is not None:
                    held.append(m.offset)
            case 4:
                if held:
                    buffer.ack(held.pop(rng.randrange(len(held))), "p")
                    asked += 1
            case 5:
                if held:
                    buffer.nack(held.pop())
            case 6:
                if (request := buffer.next_request()) is not None:
                    sent.append(request.request_id)
            case _:
                if rng.random() < 0.1:
                    buffer.opened(1)
                    sent.clear()
                elif sent:
                    confirmed = buffer.confirmed(sent.pop(0))
                    assert confirmed is not None
                    answered += len(confirmed.promises)
        buffer.validate()
    buffer.opened(1)
    while (request := buffer.next_request()) is not None:
        buffer.confirmed(request.request_id)
        answered += len(request.promises)
    assert asked == answered, seed


async def nothing_of_before_a_seek_is_sent_again(buffer_type: type[DeliveryBuffer[object]]) -> None:
    buffer = buffer_type()
    assert buffer.opened(4) == []
    buffer.delivered(message(o) for o in range(5))
    taken(buffer)
    buffer.ack(0, "a")
    buffer.next_request()
    buffer.ack_cumulative(3, "b")
    assert buffer.opened(4) == [], "the same cursor: what is not confirmed stays"
    assert buffer.unconfirmed
    with promise("an acknowledgement from before a seek is not sent again"):
        assert sorted(map(str, buffer.opened(6))) == ["a", "b"], "their promises are void"
        assert buffer.next_request() is None
    assert buffer.delivered(message(o) for o in range(5)) == 0
    assert taken(buffer) == list(range(5)), "all of it comes again, also what the user held and what was acknowledged"
    buffer.validate()


async def test_p7_nothing_of_before_a_seek_is_sent_again() -> None:
    await holds_and_mutant_fails(
        nothing_of_before_a_seek_is_sent_again, DeliveryBuffer, "incarnations.RepeatsAcksAfterASeek"
    )


async def what_was_delivered_before_a_seek_cannot_be_acknowledged(buffer_type: type[DeliveryBuffer[object]]) -> None:
    buffer = buffer_type()
    buffer.opened(4)
    buffer.check(4)
    buffer.opened(6)
    buffer.check(6)
    for generation in (4, 0, 7):
        with promise("a message from before a seek cannot be acknowledged"), pytest.raises(StaleAck):
            buffer.check(generation)


async def test_p7_what_was_delivered_before_a_seek_cannot_be_acknowledged() -> None:
    await holds_and_mutant_fails(
        what_was_delivered_before_a_seek_cannot_be_acknowledged, DeliveryBuffer, "incarnations.AcksWhatItOnceHeld"
    )


def test_p7_what_another_consumer_was_given_counts_if_the_cursor_is_still_the_same() -> None:
    for opened, void in ((4, []), (6, ["a"])):
        buffer: DeliveryBuffer[str] = DeliveryBuffer()
        buffer.check(4)
        buffer.ack(0, "a")
        assert buffer.opened(opened) == void


def test_p7_a_refused_stale_acknowledgement_leaves_nothing_behind() -> None:
    buffer: DeliveryBuffer[str] = DeliveryBuffer()
    buffer.opened(4)
    buffer.delivered([message(0)])
    taken(buffer)
    buffer.ack(0, "a")
    request = buffer.next_request()
    assert request is not None
    assert buffer.refused(request.request_id, StaleAck("moved")) is not None
    buffer.opened(4)
    buffer.delivered([message(0)])
    assert taken(buffer) == [0], "it is not held: its repetition is news"


def test_joining_offsets() -> None:
    assert join([]) == []
    assert join([5, 3, 4, 9, 3]) == [(3, 5), (9, 9)]


def test_only_the_named_offsets_of_a_batch_are_delivered() -> None:
    batch = encode([BatchRecord(b"%d" % i, key=b"k", headers={"h": b"v"}, timestamp_ms=7) for i in range(5)])
    messages, lost = read_delivery("a/b", 2, 100, batch, [(101, 102), (104, 110)], 3, 9, 4)
    assert lost is None
    assert [(m.offset, m.value) for m in messages] == [(101, b"1"), (102, b"2"), (104, b"4")]
    assert messages[0] == Message("a/b", 2, 101, b"k", b"1", {"h": b"v"}, 7, 3, 9, 4)
    messages, lost = read_delivery("a/b", 2, 100, batch[:-1], [(100, 100)], 0, 9, 4)
    assert isinstance(lost, BatchCorrupt)
    assert messages == []


def test_p17_what_stands_before_a_record_that_cannot_be_decoded_is_delivered() -> None:
    batch = undecodable_from(2, 5)
    messages, lost = read_delivery("a/b", 2, 100, batch, [(100, 104)], 0, 9, 4)
    assert [m.offset for m in messages] == [100, 101]
    assert lost is not None
    assert (lost.facts["first"], lost.facts["last"]) == ("102", "104")
    messages, lost = read_delivery("a/b", 2, 100, batch, [(100, 101)], 0, 9, 4)
    assert [m.offset for m in messages] == [100, 101]
    assert lost is None, "nothing that is wanted stands behind it"
