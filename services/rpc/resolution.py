"""What to do about a store's address: when to look it up, and what an answer means (F2).  Pure: the time comes with
each event, the randomness is given.

Guarantee: the outcome is decided by the type of the nameserver's answer alone (R2.1); a store that was removed is asked for once, ever
(R2.3); one that is unknown or cannot be asked for is asked for again with capped backoff and jitter, and works as soon as it registers
(R2.4); an address that turned out to be another store's is asked for again (R2.5), with the same backoff if that goes on.

services/rpc/resolver.py carries the effects out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from stele.services.backoff import Backoff
from stele.services.errors import SteleError, StoreTombstone
from stele.services.rng import Rng

BACKOFF = Backoff(first_s=0.1, max_s=2.0)
LOG_INTERVAL_S = 60.0
STABLE_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is reached."""

    endpoint: str
    raft_endpoint: str = ""


# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Look the store up, after ``delay_s``."""

    store_id: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveAddress:
    """Everyone who waits for the store gets its address."""

    store_id: int
    address: StoreAddress


@dataclass(frozen=True, slots=True)
class Refuse:
    """Everyone who waits for the store gets StoreTombstone."""

    store_id: int
    message: str


@dataclass(frozen=True, slots=True)
class Log:
    """One event for the log."""

    event: str
    store_id: int
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Count:
    """One more lookup ended with ``outcome``: resolved, or the reason of an error."""

    outcome: str


ResolverEffect = Ask | GiveAddress | Refuse | Log | Count


class LookupFailure(Enum):
    """What an error of a lookup means."""

    TOMBSTONE = "tombstone"
    RETRY = "retry"


@dataclass(slots=True)
class _Store:
    address: StoreAddress | None = None
    resolved_at_s: float = 0.0
    tombstone: str | None = None
    asking: bool = False
    failures: int = 0  # of lookups, in a row
    mismatches: int = 0  # in a row: addresses that proved to be another store's soon after they were given
    due_at_s: float = 0.0  # no lookup before
    logged_at_s: float | None = None
    unlogged: int = 0


class ResolverPolicy:
    """Decides about each store; an event in, effects out."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._stores: dict[int, _Store] = {}

    def wanted(self, store_id: int, now_s: float) -> list[ResolverEffect]:
        """Someone wants the address."""
        store = self._stores.setdefault(store_id, _Store())
        if store.tombstone is not None:
            return [Refuse(store_id, store.tombstone)]
        if store.address is not None:
            return [GiveAddress(store_id, store.address)]
        if store.asking:
            return []
        store.asking = True
        return [Ask(store_id, max(0.0, store.due_at_s - now_s))]

    def found(self, store_id: int, address: StoreAddress, now_s: float) -> list[ResolverEffect]:
        """A lookup answered."""
        store = self._stores.setdefault(store_id, _Store())
        store.address, store.resolved_at_s, store.asking = address, now_s, False
        effects: list[ResolverEffect] = [Count("resolved"), GiveAddress(store_id, address)]
        if store.logged_at_s is not None:
            effects.append(Log("store_resolved", store_id, {"endpoint": address.endpoint, "failures": store.failures}))
        store.failures, store.logged_at_s, store.unlogged = 0, None, 0
        return effects

    def failed(self, store_id: int, error: SteleError, now_s: float) -> list[ResolverEffect]:
        """A lookup ended with an error."""
        store = self._stores.setdefault(store_id, _Store())
        store.asking = False
        effects: list[ResolverEffect] = [Count(error.reason)]
        if self.classify(error) is LookupFailure.TOMBSTONE:
            first = store.tombstone is None
            store.address, store.tombstone = None, error.message
            if first:  # one line per store, not one per attempt (R2.3)
                effects.append(Log("store_removed", store_id))
            return [*effects, Refuse(store_id, error.message)]
        store.failures += 1
        if self.log_is_due(store, now_s):
            facts: dict[str, object] = {"reason": error.reason, "error": error.message, "attempts": store.failures}
            effects.append(Log("store_unresolved", store_id, facts | {"suppressed": store.unlogged}))
            store.logged_at_s, store.unlogged = now_s, 0
        else:
            store.unlogged += 1
        backoff_s = self.backoff_s(store.failures)
        store.asking, store.due_at_s = True, now_s + backoff_s
        return [*effects, Ask(store_id, backoff_s)]

    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[ResolverEffect]:
        """The address belongs to another store (R2.5).  A complaint about an address that was replaced since is void."""
        store = self._stores.get(store_id)
        if store is None or store.address is None or (address is not None and address != store.address):
            return []
        if now_s - store.resolved_at_s >= STABLE_AFTER_S:
            store.mismatches = 0
        store.due_at_s = now_s + self.backoff_s(store.mismatches)
        store.mismatches += 1
        store.address = None
        return [Count("mismatch")]

    def abandoned(self, store_id: int) -> None:
        """Nobody waits any more: the lookup that was due is not made."""
        if (store := self._stores.get(store_id)) is not None:
            store.asking = False

    def is_tombstone(self, store_id: int) -> bool:
        return (store := self._stores.get(store_id)) is not None and store.tombstone is not None

    def known(self, store_id: int) -> StoreAddress | None:
        return store.address if (store := self._stores.get(store_id)) is not None else None

    def classify(self, error: SteleError) -> LookupFailure:
        """By class alone; whatever is not known to be final is tried again."""
        return LookupFailure.TOMBSTONE if isinstance(error, StoreTombstone) else LookupFailure.RETRY

    def backoff_s(self, failures: int) -> float:
        return BACKOFF.after(failures, self._rng)

    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return store.logged_at_s is None or now_s - store.logged_at_s >= LOG_INTERVAL_S

    def validate(self) -> None:
        for store_id, store in self._stores.items():
            assert not (store.tombstone is not None and store.address is not None), (
                f"store {store_id}: removed, with address"
            )
            assert not (store.tombstone is not None and store.asking), f"store {store_id}: removed, and asked for"
            assert not (store.address is not None and store.asking), f"store {store_id}: known, and asked for"
