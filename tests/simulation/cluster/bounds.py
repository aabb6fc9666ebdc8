"""The bounds of the product, looked at whenever what they bound grows.

Guarantee: after each call that may fill one of ``BOUNDS`` it is held against what the product itself says, by its constants and settings;
cores that say what must hold of them (``validate``) are asked after every ``EVERY``-th call that changes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stele.broker import consumer as broker_consumer
from stele.broker import subscription as broker_subscription
from stele.broker.cache import BatchCache
from stele.broker.consumer import ConsumerStream
from stele.broker.pipeline import Pipeline
from stele.broker.produce import ProduceSession
from stele.broker.produce_budget import ProduceBudget
from stele.broker.subscription import Subscription
from stele.buffer_limit import BufferLimit
from stele.datanode.append import AppendStream
from stele.datanode.partition import PartitionState
from stele.delivery_buffer import DeliveryBuffer
from stele.partition_consumer import PartitionConsumer
from stele.services.raft.engine import Engine
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.streams import RequestStream
from tests.simulation import bounds
from tests.simulation.bounds import Bound
from tests.simulation.cluster.ambient import resident

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

EVERY: Final = 40
STREAMS_MAX: Final = 64  # of producers at one broker in a run


def _may_wait(consumer: PartitionConsumer) -> int:
    """Where its topic was given more partitions, messages for which it gave credit before may be on their way."""
    return consumer._window - min(0, consumer._credit_to_return)


BOUNDS: Final = (
    *bounds.REPLICA,
    Bound("requests of an append stream", AppendStream, ("_start",), lambda s: s._pump.unanswered, lambda s: s._requests_max),
    Bound("bytes of an append stream", AppendStream, ("_start",), lambda s: s._bytes, lambda s: s._bytes_max + bounds.ENTRY_BYTES_MAX),
    Bound("subscriptions of a partition", PartitionState, ("apply",), lambda p: len(p._cursors), lambda p: p._subscriptions_max),
    Bound("bytes of a producer's stream", ProduceSession, ("charge",), lambda s: s._unanswered_bytes,
          lambda s: s._credit_bytes if s._pump.unanswered > 1 else MESSAGE_BYTES_MAX),
    Bound("bytes of all producers of a broker", ProduceBudget, ("take",), lambda b: b.used_bytes,
          lambda b: b.bytes_max + STREAMS_MAX * MESSAGE_BYTES_MAX),
    Bound("appends in flight of a partition", Pipeline, ("offer", "recovered", "answered"), lambda p: len(p._inflight),
          lambda p: p.inflight_max),
    Bound("acknowledgements of a consumer", ConsumerStream, ("begin_ack",),
          lambda s: s._unconfirmed if s._closed is None else 0,  # of one that is closed they are dropped
          lambda _: broker_consumer.UNCONFIRMED_MAX),
    Bound("credit of a consumer", Subscription, ("credit",), lambda s: max((c.credit for c in s.consumers.values()), default=0),
          lambda _: broker_subscription.CREDIT_MESSAGES_MAX),
    Bound("bytes of a broker's cache", BatchCache, ("put",), lambda c: c.bytes, lambda c: c._bytes_max),
    Bound("requests of a stream", RequestStream, ("send",), lambda s: len(s._unsent) + len(s._sent), lambda s: s._requests_max),
    Bound("bytes of a client's messages", BufferLimit, ("_use",), lambda b: b.used_bytes, lambda b: max(b.bytes_max, MESSAGE_BYTES_MAX)),
    Bound("messages that wait for a consumer", PartitionConsumer, ("_receive",), lambda c: c.buffer.buffered, _may_wait),
)  # fmt: skip

VALIDATED: Final[tuple[tuple[type, tuple[str, ...], Callable[[Any], object]], ...]] = (
    (Engine, ("propose", "receive"), Engine.validate),
    (PartitionState, ("apply",), PartitionState.validate),
    (Pipeline, ("offer", "answered", "failed"), Pipeline.validate),
    (Subscription, ("ack", "credit", "available"), Subscription.validate),
    (DeliveryBuffer, ("delivered",), DeliveryBuffer.validate),
)


class Bounds(bounds.Bounds):
    def __init__(self, world: World) -> None:
        super().__init__(BOUNDS, world.violated, lambda: getattr(resident(), "host", ""))
        self.asked: Counter[str] = Counter()  # cores that were validated

    def _watch(self, replaced: list[tuple[type, str, Any]]) -> None:
        super()._watch(replaced)
        for owner, methods, validate in VALIDATED:
            for method in methods:
                self._wrap(owner, method, self._now_and_then(owner, validate), replaced)

    def _now_and_then(self, owner: type, validate: Callable[[Any], object]) -> Callable[[Any], None]:
        calls = 0

        def look(of: Any) -> None:
            nonlocal calls
            calls += 1
            if calls % EVERY == 0:
                self.ask(owner, validate, of)

        return look

    def ask(self, owner: type, validate: Callable[[Any], object], of: Any) -> None:
        self.asked[owner.__name__] += 1
        try:
            validate(of)
        except AssertionError as error:
            self._violated("invariant", f"{owner.__name__} at {self._where()}: {error}")
