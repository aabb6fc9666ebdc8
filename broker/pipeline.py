"""Appending the batches of one partition, in order, over leaders that come and go.  Pure: no clock, socket or task here.

Guarantee: batches of one producer are stored in the order in which they were offered, and answered in that order.  A batch whose outcome is
unknown is sent again until it is known, which is safe for producers with an id: the partition recognises the retry.  A batch without one
(``producer_id`` 0) is never sent again after an unknown outcome: its sender is told *indefinite*.

Batches that wait while others are in flight are joined into one append. When an append fails in a way that a new
leader mends, nothing more is sent until everything in flight has been answered; then ``Recover`` asks the shell for
the leader, and after ``recovered`` all that is unanswered goes out again from the oldest on. A gap that a producer's
own earlier batch will fill is waited for; any other is its answer.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stele.services.errors import (
    BatchCorrupt,
    ConnectionBroken,
    DiskFull,
    Fenced,
    LogDamaged,
    MessageTooLarge,
    NotOwner,
    NotReady,
    OutOfOrderSequence,
    SteleError,
    Timeout,
)

APPEND_BYTES_MAX = (1 << 20) - 64  # of the batches in one append: with its head it fits a log entry
APPEND_BATCHES_MAX = 512
PRODUCER_INFLIGHT_MAX = 64  # batches: as many as the partition remembers of one producer
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class StoredAt:
    base_offset: int
    duplicate: bool = False


Result = StoredAt | SteleError


@dataclass(frozen=True, slots=True)
class Send:
    """Append these; answer with ``answered`` or ``failed``.  Sends reach the leader in the order of these effects."""

    request_id: int
    batches: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Respond:
    token: object
    result: Result


@dataclass(frozen=True, slots=True)
class Recover:
    """Find the leader, then call ``recovered``."""

    error: SteleError


@dataclass(frozen=True, slots=True)
class Deposed:
    """A higher owner epoch was seen: this pipeline is closed (R5.10)."""

    error: SteleError


PipelineEffect = Send | Respond | Recover | Deposed


@dataclass(slots=True, eq=False)
class _Batch:
    data: bytes
    producer_id: int
    token: object
    deadline_s: float
    uncertain: bool = False  # an attempt whose outcome is unknown may have stored it
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    batches: tuple[_Batch, ...]
    sent_s: float


@dataclass(slots=True)
class Pipeline:
    """See the module's docstring."""

    inflight_max: int
    deadline_s: float = DEADLINE_S
    append_bytes_max: int = APPEND_BYTES_MAX
    _order: deque[_Batch] = field(default_factory=deque)  # everything that is not answered yet
    _unsent: deque[_Batch] = field(default_factory=deque)
    _inflight: dict[int, _Request] = field(default_factory=dict)  # in the order of sending
    _out: Counter[int] = field(default_factory=Counter)  # producer → its batches in flight
    _last_request: int = 0
    _flowing: bool = True  # False: until ``recovered``
    _recovering: bool = False
    _trouble: SteleError | None = None  # what the last failure was
    _closed: SteleError | None = None

    @classmethod
    def unopened(cls, inflight_max: int, deadline_s: float = DEADLINE_S) -> Pipeline:
        """One that sends nothing before the first ``recovered``."""
        return cls(inflight_max, deadline_s, _flowing=False, _recovering=True)

    # --- events ---------------------------------------------------------------------------------------------------

    def offer(self, batch: bytes, producer_id: int, token: object, now_s: float) -> list[PipelineEffect]:
        if self._closed is not None:
            return [Respond(token, self._closed)]
        item = _Batch(batch, producer_id, token, now_s + self.deadline_s)
        self._order.append(item)
        self._unsent.append(item)
        return self._pump(now_s)

    def refuse(self, token: object, error: SteleError, now_s: float) -> list[PipelineEffect]:
        """Answers with ``error`` when everything offered before is answered."""
        self._order.append(_Batch(b"", 0, token, math.inf, result=error))
        return self._settle(now_s)

    def answered(self, request_id: int, results: Sequence[Result], now_s: float) -> list[PipelineEffect]:
        """One result per batch, in order.  Results of a request that was abandoned are ignored."""
        request = self._inflight.get(request_id)
        if request is None:
            return []
        if len(results) != len(request.batches):
            error = SteleError(f"{len(results)} results for {len(request.batches)} batches")
            return self.failed(request_id, error, now_s)
        self._remove(request_id)
        effects: list[PipelineEffect] = []
        for item, result in zip(request.batches, results, strict=True):
            if item.result is not None:
                continue
            if isinstance(result, StoredAt):
                item.result = result
            elif isinstance(result, Fenced):
                effects += self._depose(result)
                self._give_up(item, self._closed or result)
            elif isinstance(result, OutOfOrderSequence) and self._waits_for_earlier(item):
                self._interrupt(result)
            elif _is_mended(result):
                self._requeue(item, result)
            else:
                self._give_up(item, result)
        return effects + self._settle(now_s)

    def failed(self, request_id: int, error: SteleError, now_s: float) -> list[PipelineEffect]:
        """The whole append failed, or its outcome is unknown."""
        if request_id not in self._inflight:
            return []
        request = self._remove(request_id)
        effects: list[PipelineEffect] = []
        if isinstance(error, Fenced):
            effects += self._depose(error)
            error = self._closed or error
        too_large = isinstance(error, MessageTooLarge) and len(request.batches) > 1
        if too_large:
            self._shrink(request, error)
        for item in request.batches:
            if item.result is not None:
                continue
            if too_large or _is_mended(error):
                self._requeue(item, error)
            else:
                self._give_up(item, error)
        return effects + self._settle(now_s)

    def abandon(self, error: SteleError, now_s: float) -> list[PipelineEffect]:
        """No answer is awaited any more for what is in flight; its outcome is unknown."""
        effects: list[PipelineEffect] = []
        for request_id in list(self._inflight):
            effects += self.failed(request_id, error, now_s)
        return effects

    def recovered(self, now_s: float) -> list[PipelineEffect]:
        self._recovering, self._flowing = False, True
        return self._pump(now_s)

    def timer(self, now_s: float) -> list[PipelineEffect]:
        """Ends what has passed its deadline."""
        for item in self._order:
            if item.result is not None:
                continue
            if item.deadline_s > now_s:
                break
            if item.uncertain or any(item in r.batches for r in self._inflight.values()):
                item.result = Timeout(
                    f"no answer from the partition's leader within {self.deadline_s:g} s", timeout_s=self.deadline_s
                )
            else:
                why = f": {self._trouble}" if self._trouble is not None else ""
                item.result = NotReady(f"the partition could not be written for {self.deadline_s:g} s{why}")
        return self._settle(now_s)

    def close(self, error: SteleError, now_s: float) -> list[PipelineEffect]:
        """Takes nothing more.  What is in flight may still be answered; the rest is refused with ``error``."""
        if self._closed is None:
            self._closed = error
            inflight = {id(item) for r in self._inflight.values() for item in r.batches}
            for item in self._order:
                if item.result is None and id(item) not in inflight:
                    self._give_up(item, error)
        return self._settle(now_s)

    # --- questions ------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return not self._order and not self._inflight

    def oldest_sent_s(self) -> float | None:
        """When the oldest append in flight was sent."""
        return next((r.sent_s for r in self._inflight.values()), None)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _pump(self, now_s: float) -> list[PipelineEffect]:
        effects: list[PipelineEffect] = []
        while self._flowing and len(self._inflight) < self.inflight_max:
            items = self._join()
            if not items:
                break
            self._last_request += 1
            self._inflight[self._last_request] = _Request(items, now_s)
            effects.append(Send(self._last_request, tuple(i.data for i in items)))
        return effects

    def _join(self) -> tuple[_Batch, ...]:
        items: list[_Batch] = []
        size = 0
        anonymous_out = self._out[0] > 0
        while self._unsent and len(items) < APPEND_BATCHES_MAX:
            item = self._unsent[0]
            if item.result is not None:
                self._unsent.popleft()
                continue
            if items and size + len(item.data) > self.append_bytes_max:
                break
            # Without sequences nothing but waiting keeps an order over retries; with them, the window bounds what is recognised.
            if anonymous_out if item.producer_id == 0 else self._out[item.producer_id] >= PRODUCER_INFLIGHT_MAX:
                break
            self._unsent.popleft()
            items.append(item)
            size += len(item.data)
            self._out[item.producer_id] += 1
        return tuple(items)

    def _remove(self, request_id: int) -> _Request:
        request = self._inflight.pop(request_id)
        for item in request.batches:
            self._out[item.producer_id] -= 1
            if not self._out[item.producer_id]:
                del self._out[item.producer_id]
        return request

    def _waits_for_earlier(self, item: _Batch) -> bool:
        """An earlier batch of the same producer is still to be stored: the gap will be filled."""
        if self._closed is not None:
            return False
        for other in self._order:
            if other is item:
                return False
            if other.result is None and other.producer_id == item.producer_id:
                return True
        return False

    def _requeue(self, item: _Batch, error: SteleError) -> None:
        """Leaves the batch to the next round, if it may be sent again at all."""
        if not error.definite:
            item.uncertain = True
            if item.producer_id == 0:
                item.result = error
        if item.result is None and self._closed is not None:
            self._give_up(item, self._closed)
        self._interrupt(error)

    def _give_up(self, item: _Batch, error: SteleError) -> None:
        if item.uncertain and error.definite and not isinstance(error, OutOfOrderSequence | BatchCorrupt):
            # Honest: this attempt had no effect, an earlier one may have had.
            error = ConnectionBroken(
                f"an earlier attempt may have stored the batch; the last one: {error}", cause=error.reason
            )
        item.result = error

    def _interrupt(self, error: SteleError) -> None:
        self._flowing = False
        self._trouble = error

    def _shrink(self, request: _Request, error: SteleError) -> None:
        size = sum(len(i.data) for i in request.batches)
        stated = error.facts.get("bytes_max", "")
        limit = int(stated) - 64 if stated.isdigit() else size // 2
        self.append_bytes_max = max(1, min(limit, size - 1))

    def _depose(self, error: Fenced) -> list[PipelineEffect]:
        if isinstance(self._closed, NotOwner):
            return []
        self._closed = NotOwner("another broker owns this partition now", **error.facts)
        inflight = {id(item) for r in self._inflight.values() for item in r.batches}
        for item in self._order:
            if item.result is None and id(item) not in inflight:
                self._give_up(item, self._closed)
        return [Deposed(error)]

    def _settle(self, now_s: float) -> list[PipelineEffect]:
        effects: list[PipelineEffect] = []
        while self._order and (result := self._order[0].result) is not None:
            effects.append(Respond(self._order.popleft().token, result))
        if self._flowing:
            return effects + self._pump(now_s)
        if not self._inflight and not self._recovering and self._closed is None:
            self._recovering = True
            self._unsent = deque(i for i in self._order if i.result is None)
            effects.append(Recover(self._trouble or NotReady("the partition has no leader")))
        return effects

    def validate(self) -> None:
        waiting = [i for i in self._order if i.result is None]
        inflight = [i for r in self._inflight.values() for i in r.batches if i.result is None]
        if self._flowing and self._closed is None:
            assert waiting == inflight + [i for i in self._unsent if i.result is None], (
                "in order: in flight, then not sent"
            )
        assert not self._recovering or not self._inflight
        assert len(self._inflight) <= self.inflight_max
        assert not self._order or self._order[0].result is None, "answered as soon as its turn came"
        assert self._out == Counter(i.producer_id for r in self._inflight.values() for i in r.batches)
        assert all(n <= PRODUCER_INFLIGHT_MAX for p, n in self._out.items() if p)
        assert sum(any(i.producer_id == 0 for i in r.batches) for r in self._inflight.values()) <= 1


def _is_mended(error: SteleError) -> bool:
    """A later attempt, perhaps at another leader, may succeed.  A full disk is the sender's to know at once; damage is that of one
    replica."""
    return (error.retryable and not isinstance(error, DiskFull | NotOwner)) or isinstance(error, LogDamaged)
