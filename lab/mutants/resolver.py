"""Resolving a store's address in ways that ask for ever, or give up what only starts late (R2.1, R2.3 to R2.5)."""

from __future__ import annotations

from stele.services.errors import Code, SteleError
from stele.services.rpc.resolution import (
    BACKOFF,
    Ask,
    LookupFailure,
    ResolverEffect,
    ResolverPolicy,
    StoreAddress,
    _Store,
)


class MatchesText(ResolverPolicy):
    """What an error means is read from its text."""

    def classify(self, error: SteleError) -> LookupFailure:
        final = "invalid store ID" in error.message and "not found" in error.message
        return LookupFailure.TOMBSTONE if final else LookupFailure.RETRY


class ForgetsTombstones(ResolverPolicy):
    """The refusal is passed on but not remembered, so each new message asks again."""

    def wanted(self, store_id: int, now_s: float) -> list[ResolverEffect]:
        if self.is_tombstone(store_id):
            del self._stores[store_id]
        return super().wanted(store_id, now_s)


class RetriesTombstones(ResolverPolicy):
    """A store that was removed is asked for again and again, with a log line each time."""

    def classify(self, error: SteleError) -> LookupFailure:
        return LookupFailure.RETRY

    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return True


class NeverBacksOff(ResolverPolicy):
    """A store that is not known is asked for again at once."""

    def backoff_s(self, failures: int) -> float:
        return 0.001


class BacksOffWithoutCap(ResolverPolicy):
    """The pause between two attempts doubles for ever."""

    def backoff_s(self, failures: int) -> float:
        return BACKOFF.first_s * 2.0**failures * self._rng.uniform(0.5, 1.0)


class BacksOffWithoutJitter(ResolverPolicy):
    """All who wait for one store ask again at the same moment."""

    def backoff_s(self, failures: int) -> float:
        return BACKOFF.ceiling_s(failures + 1)


class RestartsTheBackoff(ResolverPolicy):
    """Whoever asks next begins the pause anew."""

    def wanted(self, store_id: int, now_s: float) -> list[ResolverEffect]:
        effects = super().wanted(store_id, now_s)
        failures = self._stores[store_id].failures
        return [Ask(store_id, self.backoff_s(failures)) if isinstance(e, Ask) else e for e in effects]


class LogsEveryAttempt(ResolverPolicy):
    """Every attempt leaves a line in the log."""

    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return True


class NeverLogs(ResolverPolicy):
    """Attempts that fail are not logged at all."""

    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return False


class NotFoundIsTombstone(ResolverPolicy):
    """Every "not found" is taken for removed, so a store that has not registered yet is given up for ever."""

    def classify(self, error: SteleError) -> LookupFailure:
        return LookupFailure.TOMBSTONE if error.code is Code.NOT_FOUND else LookupFailure.RETRY


class KeepsTheAddress(ResolverPolicy):
    """An address that proved to be another store's is kept."""

    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[ResolverEffect]:
        return []


class AsksWithoutPause(ResolverPolicy):
    """An address that proved to be another store's is asked for again without any pause."""

    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[ResolverEffect]:
        effects = super().mismatched(store_id, address, now_s)
        self._stores[store_id].due_at_s = now_s
        return effects
