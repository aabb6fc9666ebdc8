"""Wrong on purpose (R2.4): every "not found" is taken for removed, so a store that has not registered yet is given up for ever."""

from __future__ import annotations

from stele.services.errors import Code, SteleError
from stele.services.rpc.resolution import LookupFailure, ResolverPolicy


class NotFoundIsTombstone(ResolverPolicy):
    def classify(self, error: SteleError) -> LookupFailure:
        return LookupFailure.TOMBSTONE if error.code is Code.NOT_FOUND else LookupFailure.RETRY
