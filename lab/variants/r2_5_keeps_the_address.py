"""Wrong on purpose (R2.5): an address that proved to be another store's is kept, or is asked for again without any pause."""

from __future__ import annotations

from stele.services.rpc.resolution import Effect, ResolverPolicy, StoreAddress


class KeepsTheAddress(ResolverPolicy):
    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[Effect]:
        return []


class AsksWithoutPause(ResolverPolicy):
    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[Effect]:
        effects = super().mismatched(store_id, address, now_s)
        self._stores[store_id].due_at_s = now_s
        return effects
