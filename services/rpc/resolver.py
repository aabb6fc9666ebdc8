"""From a store's id to its address (F2 in docs/reference/failures.md).

Guarantee: that of services/rpc/resolution.py, which decides; concurrent waiters for one store share one lookup.

Usage: ``address = await resolver.resolve(store_id, timeout_s=5)``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import CollectorRegistry, Counter

from stele.services.clock import SYSTEM, Clock
from stele.services.errors import SteleError, StoreTombstone, Timeout
from stele.services.rpc.resolution import (
    Ask,
    Count,
    GiveAddress,
    Log,
    Refuse,
    ResolverEffect,
    ResolverPolicy,
    StoreAddress,
)
from stele.services.tasks import Tasks

LOOKUP_TIMEOUT_S = 5.0


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
        self._asking = Tasks()  # what one fails with, those who wait for it are told
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
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.cancel()
        await self._asking.cancel()

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

    def _carry_out(self, effects: list[ResolverEffect]) -> None:
        for effect in effects:
            match effect:
                case Ask(store_id, delay_s):
                    self._tasks[store_id] = self._asking.start(self._ask(store_id, delay_s), f"resolve-{store_id}")
                case GiveAddress(store_id, address):
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

    def _failed(self, store_id: int, error: SteleError) -> list[ResolverEffect]:
        self._last_error[store_id] = error
        return self._policy.failed(store_id, error, self._clock.monotonic())
