"""Wrong on purpose (R2.4): every "not found" is taken for removed, so a store that has not registered yet is given up for ever."""

from __future__ import annotations

from stele.services.errors import Code, SteleError
from stele.services.rpc.resolver import ResolverPolicy, Verdict


class NotFoundIsTombstone(ResolverPolicy):
    def classify(self, error: SteleError) -> Verdict:
        return Verdict.TOMBSTONE if error.code is Code.NOT_FOUND else Verdict.RETRY
