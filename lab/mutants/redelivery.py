"""Messages that come again too soon, out of their place, or without a memory of how often they did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from stele.broker.cursor_writes import Range
from stele.broker.subscription import Subscription
from stele.broker.subscription_effects import PersistAcks, SubscriptionEffect


class RedeliversAtOnce(Subscription):
    """What is handed back is the next to go out."""

    def nack(self, consumer: int, ranges: Sequence[Range], delay_s: float, now_s: float) -> list[SubscriptionEffect]:
        for first, last, _ in self._out_with(consumer, ranges):
            self._return(first, last)
        return self._dispatch(now_s)


class TimesWhatWaits(Subscription):
    """The time for acknowledging a message begins when it leaves the broker."""

    def _dispatch(self, now_s: float) -> list[SubscriptionEffect]:
        effects = super()._dispatch(now_s)
        for first, last, out in self.pending:
            timeout_s = self.consumers[out.consumer].ack_timeout_s
            if out.due_s == math.inf and timeout_s:
                self.pending.set(first, last, replace(out, due_s=now_s + timeout_s))
                self._wake_s = min(self._wake_s, now_s + timeout_s)
        return effects


class CountsInMemory(Subscription):
    """How often a message was delivered again is nobody's business but this broker's."""

    def flush_acks(self) -> list[SubscriptionEffect]:
        return [replace(e, redelivered=()) if isinstance(e, PersistAcks) else e for e in super().flush_acks()]
