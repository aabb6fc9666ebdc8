"""Calls that say something else than what they did."""

from __future__ import annotations

from typing import Any

from stele.broker_calls import BrokerCalls


class ForgetsItsAttempts(BrokerCalls):
    """The last answer is the whole truth, also where an earlier attempt was not answered and may have had the effect."""

    async def settle(self, topic: str, partition: int, method: str, request: Any, timeout_s: float) -> tuple[Any, bool]:
        answer, _ = await super().settle(topic, partition, method, request, timeout_s)
        return answer, False
