"""Wrong on purpose (R2.1): what an error means is read from its text."""

from __future__ import annotations

from stele.services.errors import SteleError
from stele.services.rpc.resolver import ResolverPolicy, Verdict


class MatchesText(ResolverPolicy):
    def classify(self, error: SteleError) -> Verdict:
        final = "invalid store ID" in error.message and "not found" in error.message
        return Verdict.TOMBSTONE if final else Verdict.RETRY
