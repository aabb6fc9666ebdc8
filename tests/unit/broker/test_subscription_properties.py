"""The delivery core under random events: everything is delivered and acknowledged in the end, nothing is with two consumers at once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from stele.services.errors import ConsumerBusy, NotOwner


class SubscriptionMachine(RuleBasedStateMachine):
    @initialize(floor=st.integers(0, 5), acked=st.sets(st.integers(0, 12), max_size=5))
    def begin(self, floor: int, acked: set[int]) -> None:
        acked = {o for o in acked if o > floor}
        self.end = 14
        self.sub = Subscription("s", floor, [(o, o) for o in sorted(acked)], end=self.end)
        self.durable = set(range(floor)) | acked  # what a successor would find
        self.asked: dict[tuple[int, int], set[int]] = {}  # (consumer, request) → offsets whose durability it waits for
        self.holding: dict[int, dict[int, int]] = {}  # consumer → offset → redelivery count
        self.active: dict[int, bool] = {}
        self.credit: dict[int, int] = {}
        self.writing: PersistAcks | None = None
        self.delivered_before: dict[int, int] = {}
        self.generation = 0
        self.now_s = 0.0
        self.ids = 0
        self.highest_new = -1

    def carry_out(self, effects: list[SubscriptionEffect]) -> None:
        for effect in effects:
            match effect:
                case Deliver(consumer, first, last, count):
                    for offset in range(first, last + 1):
                        # messages of timed-out consumers are taken from the model here: the core says who holds what
                        for other, held in self.holding.items():
                            timed_out = not self.sub.held(other, offset, offset) or (
                                other == consumer and count > held.get(offset, 0)
                            )
                            if offset in held and timed_out:
                                del held[offset]
                        assert not any(offset in held for held in self.holding.values()), f"{offset} is out twice"
                        assert offset < self.end
                        assert offset not in self.durable
                        if offset in self.delivered_before:
                            assert count > self.delivered_before[offset]
                        else:
                            assert count == 0
                            if self.sub.type is not SubscriptionType.SHARED:
                                assert offset > self.highest_new, "new messages come in order"
                                assert not len(self.sub.waiting), "after everything that comes again"
                            self.highest_new = max(offset, self.highest_new)
                        self.delivered_before[offset] = count
                        self.holding[consumer][offset] = count
                        self.credit[consumer] -= 1
                        assert self.credit[consumer] >= 0, "more than the credit"
                        assert self.active[consumer]
                case ConfirmAcks(consumer, request_ids):
                    for request_id in request_ids:
                        assert self.asked.pop((consumer, request_id)) <= self.durable, "confirmed before it was durable"
                case SetActive(consumer, active):
                    assert active
                    assert not self.active[consumer]
                    self.active[consumer] = active
                case Close(consumer, _):
                    self.forget(consumer)
                case RefuseAck() | PersistAcks():
                    raise AssertionError(effect)

    def forget(self, consumer: int) -> None:
        del self.holding[consumer], self.active[consumer], self.credit[consumer]
        self.asked = {k: v for k, v in self.asked.items() if k[0] != consumer}

    @rule(kind=st.sampled_from(SubscriptionType), credit=st.integers(0, 6), ack_timeout_s=st.sampled_from([0, 0, 5]))
    def arrive(self, kind: SubscriptionType, credit: int, ack_timeout_s: int) -> None:
        self.ids += 1
        id = self.ids
        if len(self.holding) >= 3:
            return
        self.holding[id], self.credit[id] = {}, credit
        self.active[id] = kind is SubscriptionType.SHARED or len(self.holding) == 1
        try:
            self.carry_out(self.sub.add_consumer(id, f"c{id}", kind, credit, ack_timeout_s, self.now_s))
        except ConsumerBusy:
            assert len(self.holding) > 1
            self.forget(id)

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.holding)))
        kind = self.sub.type
        left = set(self.holding[id])
        self.forget(id)
        effects = self.sub.remove_consumer(id, self.now_s)
        if kind is SubscriptionType.FAILOVER:
            again = [o for e in effects if isinstance(e, Deliver) for o in range(e.first, e.last + 1) if o in left]
            assert again == sorted(again)
        self.carry_out(effects)

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), messages=st.integers(1, 6))
    def give_credit(self, data: st.DataObject, messages: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.holding)))
        self.credit[id] += messages
        self.carry_out(self.sub.credit(id, messages, self.now_s))

    @rule(more=st.integers(-3, 6))
    def append(self, more: int) -> None:
        end = self.end + more
        self.end = max(end, self.end)
        self.carry_out(self.sub.available(end, self.now_s))

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), cumulative=st.booleans())
    def ack(self, data: st.DataObject, cumulative: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.holding)))
        cumulative = cumulative and self.sub.type is not SubscriptionType.SHARED
        offsets = data.draw(st.sets(st.integers(0, self.end - 1), min_size=1, max_size=4))
        if self.holding[id] and data.draw(st.booleans()):
            offsets = set(data.draw(st.sets(st.sampled_from(sorted(self.holding[id])), min_size=1)))
        if cumulative:
            offsets = set(range(max(offsets) + 1))
            ranges = [(max(offsets), max(offsets))]
        else:
            ranges = [(o, o) for o in sorted(offsets)]
        self.ids += 1
        self.asked[(id, self.ids)] = offsets
        for held in self.holding.values():
            for offset in offsets:
                held.pop(offset, None)
        self.carry_out(self.sub.ack(id, self.ids, ranges, cumulative, self.generation, self.now_s))

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), delay_s=st.sampled_from([0, 0, 3]))
    def nack(self, data: st.DataObject, delay_s: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.holding)))
        if self.holding[id]:
            offset = data.draw(st.sampled_from(sorted(self.holding[id])))
            del self.holding[id][offset]
            self.carry_out(self.sub.nack(id, [(offset, offset)], delay_s, self.now_s))

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.holding)))
        if self.holding[id]:
            offset = data.draw(st.sampled_from(sorted(self.holding[id])))
            self.carry_out(self.sub.received(id, [(offset, offset)], self.now_s))

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds
        self.carry_out(self.sub.timer(self.now_s))

    @rule()
    def flush(self) -> None:
        for effect in self.sub.flush_acks():
            if isinstance(effect, PersistAcks):
                assert self.writing is None
                self.writing = effect
            else:
                self.carry_out([effect])

    @precondition(lambda self: self.writing is not None)
    @rule(ok=st.booleans())
    def written(self, ok: bool) -> None:
        writing, self.writing = self.writing, None
        assert writing is not None
        if ok:
            if writing.generation == self.generation:
                self.durable |= {o for a, b in writing.ranges for o in range(a, b + 1)}
            self.carry_out(self.sub.persisted(writing.generation))
        else:
            self.sub.persist_refused(writing.generation)

    @precondition(lambda self: self.writing is None)
    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        floor = data.draw(st.integers(0, self.end))
        self.generation += 1
        self.carry_out(self.sub.reset(floor, [], self.generation, NotOwner("moved")))
        assert not self.holding
        self.durable = set(range(floor))
        self.delivered_before = {}
        self.highest_new = -1

    @invariant()
    def is_valid(self) -> None:
        if hasattr(self, "sub"):
            self.sub.validate()
            for id, held in self.holding.items():
                for offset in [o for o in held if not self.sub.held(id, o, o)]:
                    del held[offset]  # its time ran out
                assert len(held) == sum(b - a + 1 for a, b in self.sub.held(id, 0, self.end))

    def teardown(self) -> None:
        if not hasattr(self, "sub"):
            return
        for id in list(self.holding):
            self.forget(id)
            self.carry_out(self.sub.remove_consumer(id, self.now_s))
        if self.writing is not None:
            self.written(ok=False)
        self.now_s += 100
        self.carry_out(self.sub.timer(self.now_s))
        self.arrive(kind=SubscriptionType.EXCLUSIVE, credit=10_000, ack_timeout_s=0)
        (id,) = self.holding
        held = sorted(self.holding[id])
        if held:
            self.ids += 1
            self.asked[(id, self.ids)] = set(held)
            self.carry_out(self.sub.ack(id, self.ids, [(o, o) for o in held], False, self.generation, self.now_s))
        while self.sub.has_acks_to_write:
            self.flush()
            if self.writing is not None:
                self.written(ok=True)
        self.sub.validate()
        assert self.sub.floor == self.end, "everything was delivered and acknowledged"
        assert self.durable == set(range(self.end)), "and all of it is durable"
        assert not self.asked


TestSubscriptionMachine = SubscriptionMachine.TestCase
TestSubscriptionMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
