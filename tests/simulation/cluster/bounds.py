"""The bounds of the product, looked at whenever what they bound grows.

Guarantee: after each call that may fill one of ``BOUNDS`` it is held against what the product itself says, by its constants and settings;
cores that say what must hold of them (``validate``) are asked after every ``EVERY``-th call that changes them.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from stele.services.raft import engine as engine_module
from stele.services.raft import journal, lanes, progress, proposals, read_index, replication
from stele.services.raft.engine import Engine
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.rpc.streams import RequestStream
from tests.simulation.cluster.ambient import resident

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

EVERY: Final = 40
ENTRY_BYTES_MAX: Final = 1 << 20  # of a log's entry, whatever a datanode's setting
STREAMS_MAX: Final = 64  # of producers at one broker in a run


@dataclass(frozen=True, slots=True)
class Bound:
    """``size`` is at most ``limit`` after each of ``methods`` of ``owner``."""

    what: str
    owner: type
    methods: tuple[str, ...]
    size: Callable[[Any], float]
    limit: Callable[[Any], float]


BOUNDS: Final = (
    # What is full takes nothing more; what filled it last may be one piece of the largest size beyond.
    Bound("bytes of a replica that wait for its disk", journal.Journal, ("append",), lambda j: j.unsynced_bytes,
          lambda _: journal.UNSYNCED_BYTES_MAX + replication.BATCH_BYTES_MAX + 2 * ENTRY_BYTES_MAX),
    Bound("bytes that wait for one disk", journal.Journal, ("append",), lambda j: j._on_disk.total,
          lambda _: journal.DISK_UNSYNCED_BYTES_MAX + 16 * (replication.BATCH_BYTES_MAX + 2 * ENTRY_BYTES_MAX)),
    Bound("bytes of a log kept in memory", journal.Journal, ("_trim",), lambda j: j._tail_bytes,
          lambda j: j._tail_bytes_max + j.unsynced_bytes),
    Bound("bytes in flight to a follower", progress.Progress, ("on_sent",), lambda p: p.inflight_bytes,
          lambda _: progress.INFLIGHT_BYTES_MAX + ENTRY_BYTES_MAX),
    Bound("requests in flight to a follower", progress.Progress, ("on_sent",), lambda p: len(p.inflight),
          lambda _: progress.INFLIGHT_REQUESTS_MAX),
    Bound("bytes that wait for a link", lanes.Lanes, ("put",), lambda q: q._bytes, lambda _: lanes.QUEUE_BYTES_MAX),
    Bound("entries that wait for a link", lanes.Lanes, ("put",), lambda q: q._bulk_bytes,
          lambda _: lanes.BULK_BYTES_MAX + progress.INFLIGHT_BYTES_MAX + 2 * ENTRY_BYTES_MAX),
    Bound("proposals of a group", proposals.Proposals, ("add",), len, lambda _: proposals.PENDING_MAX),
    Bound("bytes of a group's proposals", proposals.Proposals, ("add",), lambda p: p._bytes,
          lambda _: proposals.PENDING_BYTES_MAX + ENTRY_BYTES_MAX),
    Bound("reads of a group", read_index.ReadIndex, ("add",), len, lambda _: engine_module.READS_MAX),
    Bound("requests of an append stream", AppendStream, ("_start",), lambda s: s._pump.unanswered, lambda s: s._requests_max),
    Bound("bytes of an append stream", AppendStream, ("_start",), lambda s: s._bytes, lambda s: s._bytes_max + ENTRY_BYTES_MAX),
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
    Bound("messages that wait for a consumer", PartitionConsumer, ("_receive",), lambda c: c.buffer.buffered, lambda c: c._window),
)  # fmt: skip

VALIDATED: Final[tuple[tuple[type, tuple[str, ...], Callable[[Any], object]], ...]] = (
    (Engine, ("propose", "receive"), Engine.validate),
    (PartitionState, ("apply",), PartitionState.validate),
    (Pipeline, ("offer", "answered", "failed"), Pipeline.validate),
    (Subscription, ("ack", "credit", "available"), Subscription.validate),
    (DeliveryBuffer, ("delivered",), DeliveryBuffer.validate),
)


class Bounds:
    def __init__(self, world: World) -> None:
        self._world = world
        self.looks: Counter[str] = Counter()  # at each bound
        self.highest: dict[str, float] = {}  # of each: the most that was ever there
        self.nearest: dict[str, float] = {}  # of each: the largest part of what may be there
        self.asked: Counter[str] = Counter()  # cores that were validated

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        replaced: list[tuple[type, str, Any]] = []
        try:
            for bound in BOUNDS:
                for method in bound.methods:
                    self._wrap(bound.owner, method, functools.partial(self.look, bound), replaced)
            for owner, methods, validate in VALIDATED:
                for method in methods:
                    self._wrap(owner, method, self._now_and_then(owner, validate), replaced)
            yield
        finally:
            for owner, method, original in reversed(replaced):
                setattr(owner, method, original)

    def look(self, bound: Bound, of: Any) -> None:
        self.looks[bound.what] += 1
        size = bound.size(of)
        if size > self.highest.get(bound.what, -1):
            self.highest[bound.what] = size
        limit = bound.limit(of)
        if size > limit * self.nearest.get(bound.what, -1.0):
            self.nearest[bound.what] = size / limit
        if size > limit:
            host = getattr(resident(), "host", "")
            self._world.violated("bound", f"{bound.what} at {host}: {size:g}, bound {limit:g}")

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
            self._world.violated("invariant", f"{owner.__name__} at {getattr(resident(), 'host', '')}: {error}")

    @staticmethod
    def _wrap(owner: type, method: str, look: Callable[[Any], None], replaced: list[tuple[type, str, Any]]) -> None:
        original = getattr(owner, method)

        @functools.wraps(original)
        def looked_at(self: Any, *given: Any, **named: Any) -> Any:
            result = original(self, *given, **named)
            look(self)
            return result

        replaced.append((owner, method, original))
        setattr(owner, method, looked_at)
