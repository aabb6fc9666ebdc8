"""Wrong on purpose (R2.3): the refusal is passed on but not remembered, so each new message asks again."""

from __future__ import annotations

from stele.services.rpc.resolution import Effect, ResolverPolicy


class ForgetsTombstones(ResolverPolicy):
    def wanted(self, store_id: int, now_s: float) -> list[Effect]:
        if self.is_tombstone(store_id):
            del self._stores[store_id]
        return super().wanted(store_id, now_s)
