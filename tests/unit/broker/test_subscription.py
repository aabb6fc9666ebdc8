"""The delivery core, event by event."""

from __future__ import annotations

import math

import pytest

from stele.broker import cursor_writes
from stele.broker import subscription as core
from stele.broker.subscription import Subscription, SubscriptionType
from stele.broker.subscription_effects import (
    Close,
    ConfirmAcks,
    Deliver,
    PersistAcks,
    RefuseAck,
    SetActive,
    SubscriptionEffect,
)
from stele.services.errors import ConsumerBusy, InvalidArgument, NotOwner, StaleAck
from tests.support.both_ways import holds_and_mutant_fails, promise

A, B, C = 1, 2, 3


@pytest.fixture
def sub():  # type: ignore[no-untyped-def]
    made = Subscription("s", floor=0)
    yield made
    made.validate()


def add(
    sub: Subscription,
    consumer: int,
    kind: SubscriptionType,
    credit: int = 100,
    ack_timeout_s: float = 0,
    now_s: float = 0,
) -> list[SubscriptionEffect]:
    return sub.add_consumer(consumer, f"c{consumer}", kind, credit, ack_timeout_s, now_s)


def test_delivers_what_is_available_within_credit(sub: Subscription) -> None:
    assert add(sub, A, SubscriptionType.EXCLUSIVE, credit=3) == []
    assert sub.available(2, 0) == [Deliver(A, 0, 1, 0)]
    assert sub.available(10, 0) == [Deliver(A, 2, 2, 0)]
    assert sub.credit(A, 4, 0) == [Deliver(A, 3, 6, 0)]
    assert sub.unacked == 7
    assert sub.available(5, 0) == []  # a lagging replica takes nothing back
    assert sub.credit(A, 100, 0) == [Deliver(A, 7, 9, 0)]


def test_exclusive_refuses_a_second_consumer(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.EXCLUSIVE)
    with pytest.raises(ConsumerBusy) as e:
        add(sub, B, SubscriptionType.EXCLUSIVE)
    assert e.value.facts == {"type": "EXCLUSIVE", "consumers": "c1"}
    sub.remove_consumer(A, 0)
    add(sub, B, SubscriptionType.EXCLUSIVE)


@pytest.mark.parametrize("first", list(SubscriptionType))
@pytest.mark.parametrize("second", list(SubscriptionType))
def test_one_type_at_a_time(sub: Subscription, first: SubscriptionType, second: SubscriptionType) -> None:
    add(sub, A, first)
    if first is second and first is not SubscriptionType.EXCLUSIVE:
        add(sub, B, second)
    else:
        with pytest.raises(ConsumerBusy):
            add(sub, B, second)
    sub.remove_consumer(A, 0)
    sub.remove_consumer(B, 0)
    add(sub, C, second)


def test_failover_next_in_order_takes_over_and_begins_with_what_was_left(sub: Subscription) -> None:
    for c in (A, B, C):
        add(sub, c, SubscriptionType.FAILOVER, credit=10)
    assert [sub.is_active(c) for c in (A, B, C)] == [True, False, False]
    assert sub.available(6, 0) == [Deliver(A, 0, 5, 0)]
    sub.ack(A, 1, [(0, 1)], False, sub.generation, 0)
    sub.ack(A, 2, [(3, 3)], False, sub.generation, 0)
    assert sub.remove_consumer(A, 0) == [SetActive(B, True), Deliver(B, 2, 2, 1), Deliver(B, 4, 5, 1)]
    assert sub.available(7, 0) == [Deliver(B, 6, 6, 0)]
    assert sub.remove_consumer(C, 0) == []  # it was not active
    assert sub.remove_consumer(B, 0) == []
    assert add(sub, A, SubscriptionType.FAILOVER) == [Deliver(A, 2, 2, 2), Deliver(A, 4, 5, 2), Deliver(A, 6, 6, 1)]


def test_shared_goes_round_by_credit(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED, credit=10)
    add(sub, B, SubscriptionType.SHARED, credit=10)
    add(sub, C, SubscriptionType.SHARED, credit=0)
    assert sub.available(4, 0) == [Deliver(A, 0, 1, 0), Deliver(B, 2, 3, 0)]
    assert sub.available(5, 0) == [Deliver(A, 4, 4, 0)]
    assert sub.available(6, 0) == [Deliver(B, 5, 5, 0)]
    assert sub.credit(C, 1, 0) == []
    assert sub.available(7, 0) == [Deliver(C, 6, 6, 0)]
    assert sub.available(8, 0) == [Deliver(A, 7, 7, 0)]


def test_shared_hands_what_a_consumer_left_to_the_others(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED, credit=10)
    add(sub, B, SubscriptionType.SHARED, credit=10)
    sub.available(4, 0)
    assert sub.remove_consumer(A, 0) == [Deliver(B, 0, 1, 1)]


def test_acks_are_confirmed_only_when_durable(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(10, 0)
    assert sub.ack(A, 7, [(0, 2), (5, 5)], False, sub.generation, 0) == []
    assert sub.flush_acks() == [PersistAcks(((0, 2), (5, 5)), 0)]
    assert sub.ack(A, 8, [(3, 3)], False, sub.generation, 0) == []
    assert sub.flush_acks() == []  # one write at a time
    assert sub.persisted(0) == [ConfirmAcks(A, (7,))]
    assert sub.flush_acks() == [PersistAcks(((3, 3),), 0)]
    assert sub.persisted(0) == [ConfirmAcks(A, (8,))]
    assert not sub.has_acks_to_write
    assert (sub.floor, sub.backlog(10)) == (4, 5)


def test_a_failed_write_is_repeated_with_what_came_since(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(10, 0)
    sub.ack(A, 1, [(0, 0)], False, sub.generation, 0)
    sub.flush_acks()
    sub.ack(A, 2, [(1, 1)], False, sub.generation, 0)
    sub.persist_refused(0)
    assert sub.flush_acks() == [PersistAcks(((0, 1),), 0)]
    assert sub.persisted(0) == []
    assert sub.flush_acks() == [ConfirmAcks(A, (1, 2))]


def test_p13_where_there_is_no_room_for_holes_the_floor_still_rises(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(100, 0)
    sub.ack(A, 1, [(0, 4), (10, 10), (12, 12)], False, 0, 0)
    assert sub.flush_acks() == [PersistAcks(((0, 4), (10, 10), (12, 12)), 0)]
    sub.ack(A, 2, [(5, 5)], False, 0, 0)
    sub.persist_refused(0)
    assert sub.flush_acks() == [PersistAcks(((0, 5),), 0)]
    assert sub.persisted(0) == [], "nobody is told before all of it is durable"
    assert sub.flush_acks() == [PersistAcks(((10, 10), (12, 12)), 0)]
    sub.persist_refused(0)
    sub.ack(A, 3, [(6, 9), (11, 11)], False, 0, 0)
    assert sub.flush_acks() == [PersistAcks(((6, 12),), 0)]
    assert sub.persisted(0) == []
    assert sub.flush_acks() == [ConfirmAcks(A, (1, 2, 3))]


def test_an_ack_of_something_acked_waits_for_the_write_under_way(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(10, 0)
    sub.ack(A, 1, [(0, 0)], False, sub.generation, 0)
    sub.flush_acks()
    sub.ack(A, 2, [(0, 0)], False, sub.generation, 0)
    assert sub.flush_acks() == []
    assert sub.persisted(0) == [ConfirmAcks(A, (1,))]
    assert sub.flush_acks() == [ConfirmAcks(A, (2,))]


def test_cumulative_ack(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.EXCLUSIVE)
    sub.available(10, 0)
    sub.ack(A, 1, [(4, 6)], True, sub.generation, 0)
    assert sub.floor == 7
    assert sub.flush_acks() == [PersistAcks(((0, 6),), 0)]
    sub.ack(
        A, 2, [(3, 3)], True, sub.generation, 0
    )  # below the floor: nothing to do, confirmed with the write under way done
    sub.persisted(0)
    assert sub.flush_acks() == [ConfirmAcks(A, (2,))]


def test_refused_acks(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(10, 0)
    for ranges, cumulative in [([(3, 3)], True), ([], False), ([(5, 4)], False), ([(9, 10)], False)]:
        (refused,) = sub.ack(A, 1, ranges, cumulative, sub.generation, 0)
        assert isinstance(refused, RefuseAck)
        assert isinstance(refused.error, InvalidArgument)
    assert not sub.has_acks_to_write
    assert sub.ack(B, 1, [(0, 0)], False, sub.generation, 0) == []  # nobody we know


def test_acks_of_messages_that_a_predecessor_delivered() -> None:
    sub = Subscription("s", floor=5, acked=[(8, 9)], end=20)
    add(sub, A, SubscriptionType.EXCLUSIVE, credit=0)
    sub.ack(A, 1, [(5, 6), (12, 12)], False, sub.generation, 0)
    assert sub.floor == 7
    assert sub.credit(A, 100, 0) == [Deliver(A, 7, 7, 0), Deliver(A, 10, 11, 0), Deliver(A, 13, 19, 0)]
    sub.validate()


def test_nack_redelivers_with_a_count_and_each_time_later(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(5, 0)
    assert sub.nack(A, [(1, 2), (4, 4), (3, 2)], 0, 0) == []
    assert sub.next_timer() == pytest.approx(0.1)
    assert sub.timer(0.11) == [Deliver(A, 1, 2, 1), Deliver(A, 4, 4, 1)]
    assert sub.nack(A, [(2, 2)], 0, 1.0) == []
    assert sub.timer(1.15) == []
    assert sub.timer(1.21) == [Deliver(A, 2, 2, 2)]
    assert sub.nack(B, [(0, 4)], 0, 2.0) == []
    for count in range(3, 20):
        sub.nack(A, [(2, 2)], 0, 100.0 * count)
        sub.timer(100.0 * count + 60.1)
        assert sub.held(A, 2, 2) == [(2, 2)], "a minute at most"


def test_nack_with_delay(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    sub.available(3, 0)
    assert sub.nack(A, [(1, 1)], 5.0, 10.0) == []
    assert sub.next_timer() == 15.0
    assert sub.timer(14.9) == []
    assert sub.timer(15.0) == [Deliver(A, 1, 1, 1)]
    assert sub.next_timer() == math.inf
    sub.nack(A, [(1, 1)], 5.0, 20.0)
    sub.ack(A, 1, [(1, 1)], False, sub.generation, 21.0)  # changed its mind
    assert sub.timer(25.0) == []


def test_neighbours_handed_back_one_by_one_are_one_range() -> None:
    sub = Subscription("s", 0, end=20_001)
    add(sub, A, SubscriptionType.SHARED, credit=20_000)
    for offset in range(20_000):
        sub.nack(A, [(offset, offset)], 3600.0, offset * 0.001)
    assert len(sub.delayed) < 300
    assert sub.credit(A, 1, 30.0) == [Deliver(A, 20_000, 20_000, 0)]
    sub.validate()


def test_p14_a_subscription_that_stands_still_says_so(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED, credit=30_000)
    sub.available(20_000, 0)
    sub.nack(A, [(o, o) for o in range(0, 16_000, 2)], 3600.0, 0)
    assert sub.is_crowded
    assert sub.available(20_001, 0) == []
    sub.ack(A, 1, [(0, 12_000)], False, 0, 1)
    assert not sub.is_crowded
    assert sub.held(A, 20_000, 20_000) == [(20_000, 20_000)], "there is room again"


async def messages_that_always_fail(make: type[Subscription]) -> None:
    """As many of them as the consumer has credit, before the good ones."""
    sub, now_s, good = make("s", 0, end=110), 0.0, set()
    effects = add(sub, A, SubscriptionType.SHARED, credit=10)
    for _ in range(1_000):
        delivered = [o for e in effects if isinstance(e, Deliver) for o in range(e.first, e.last + 1)]
        effects = []
        for offset in delivered:
            now_s += 0.001
            if offset < 10:
                effects += sub.nack(A, [(offset, offset)], 0.0, now_s)
            else:
                good.add(offset)
                effects += sub.ack(A, offset, [(offset, offset)], False, sub.generation, now_s)
            effects += sub.credit(A, 1, now_s)
        if not effects and sub.next_timer() < math.inf:
            now_s = sub.next_timer()
            effects = sub.timer(now_s)
        sub.validate()
    with promise("messages that always fail hold up no others"):
        assert good == set(range(10, 110))
    assert now_s > 600, "they are tried ever more rarely"


async def test_p15_messages_that_always_fail_hold_up_no_others() -> None:
    await holds_and_mutant_fails(messages_that_always_fail, Subscription, "redelivery.RedeliversAtOnce")


async def a_broker_goes(make: type[Subscription]) -> None:
    sub = make("s", 0, end=10)
    add(sub, A, SubscriptionType.SHARED)
    for n in range(3):
        sub.nack(A, [(2, 3)], 0.0, 10.0 * n)
        sub.timer(10.0 * n + 5)
    sub.nack(A, [(5, 5)], 0.0, 40.0)
    sub.ack(A, 1, [(3, 3)], False, 0, 41.0)
    (write,) = sub.flush_acks()
    assert isinstance(write, PersistAcks)
    assert write.ranges == ((3, 3),)
    with promise("how often a message failed outlives the broker"):
        assert write.redelivered == ((2, 2, 3), (5, 5, 1))
        successor = make("s", 0, [(3, 3)], 0, 0, 10, write.redelivered)
        assert add(successor, A, SubscriptionType.SHARED) == [
            Deliver(A, 0, 1, 0),
            Deliver(A, 2, 2, 3),
            Deliver(A, 4, 4, 0),
            Deliver(A, 5, 5, 1),
            Deliver(A, 6, 9, 0),
        ]
    assert sub.persisted(0) == [ConfirmAcks(A, (1,))]
    assert not sub.has_acks_to_write
    successor.validate()
    sub.validate()


async def test_p15_how_often_a_message_failed_outlives_the_broker() -> None:
    await holds_and_mutant_fails(a_broker_goes, Subscription, "redelivery.CountsInMemory")


def test_p15_counts_go_with_the_next_write_when_one_fails_or_is_full() -> None:
    sub = Subscription("s", 0, end=1000)
    add(sub, A, SubscriptionType.SHARED, credit=2000)
    sub.nack(A, [(o, o) for o in range(0, 400, 2)], 0.0, 0.0)
    (first,) = sub.flush_acks()
    assert isinstance(first, PersistAcks)
    assert len(first.redelivered) == 100
    sub.timer(1.0)
    sub.nack(A, [(0, 0)], 0.0, 2.0)
    sub.ack(A, 1, [(2, 2)], False, 0, 2.0)
    sub.persist_refused(0)
    written: dict[int, int] = {}
    while writes := sub.flush_acks():
        (write,) = writes
        assert isinstance(write, PersistAcks)
        written |= {o: n for a, b, n in write.redelivered for o in range(a, b + 1)}
        sub.persisted(0)
    assert written == {0: 2} | dict.fromkeys(range(4, 400, 2), 1)
    sub.validate()


async def what_waits_at_a_consumer(make: type[Subscription]) -> None:
    """It works off each message in time; the last waits longer than the timeout until its turn comes."""
    sub = make("s", 0, end=30)
    add(sub, A, SubscriptionType.EXCLUSIVE, credit=100, ack_timeout_s=2.0)
    with promise("a message that waits at its consumer keeps its place"):
        for offset in range(30):
            now_s = offset * 1.0
            assert sub.received(A, [(offset, offset)], now_s) == []
            assert sub.timer(now_s) == []
            assert sub.ack(A, offset, [(offset, offset)], False, 0, now_s + 0.9) == []
            assert sub.timer(now_s + 0.95) == []
    assert sub.floor == 30
    sub.validate()


async def test_p35_a_message_that_waits_at_its_consumer_keeps_its_place() -> None:
    await holds_and_mutant_fails(what_waits_at_a_consumer, Subscription, "redelivery.TimesWhatWaits")


def test_p35_the_ack_timeout_begins_when_the_user_receives(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED, credit=2, ack_timeout_s=10)
    sub.available(4, 1.0)
    assert sub.next_timer() == math.inf
    sub.received(A, [(0, 1)], 1.0)
    sub.received(A, [(0, 1)], 2.0)  # told twice: the first time counts
    assert sub.next_timer() == 11.0
    assert add(sub, B, SubscriptionType.SHARED, credit=2, ack_timeout_s=20, now_s=5.0) == [Deliver(B, 2, 3, 0)]
    sub.received(B, [(0, 3)], 5.0)  # 0 and 1 are not out with it
    sub.ack(A, 1, [(0, 0)], False, sub.generation, 6.0)
    assert sub.timer(11.0) == []  # waits for credit
    assert sub.held(A, 0, 3) == []
    assert sub.credit(B, 1, 12.0) == [Deliver(B, 1, 1, 1)]
    assert sub.next_timer() == 25.0
    # Late, from the one that had it before: still an acknowledgement.
    sub.ack(A, 2, [(1, 1)], False, sub.generation, 13.0)
    assert sub.held(B, 0, 3) == [(2, 3)]


def test_p35_a_consumer_that_does_nothing_any_more_gives_back_what_waits_there(sub: Subscription) -> None:
    sub.available(10, 0.0)
    add(sub, A, SubscriptionType.SHARED, credit=10, ack_timeout_s=5)
    sub.received(A, [(0, 0)], 1.0)
    sub.ack(A, 1, [(0, 0)], False, 0, 2.0)
    sub.received(A, [(1, 1)], 2.0)
    add(sub, B, SubscriptionType.SHARED, credit=100, now_s=3.0)
    assert sub.timer(7.0) == [Deliver(B, 1, 9, 1)], "it received 1 and was not heard of since"
    sub.received(B, [(1, 1)], 7.0)
    assert sub.next_timer() == math.inf, "without a timeout nothing is due"


def test_what_a_consumer_leaves_goes_before_new_messages(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.FAILOVER, credit=4)
    add(sub, B, SubscriptionType.FAILOVER, credit=4)
    sub.available(10, 0)
    assert sub.remove_consumer(A, 0) == [SetActive(B, True), Deliver(B, 0, 3, 1)]


def test_trim_counts_as_acknowledged(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.EXCLUSIVE, credit=4)
    sub.available(10, 0)
    sub.ack(A, 1, [(6, 6)], False, sub.generation, 0)
    sub.trim(6, 0)
    assert (sub.floor, sub.read_position, sub.unacked) == (7, 7, 0)
    assert sub.credit(A, 10, 0) == [Deliver(A, 7, 9, 0)]
    sub.trim(20, 0)
    assert (sub.floor, sub.end) == (20, 20)
    assert Subscription("t", floor=3, log_start=9).read_position == 9


def test_reset_closes_consumers_and_starts_anew(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED)
    add(sub, B, SubscriptionType.SHARED)
    sub.available(10, 0)
    sub.ack(A, 1, [(0, 4)], False, sub.generation, 0)
    sub.flush_acks()
    error = NotOwner("moved")
    assert sub.reset(2, [], 1, error) == [Close(A, error), Close(B, error)]
    assert sub.persisted(0) == []  # an acknowledgement of the old generation
    sub.persist_refused(0)
    assert not sub.has_acks_to_write
    assert add(sub, A, SubscriptionType.EXCLUSIVE) == [Deliver(A, 2, 9, 0)]


def test_close_leaves_unconfirmed_acks_unconfirmed(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.EXCLUSIVE)
    sub.available(4, 0)
    sub.ack(A, 1, [(0, 0)], False, sub.generation, 0)
    sub.flush_acks()
    error = NotOwner("gone")
    assert sub.close(error) == [Close(A, error)]
    assert sub.persisted(0) == []
    assert sub.type is None


def test_a_bounded_number_of_holes_stops_new_deliveries(sub: Subscription, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "RANGES_MAX", 3)
    add(sub, A, SubscriptionType.SHARED, credit=100)
    sub.available(6, 0)
    for offset in (1, 3, 5):
        sub.ack(A, offset, [(offset, offset)], False, sub.generation, 0)
    assert sub.available(10, 0) == []
    assert sub.ack(A, 9, [(0, 5)], False, sub.generation, 0) == [Deliver(A, 6, 9, 0)]


def test_acks_wait_while_the_cursor_has_no_room_for_their_holes(
    sub: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor_writes, "CURSOR_RANGES_MAX", 3)
    add(sub, A, SubscriptionType.SHARED, credit=100)
    sub.available(10, 0)
    sub.ack(A, 1, [(1, 1), (3, 3), (5, 5)], False, sub.generation, 0)
    assert sub.flush_acks() == []
    sub.ack(A, 2, [(2, 2), (7, 7)], False, sub.generation, 0)
    assert sub.flush_acks() == []
    sub.ack(A, 3, [(0, 0)], False, sub.generation, 0)
    assert sub.flush_acks() == [PersistAcks(((0, 3), (5, 5), (7, 7)), 0)]


def test_a_write_of_acks_has_no_more_ranges_than_the_cursor(sub: Subscription) -> None:
    add(sub, A, SubscriptionType.SHARED, credit=100)
    sub.available(20, 0)
    sub.ack(A, 1, [(o, o) for o in range(1, 20, 2)], False, sub.generation, 0)
    sub.flush_acks()
    sub.persisted(0)
    sub.ack(A, 2, [(o, o) for o in range(2, 20, 2)], False, sub.generation, 0)
    assert sub.flush_acks() == [PersistAcks(((1, 19),), 0)]
    sub.persisted(0)
    sub.ack(A, 3, [(0, 0)], False, sub.generation, 0)
    assert sub.flush_acks() == [PersistAcks(((0, 19),), 0)]


def test_p10_a_write_never_has_more_ranges_than_a_cursor_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor_writes, "CURSOR_RANGES_MAX", 10)
    sub = Subscription("s", 0, end=100)
    add(sub, A, SubscriptionType.SHARED)
    sub.ack(A, 1, [(0, 0), (3, 3)], False, 0, 0)
    sub.ack(A, 2, [(5 + 2 * i, 5 + 2 * i) for i in range(9)], False, 0, 0)
    sub.ack(A, 3, [(1, 1)], False, 0, 0)
    assert sub.flush_acks() == [PersistAcks(((0, 1),), 0)], "there is room for one range less: this makes one"
    assert sub.persisted(0) == []
    assert sub.flush_acks() == []
    sub.ack(A, 4, [(2, 2)], False, 0, 0)
    (write,) = sub.flush_acks()
    assert isinstance(write, PersistAcks)
    assert write.ranges == ((2, 3), *((5 + 2 * i, 5 + 2 * i) for i in range(9)))
    assert len(write.ranges) <= 10
    assert sub.persisted(0) == [ConfirmAcks(A, (1, 2, 3, 4))]
    sub.validate()


async def acknowledgements_of_another_generation_count_for_nothing(make: type[Subscription]) -> None:
    sub = make("s", floor=0, generation=4)
    add(sub, A, SubscriptionType.EXCLUSIVE)
    sub.available(10, 0)
    assert sub.ack(A, 1, [(0, 2)], False, 4, 0) == []
    sub.reset(0, [], 6, NotOwner("moved"))
    add(sub, A, SubscriptionType.EXCLUSIVE)
    for cumulative in (False, True):
        with promise("an acknowledgement from before a seek counts for nothing"):
            effects = sub.ack(A, 2, [(5, 5)], cumulative, 4, 0)
            assert [type(e.error) for e in effects if isinstance(e, RefuseAck)] == [StaleAck]
            assert (sub.floor, sub.backlog(10)) == (0, 10)
    assert sub.flush_acks() == []
    sub.validate()


async def test_p7_acknowledgements_of_another_generation_count_for_nothing() -> None:
    await holds_and_mutant_fails(
        acknowledgements_of_another_generation_count_for_nothing, Subscription, "incarnations.TakesAcksOfAnyGeneration"
    )
