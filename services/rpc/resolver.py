"""From a store's id to its address (FAILURES.md, F2).

Guarantee: the outcome is decided by the type of the nameserver's answer alone (R2.1); a store that was removed is asked for once, ever
(R2.3); one that is unknown or cannot be asked for is asked for again with capped backoff and jitter, and works as soon as it registers
(R2.4); an address that turned out to be another store's is asked for again (R2.5), with the same backoff if that goes on.

``ResolverPolicy`` decides and ``Resolver`` carries out.  Usage: ``address = await resolver.resolve(store_id, timeout_s=5)``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import structlog
from prometheus_client import CollectorRegistry, Counter

from stele.services.backoff import Backoff, Uniform
from stele.services.clock import SYSTEM, Clock
from stele.services.errors import SteleError, StoreTombstone, Timeout

BACKOFF = Backoff(first_s=0.1, max_s=2.0)
LOG_INTERVAL_S = 60.0
STABLE_AFTER_S = 10.0
LOOKUP_TIMEOUT_S = 5.0


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
class Answer:
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


Effect = Ask | Answer | Refuse | Log | Count


class Verdict(Enum):
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
    """Decides about each store.  Pure: the time comes with each event, randomness from ``rng``."""

    def __init__(self, rng: Uniform) -> None:
        self._rng = rng
        self._stores: dict[int, _Store] = {}

    def wanted(self, store_id: int, now_s: float) -> list[Effect]:
        """Someone wants the address."""
        store = self._stores.setdefault(store_id, _Store())
        if store.tombstone is not None:
            return [Refuse(store_id, store.tombstone)]
        if store.address is not None:
            return [Answer(store_id, store.address)]
        if store.asking:
            return []
        store.asking = True
        return [Ask(store_id, max(0.0, store.due_at_s - now_s))]

    def found(self, store_id: int, address: StoreAddress, now_s: float) -> list[Effect]:
        """A lookup answered."""
        store = self._stores.setdefault(store_id, _Store())
        store.address, store.resolved_at_s, store.asking = address, now_s, False
        effects: list[Effect] = [Count("resolved"), Answer(store_id, address)]
        if store.logged_at_s is not None:
            effects.append(Log("store_resolved", store_id, {"endpoint": address.endpoint, "failures": store.failures}))
        store.failures, store.logged_at_s, store.unlogged = 0, None, 0
        return effects

    def failed(self, store_id: int, error: SteleError, now_s: float) -> list[Effect]:
        """A lookup ended with an error."""
        store = self._stores.setdefault(store_id, _Store())
        store.asking = False
        effects: list[Effect] = [Count(error.reason)]
        if self.classify(error) is Verdict.TOMBSTONE:
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

    def mismatched(self, store_id: int, address: StoreAddress | None, now_s: float) -> list[Effect]:
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

    def classify(self, error: SteleError) -> Verdict:
        """By class alone; whatever is not known to be final is tried again."""
        return Verdict.TOMBSTONE if isinstance(error, StoreTombstone) else Verdict.RETRY

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


class Resolver:
    """Resolves for everyone in the process; concurrent waiters for one store share one lookup."""

    def __init__(
        self,
        lookup: Callable[[int], Awaitable[StoreAddress]],
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
        *,
        policy: ResolverPolicy | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._lookup, self._clock = lookup, clock
        self._policy = policy or ResolverPolicy(rng or random.Random())
        self._waiting: dict[int, set[asyncio.Future[StoreAddress]]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last_error: dict[int, SteleError] = {}
        self._log = structlog.get_logger()
        self.lookups = Counter(
            "stele_resolver_lookups", "Lookups of store addresses by outcome", ["outcome"], registry=registry
        )

    async def resolve(self, store_id: int, timeout_s: float | None = None) -> StoreAddress:
        """The store's address, waiting until it registers.  Raises StoreTombstone at once; past ``timeout_s`` the last error of
        the lookups, e.g. StoreUnknown."""
        waiter: asyncio.Future[StoreAddress] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(store_id, set()).add(waiter)
        try:
            self._carry_out(self._policy.wanted(store_id, self._clock.monotonic()))
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            error = self._last_error.get(store_id)
            raise error or Timeout(
                f"store {store_id} was not resolved within {timeout_s:g} s", store_id=store_id
            ) from None
        finally:
            self._leave(store_id, waiter)

    def invalidate(self, store_id: int, address: StoreAddress | None = None) -> None:
        """After StoreMismatch, or when nobody answers there: the next ``resolve`` asks again (R2.5).  With ``address``, only
        if that is still the one known."""
        self._carry_out(self._policy.mismatched(store_id, address, self._clock.monotonic()))

    def is_tombstone(self, store_id: int) -> bool:
        return self._policy.is_tombstone(store_id)

    def known(self, store_id: int) -> StoreAddress | None:
        """The address if it is known now."""
        return self._policy.known(store_id)

    async def close(self) -> None:
        """Ends all lookups; whoever waits is cancelled."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, store_id: int, waiter: asyncio.Future[StoreAddress]) -> None:
        waiters = self._waiting.get(store_id)
        if waiters is None:
            return
        waiters.discard(waiter)
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # seen, even if the one who waited was cancelled at the same moment
        if not waiters:
            del self._waiting[store_id]
            self._last_error.pop(store_id, None)
            if (task := self._tasks.pop(store_id, None)) is not None:
                task.cancel()
                self._policy.abandoned(store_id)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask(store_id, delay_s):
                    self._tasks[store_id] = asyncio.get_running_loop().create_task(self._ask(store_id, delay_s))
                case Answer(store_id, address):
                    for waiter in self._done(store_id):
                        waiter.set_result(address)
                case Refuse(store_id, message):
                    for waiter in self._done(store_id):
                        waiter.set_exception(StoreTombstone(message, store_id=store_id))
                case Log(event, store_id, facts):
                    self._log.warning(event, store_id=store_id, **facts)
                case Count(outcome):
                    self.lookups.labels(outcome).inc()

    def _done(self, store_id: int) -> list[asyncio.Future[StoreAddress]]:
        return [waiter for waiter in self._waiting.get(store_id, ()) if not waiter.done()]

    async def _ask(self, store_id: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                address = await self._lookup(store_id)
            effects = self._policy.found(store_id, address, self._clock.monotonic())
        except SteleError as e:
            effects = self._failed(store_id, e)
        except TimeoutError:
            effects = self._failed(store_id, Timeout("no answer to the lookup", timeout_s=LOOKUP_TIMEOUT_S))
        except Exception as e:
            self._tasks.pop(store_id, None)
            self._policy.abandoned(store_id)
            for waiter in self._done(store_id):
                waiter.set_exception(e)
            return
        self._tasks.pop(store_id, None)
        self._carry_out(effects)

    def _failed(self, store_id: int, error: SteleError) -> list[Effect]:
        self._last_error[store_id] = error
        return self._policy.failed(store_id, error, self._clock.monotonic())
