"""Wrong on purpose (R2.3): a store that was removed is asked for again and again, with a log line each time."""

from __future__ import annotations

from stele.services.errors import SteleError
from stele.services.rpc.resolution import LookupFailure, ResolverPolicy, _Store


class RetriesTombstones(ResolverPolicy):
    def classify(self, error: SteleError) -> LookupFailure:
        return LookupFailure.RETRY

    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return True
