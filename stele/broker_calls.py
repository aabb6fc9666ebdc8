"""Unary calls to the broker that owns a partition.

Guarantee: the call is repeated, after a new lookup, until it is answered, refused for good, or its deadline has passed.  Every call made
here is idempotent.  No error says that nothing was changed where an attempt, or a part of the call, may have changed something.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from stele.partition_consumer import NOT_FOUND_MAX
from stele.retry import backoff_s, may_retry
from stele.routing import Route, Router, TopicRoutes
from stele.services.errors import (
    PartitionNotFound,
    SteleError,
    SubscriptionNotFound,
    Timeout,
    TopicNotFound,
    Unreachable,
)
from stele.services.pb import broker_pb2_grpc
from stele.services.rpc.channels import Channels, call

ATTEMPT_TIMEOUT_S = 5.0

# What was changed of it is gone with it.
_GONE = (TopicNotFound, PartitionNotFound, SubscriptionNotFound)


@contextmanager
def over_partitions(topic: str) -> Iterator[list[int]]:
    """For a call that changes one partition of ``topic`` after another: those that it has changed, to be added to.  From the first one
    on, what it ends with is indefinite."""
    changed: list[int] = []
    try:
        yield changed
    except SteleError as e:
        if changed:
            raise _in_doubt(e, f"partitions {changed} of {topic} are changed, and then") from e
        raise


def _in_doubt(error: SteleError, so_far: str) -> SteleError:
    """What ``error`` says of a call that may have had a part of its effect."""
    if not error.definite or isinstance(error, _GONE):
        return error
    return Timeout(f"{so_far}: {error}", last=error.reason)


@asynccontextmanager
async def within(deadline_s: float) -> AsyncIterator[None]:
    """For a look-up, which has no effect: raises Unreachable past a moment of the loop's clock."""
    try:
        async with asyncio.timeout_at(deadline_s):
            yield
    except TimeoutError:
        raise Unreachable("no nameserver answered before the deadline") from None


class BrokerCalls:
    def __init__(
        self, router: Router, channels: Channels, rng: random.Random, check_open: Callable[[], None] = lambda: None
    ) -> None:
        self._router, self._channels, self._rng = router, channels, rng
        self._check_open = check_open

    async def routes(self, topic: str, timeout_s: float) -> tuple[Route, ...]:
        """The topic's partitions, looked up anew.  Raises TopicNotFound."""
        return (await self.topic_routes(topic, timeout_s)).partitions

    async def topic_routes(self, topic: str, timeout_s: float) -> TopicRoutes:
        """The same, with the topic's id."""
        self._check_open()
        loop = asyncio.get_running_loop()
        deadline_s, failures, not_found = loop.time() + timeout_s, 0, 0
        while True:
            try:
                async with within(deadline_s):
                    return await self._router.refresh(topic)
            except SteleError as e:
                failures += 1
                not_found = not_found + 1 if isinstance(e, TopicNotFound) else 0
                await self._pause_or_raise(e, failures, deadline_s, 0 < not_found < NOT_FOUND_MAX)

    async def call(self, topic: str, partition: int, method: str, request: Any, timeout_s: float) -> Any:
        """The answer."""
        return (await self.settle(topic, partition, method, request, timeout_s))[0]

    async def settle(self, topic: str, partition: int, method: str, request: Any, timeout_s: float) -> tuple[Any, bool]:
        """The answer, and whether an attempt before the one that was answered may have had the effect: what is "not there" or "there
        already" then may be this call's own doing."""
        doubt: SteleError | None = None  # what an attempt ended with whose effect is not known
        self._check_open()
        loop = asyncio.get_running_loop()
        deadline_s, failures, known = loop.time() + timeout_s, 0, 0
        while True:
            try:
                async with within(deadline_s):
                    routes = await (self._router.refresh(topic) if failures else self._router.routes(topic))
                known = len(routes.partitions)
                route = routes.of(partition)
                if not route.endpoint:
                    raise Unreachable(f"{topic}-{partition} has no broker at the moment")
                self._check_open()  # nobody is dialled any more
                stub = broker_pb2_grpc.BrokerStub(self._channels.get(route.endpoint))  # type: ignore[no-untyped-call]
                request.owner_epoch = route.owner_epoch
                left_s = max(0.01, deadline_s - loop.time())
                return await call(getattr(stub, method), request, min(ATTEMPT_TIMEOUT_S, left_s)), doubt is not None
            except SteleError as e:
                failures += 1
                doubt = e if not e.definite else doubt
                # A broker may hear later than we did that the topic has grown.
                lags = isinstance(e, PartitionNotFound) and partition < known
                try:
                    await self._pause_or_raise(e, failures, deadline_s, lags)
                except SteleError as last:
                    if doubt is None:
                        raise
                    raise _in_doubt(last, f"it may be done ({doubt}), and then") from None

    async def _pause_or_raise(self, error: SteleError, failures: int, deadline_s: float, again: bool) -> None:
        pause_s = backoff_s(failures, self._rng)
        if not (again or may_retry(error)):
            raise error
        if asyncio.get_running_loop().time() + pause_s >= deadline_s:
            raise error if error.definite else Timeout(f"no answer before the deadline: {error}", last=error.reason)
        await asyncio.sleep(pause_s)
