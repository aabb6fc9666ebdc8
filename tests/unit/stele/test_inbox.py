"""What a consumer holds of one partition."""

from __future__ import annotations

import random

import pytest

from stele.inbox import ACKS_MAX, Inbox, join, read_delivery
from stele.model import Message
from stele.services.batch import Record, encode
from stele.services.errors import BatchCorrupt, InvalidArgument, NotOwner


def message(offset: int, redelivery_count: int = 0) -> Message:
    return Message("a/b", 0, offset, None, b"%d" % offset, {}, 1, redelivery_count)


def taken(inbox: Inbox) -> list[int]:
    offsets = []
    while (m := inbox.take()) is not None:
        offsets.append(m.offset)
    return offsets


def test_messages_come_in_the_order_of_delivery() -> None:
    inbox = Inbox()
    assert inbox.delivered([message(3), message(4), message(1)]) == 0
    assert taken(inbox) == [3, 4, 1]


def test_acknowledgements_of_one_turn_are_joined() -> None:
    inbox = Inbox()
    inbox.delivered(message(o) for o in range(6))
    taken(inbox)
    for offset in (4, 0, 1, 2):
        inbox.ack(offset, f"promise {offset}")
    request = inbox.next_request()
    assert request is not None
    assert request.ranges == [(0, 2), (4, 4)]
    assert inbox.next_request() is None
    confirmed = inbox.confirmed(request.request_id)
    assert confirmed is not None
    assert confirmed.promises == ["promise 4", "promise 0", "promise 1", "promise 2"]
    assert not inbox.unconfirmed


def test_a_message_whose_acknowledgement_is_on_its_way_does_not_come_again() -> None:
    inbox = Inbox()
    inbox.delivered([message(0)])
    taken(inbox)
    inbox.ack(0, None)
    request = inbox.next_request()
    assert inbox.delivered([message(0, 1)]) == 1
    assert request is not None
    inbox.confirmed(request.request_id)
    assert inbox.delivered([message(0)]) == 0, "after that it comes only because somebody moved the subscription"


def test_an_acknowledged_message_that_waits_here_again_is_dropped() -> None:
    inbox = Inbox()
    inbox.delivered([message(0)])
    taken(inbox)
    inbox.delivered([message(0, 1)])
    inbox.ack(0, None)
    assert taken(inbox) == []


def test_unconfirmed_acknowledgements_are_repeated_on_the_next_stream() -> None:
    inbox = Inbox()
    inbox.delivered(message(o) for o in range(4))
    taken(inbox)
    inbox.ack(0, "a")
    first = inbox.next_request()
    inbox.ack(1, "b")
    inbox.opened()
    again = inbox.next_request()
    assert first is not None
    assert again is not None
    assert again.request_id != first.request_id
    assert (again.ranges, again.promises) == ([(0, 1)], ["a", "b"])
    assert inbox.confirmed(first.request_id) is None


def test_each_promise_belongs_to_its_own_offset_however_requests_are_cut() -> None:
    inbox = Inbox()
    for offset in range(ACKS_MAX + 10):
        inbox.ack(offset, offset)
    first = inbox.next_request()
    assert first is not None
    inbox.ack(ACKS_MAX + 10, ACKS_MAX + 10)
    inbox.opened()
    while (request := inbox.next_request()) is not None:
        covered = {o for a, b in request.ranges for o in range(a, b + 1)}
        assert set(request.promises) == covered


def test_a_new_stream_repeats_neither_what_waits_nor_what_the_user_holds() -> None:
    inbox = Inbox()
    inbox.delivered(message(o) for o in range(3))
    first = inbox.take()
    assert first is not None
    inbox.opened()
    assert inbox.buffered == 0
    assert inbox.delivered(message(o) for o in range(3)) == 1
    assert taken(inbox) == [1, 2]
    assert inbox.delivered([message(0, 1)]) == 0, "a second repetition means it: the ack timeout passed"
    assert taken(inbox) == [0]


def test_what_was_handed_back_comes_again_also_on_a_new_stream() -> None:
    inbox = Inbox()
    inbox.delivered([message(0)])
    taken(inbox)
    assert inbox.nack(0)
    assert not inbox.nack(0)
    inbox.opened()
    inbox.delivered([message(0, 1)])
    assert taken(inbox) == [0]


def test_cumulative_acknowledgement_covers_everything_before_it() -> None:
    inbox = Inbox()
    inbox.delivered(message(o) for o in range(5))
    inbox.take()
    inbox.ack_cumulative(2, "p")
    assert inbox.buffered == 2
    request = inbox.next_request()
    assert request is not None
    assert request.cumulative
    assert request.ranges == [(2, 2)]
    assert inbox.delivered([message(1, 1)]) == 1
    inbox.confirmed(request.request_id)
    assert inbox.delivered([message(1)]) == 0


def test_a_refusal_that_may_pass_is_repeated_and_one_that_may_not_is_told() -> None:
    inbox = Inbox()
    inbox.delivered([message(0)])
    taken(inbox)
    inbox.ack(0, "p")
    first = inbox.next_request()
    assert first is not None
    assert inbox.refused(first.request_id, NotOwner("moved")) is None
    again = inbox.next_request()
    assert again is not None
    refused = inbox.refused(again.request_id, InvalidArgument("no such offset"))
    assert refused is not None
    assert refused.promises == ["p"]
    assert inbox.held == 1


def test_a_reset_forgets_everything_and_names_the_void_promises() -> None:
    inbox = Inbox()
    inbox.delivered(message(o) for o in range(4))
    inbox.take()
    inbox.ack(0, "a")
    inbox.next_request()
    inbox.ack(1, "b")
    inbox.ack_cumulative(2, "c")
    assert inbox.reset() == ["a", "b", "c"]
    assert not inbox.unconfirmed
    assert inbox.delivered(message(o) for o in range(4)) == 0


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_events_keeps_the_invariants_and_every_promise(seed: int) -> None:
    rng = random.Random(seed)
    inbox = Inbox()
    asked, answered = 0, 0
    held: list[int] = []
    sent = []
    for _ in range(400):
        match rng.randrange(8):
            case 0 | 1:
                inbox.delivered(message(rng.randrange(30), rng.randrange(2)) for _ in range(3))
            case 2 | 3:
                if (m := inbox.take()) is not None:
                    held.append(m.offset)
            case 4:
                if held:
                    inbox.ack(held.pop(rng.randrange(len(held))), "p")
                    asked += 1
            case 5:
                if held:
                    inbox.nack(held.pop())
            case 6:
                if (request := inbox.next_request()) is not None:
                    sent.append(request.request_id)
            case _:
                if rng.random() < 0.1:
                    inbox.opened()
                    sent.clear()
                elif sent:
                    confirmed = inbox.confirmed(sent.pop(0))
                    assert confirmed is not None
                    answered += len(confirmed.promises)
        inbox.validate()
    inbox.opened()
    while (request := inbox.next_request()) is not None:
        inbox.confirmed(request.request_id)
        answered += len(request.promises)
    assert asked == answered, seed


def test_joining_offsets() -> None:
    assert join([]) == []
    assert join([5, 3, 4, 9, 3]) == [(3, 5), (9, 9)]


def test_only_the_named_offsets_of_a_batch_are_delivered() -> None:
    batch = encode([Record(b"%d" % i, key=b"k", headers={"h": b"v"}, timestamp_ms=7) for i in range(5)])
    messages = read_delivery("a/b", 2, 100, batch, [(101, 102), (104, 110)], 3)
    assert [(m.offset, m.value) for m in messages] == [(101, b"1"), (102, b"2"), (104, b"4")]
    assert messages[0] == Message("a/b", 2, 101, b"k", b"1", {"h": b"v"}, 7, 3)
    with pytest.raises(BatchCorrupt):
        read_delivery("a/b", 2, 100, batch[:-1], [(100, 100)], 0)
