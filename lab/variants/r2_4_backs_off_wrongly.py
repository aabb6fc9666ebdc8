"""Wrong on purpose (R2.4): no backoff, backoff without a cap, without jitter, or begun anew by whoever asks next."""

from __future__ import annotations

from stele.services.rpc.resolution import BACKOFF, Ask, Effect, ResolverPolicy


class NeverBacksOff(ResolverPolicy):
    def backoff_s(self, failures: int) -> float:
        return 0.001


class BacksOffWithoutCap(ResolverPolicy):
    def backoff_s(self, failures: int) -> float:
        return BACKOFF.first_s * 2.0**failures * self._rng.uniform(0.5, 1.0)


class BacksOffWithoutJitter(ResolverPolicy):
    def backoff_s(self, failures: int) -> float:
        return BACKOFF.ceiling_s(failures + 1)


class RestartsTheBackoff(ResolverPolicy):
    def wanted(self, store_id: int, now_s: float) -> list[Effect]:
        effects = super().wanted(store_id, now_s)
        failures = self._stores[store_id].failures
        return [Ask(store_id, self.backoff_s(failures)) if isinstance(e, Ask) else e for e in effects]
