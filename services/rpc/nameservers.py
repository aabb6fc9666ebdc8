"""The way to the nameservers, for datanodes, brokers and clients.

Guarantee: ``call`` ends within its timeout, with the answer or an error of the tree; it goes on to another nameserver after every
error that says "not here" or "not now", and repeats a call whose outcome is not known only if the call is idempotent.
A nameserver that has lost touch with ZooKeeper is left for another; only where none is in touch are reads answered with what was
last known.  Look-ups and routing never go back behind what this client was told before, by whichever nameserver, but for the bounded
refusal of ``never_back``.  ``watch_routing`` never ends: a nameserver that dies, freezes or is cut off is left for the next one within
``SILENCE_MAX_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc

from stele.services.backoff import Backoff
from stele.services.errors import (
    ConnectionBroken,
    CoordinationUnknown,
    Draining,
    LeadershipLost,
    NoLeader,
    NotLeader,
    NotReady,
    Overloaded,
    SteleError,
    Timeout,
    Unreachable,
)
from stele.services.library_log import LibraryLog
from stele.services.pb import nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.rpc.never_back import NeverBack, revision_of
from stele.services.rpc.resolution import StoreAddress
from stele.services.rpc.status import typed_errors

STALE_KEY = "stele-stale-ok"  # of a call whose caller would rather have an old answer than none
SILENCE_MAX_S = 8.0  # a nameserver says something at least every 5 s
CONNECT_TIMEOUT_S = 2.0
READ_ATTEMPT_S = 2.0  # of one attempt: a frozen nameserver must not use up the deadline
BACKOFF = Backoff(first_s=0.05, max_s=1.0)
TIMEOUT_S = 10.0

READS = frozenset(
    {
        "GetCluster",
        "ListNamespaces",
        "ListTopics",
        "Lookup",
        "ResolveStore",
        "ListStores",
        "ListTrash",
        "ListBrokers",
        "ListBundles",
        "ListNameservers",
        "ListPartitions",
        "ListOperations",
    }
)
_IDEMPOTENT = READS | {
    "RegisterStore",
    "AlterTopic",
    "AlterNamespace",
    "MovePartition",
    "TransferPartitionLeader",
    "DecommissionStore",
    "RecommissionStore",
    "CordonStore",
    "RebalanceReplicas",
    "ExplainPartition",
    "SafeToStop",
    "MoveBundle",
    "SplitBundle",
    "DrainBroker",
    "UnloadBroker",
    "FinalizeUpgrade",
}
_ELSEWHERE = (NotLeader, NoLeader, LeadershipLost, Unreachable, NotReady, Draining, Overloaded)
_UNKNOWN_OUTCOME = (ConnectionBroken, Timeout, CoordinationUnknown)

Endpoints = list[str] | Callable[[], Awaitable[list[str]]]


class NameserverClient:
    """``await client.call("Lookup", LookupRequest(topic="a/b"), timeout_s=5)``; ``async for routing in client.watch_routing()``.

    ``endpoints`` is a list, or is asked anew before each round over the nameservers.  ``check_open`` raises once nobody is to be dialled
    any more: a call under way ends with that, unless it may have had its effect.
    """

    def __init__(
        self,
        channels: Channels,
        endpoints: Endpoints,
        *,
        rng: random.Random | None = None,
        silence_max_s: float = SILENCE_MAX_S,
        never_back: NeverBack | None = None,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._channels, self._endpoints = channels, endpoints
        self._rng = rng or random.Random()
        self._silence_max_s = silence_max_s
        self._never_back = never_back or NeverBack()
        self._check_open = check_open
        self._preferred = ""
        self._log = LibraryLog("nameservers")

    async def call(self, method: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """The answer to ``request``.  Raises SteleError: what the nameserver said, or past the deadline what stood in the way,
        the indefinite before the definite."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        trouble: SteleError | None = None
        rounds = 0
        out_of_touch = False  # one of the last round was, and none of it had the answer
        while True:
            untried = await self._round(deadline)
            metadata = ((STALE_KEY, "1"),) if out_of_touch and method in READS else None
            out_of_touch = False
            while untried and loop.time() < deadline:
                endpoint = untried.pop(0)
                self._check_going_on(trouble if method not in READS else None)
                try:
                    return await self._attempt(endpoint, method, request, deadline - loop.time(), metadata)
                except _ELSEWHERE as e:
                    out_of_touch = out_of_touch or "stale" in e.facts
                    trouble = e if trouble is None or trouble.definite else trouble
                    if (leader := e.facts.get("leader", "")) in untried:
                        untried.remove(leader)
                        untried.insert(0, leader)
                except _UNKNOWN_OUTCOME as e:
                    if not _is_idempotent(method, request):
                        raise
                    trouble = e
            rounds += 1
            backoff_s = BACKOFF.after(rounds, self._rng)
            if loop.time() + backoff_s >= deadline:
                raise trouble or Unreachable("no nameserver is known", timeout_s=timeout_s)
            await asyncio.sleep(backoff_s)

    def _check_going_on(self, trouble: SteleError | None) -> None:
        try:
            self._check_open()
        except SteleError as closed:
            raise (trouble if trouble is not None and not trouble.definite else closed) from None

    async def lookup_store(self, store_id: int) -> StoreAddress:
        """For ``Resolver(lookup=client.lookup_store)``.  Raises StoreTombstone or StoreUnknown, typed (R2.1)."""
        answer = await self.call(
            "ResolveStore", nameserver_pb2.ResolveStoreRequest(store_id=store_id), READ_ATTEMPT_S * 2
        )
        return StoreAddress(endpoint=answer.endpoint, raft_endpoint=answer.raft_endpoint)

    async def watch_routing(self, broker: str = "") -> AsyncGenerator[nameserver_pb2.Routing, None]:
        """The routing facts, again after each change; for ever, and never older ones after newer ones.  Whole each time; for one ``broker``
        those that concern it, whole first and whenever another nameserver tells them, and then what changed (``changes``)."""
        failures = 0
        while True:
            for endpoint in await self._round(asyncio.get_running_loop().time() + CONNECT_TIMEOUT_S):
                watched = False
                try:
                    async with contextlib.aclosing(self._watch(endpoint, broker)) as watch:
                        async for routing in watch:
                            self._check_revision(endpoint, routing)
                            if not watched:
                                self._log.info("routing_watched", nameserver=endpoint)
                            watched, failures, self._preferred = True, 0, endpoint
                            yield routing
                except SteleError as e:
                    if watched or not failures:
                        self._log.warning("routing_watch_broken", nameserver=endpoint, reason=e.reason, error=e.message)
                self._no_longer_preferred(endpoint)
                await self._pause(failures := failures + 1)
            await self._pause(failures := failures + 1)

    async def _watch(self, endpoint: str, broker: str) -> AsyncGenerator[nameserver_pb2.Routing, None]:
        channel = await self._channels.connected(endpoint, CONNECT_TIMEOUT_S)
        stream: Any = nameserver_pb2_grpc.NameserverStub(channel).WatchRouting(  # type: ignore[no-untyped-call]
            nameserver_pb2.WatchRoutingRequest(broker=broker)
        )
        begun: nameserver_pb2.Routing | None = None  # parts of a message of which more follow
        revision = 0  # of the message before
        try:
            while True:
                try:
                    with typed_errors():
                        async with asyncio.timeout(self._silence_max_s):
                            routing = await stream.read()
                except TimeoutError:
                    raise Timeout(f"{endpoint} was silent", timeout_s=self._silence_max_s) from None
                if routing is grpc.aio.EOF:  # type: ignore[attr-defined]
                    raise ConnectionBroken(f"{endpoint} ended the watch")
                if routing.since not in (0, revision):
                    raise ConnectionBroken(f"{endpoint} goes on from {routing.since}, and it had told {revision}")
                whole = _joined(begun, routing)
                begun = whole if routing.more else None
                if begun is None:
                    revision = routing.revision
                    yield whole
        finally:
            stream.cancel()

    async def _attempt(
        self, endpoint: str, method: str, request: Any, left_s: float, metadata: tuple[tuple[str, str], ...] | None
    ) -> Any:
        stub = nameserver_pb2_grpc.NameserverStub(self._channels.get(endpoint))  # type: ignore[no-untyped-call]
        timeout_s = min(left_s, READ_ATTEMPT_S) if method in READS else left_s
        try:
            answer = await call(getattr(stub, method), request, timeout_s, metadata)
            if isinstance(answer, nameserver_pb2.LookupResponse):
                self._check_revision(endpoint, answer)
        except (*_ELSEWHERE, *_UNKNOWN_OUTCOME) as e:
            self._no_longer_preferred(endpoint)
            self._preferred = e.facts.get("leader", self._preferred)
            raise
        self._preferred = endpoint
        return answer

    def _check_revision(self, endpoint: str, answer: nameserver_pb2.Routing | nameserver_pb2.LookupResponse) -> None:
        """NotReady (retryable elsewhere) for an answer that is older than what was taken before."""
        never_back, revision = self._never_back, revision_of(answer.as_of)
        if not never_back.takes(revision, asyncio.get_running_loop().time()):
            raise NotReady(
                f"{endpoint} lags behind what other nameservers have told: {revision} is before {never_back.taken}"
            )
        if never_back.went_back_from is not None:
            self._log.warning("routing_went_back", nameserver=endpoint, before=never_back.went_back_from, now=revision)

    def _no_longer_preferred(self, endpoint: str) -> None:
        if self._preferred == endpoint:
            self._preferred = ""

    async def _round(self, deadline: float) -> list[str]:
        """The nameservers in the order to try them: the one that served last, then the others at random."""
        known = self._endpoints
        if not isinstance(known, list):
            try:
                async with asyncio.timeout_at(deadline):
                    known = await known()
            except (SteleError, TimeoutError):
                known = []
        others = [e for e in known if e != self._preferred]
        self._rng.shuffle(others)
        return [self._preferred, *others] if self._preferred in known else others

    async def _pause(self, failures: int) -> None:
        await asyncio.sleep(BACKOFF.after(failures, self._rng))


def _joined(begun: nameserver_pb2.Routing | None, part: nameserver_pb2.Routing) -> nameserver_pb2.Routing:
    """A message of which the parts up to this one are there; one that is begun anew replaces it."""
    if begun is None or not part.changes:
        return part
    changes = begun.changes
    begun.MergeFrom(part)
    begun.changes, begun.more, begun.age_ms = changes, part.more, part.age_ms
    return begun


def _is_idempotent(method: str, request: Any) -> bool:
    return method in _IDEMPOTENT or bool(getattr(request, "if_absent", False))
