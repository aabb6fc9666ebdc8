"""Wrong on purpose (R2.1): what an error means is read from its text."""

from __future__ import annotations

from stele.services.errors import SteleError
from stele.services.rpc.resolution import LookupFailure, ResolverPolicy


class MatchesText(ResolverPolicy):
    def classify(self, error: SteleError) -> LookupFailure:
        final = "invalid store ID" in error.message and "not found" in error.message
        return LookupFailure.TOMBSTONE if final else LookupFailure.RETRY
