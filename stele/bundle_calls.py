"""Who owns which bundle of topics: looking at it, and changing it.

Guarantee: a call that returned is recorded and holds whichever nameserver leads; a bundle changes hands under a higher owner epoch, so
that its former owner's writes are refused from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stele import arguments
from stele.model import BundleInfo
from stele.operations import PROGRESS_S, Operations
from stele.services.errors import Timeout
from stele.services.pb import nameserver_pb2 as pb
from stele.services.topics import check_name

CHOSEN_MAX = 4096


class BundleCalls(Operations):
    """The part of ``client.admin`` that is about bundles and the brokers that own them."""

    async def list_bundles(self, namespace: str = "") -> list[BundleInfo]:
        """Every bundle of a namespace, "": of all.  Raises NamespaceNotFound."""
        arguments.text("namespace", namespace)
        answer = await self._read("ListBundles", pb.ListBundlesRequest(namespace=namespace))
        return [BundleInfo(b.bundle, b.broker, b.epoch, b.cause, b.partitions) for b in answer.bundles]

    async def move_bundle(self, bundle: str, broker: str) -> None:
        """The broker owns it from now on, and keeps it until it goes, is drained or unloaded.  Idempotent.  Raises
        BundleNotFound, BrokerNotFound, InvalidArgument, and NotReady while it does not answer."""
        arguments.text("bundle", bundle)
        check_name("broker", broker)
        await self._write("MoveBundle", pb.MoveBundleRequest(bundle=bundle, broker=broker))

    async def split_bundle(self, bundle: str) -> tuple[str, str]:
        """The bundle becomes two, at the middle of its range, for now with the same owner; the two.  Idempotent.  Raises BundleNotFound,
        and InvalidArgument where it cannot be cut."""
        arguments.text("bundle", bundle)
        lower, upper = (await self._write("SplitBundle", pb.SplitBundleRequest(bundle=bundle))).bundles
        return lower, upper

    async def drain_broker(self, broker: str) -> None:
        """The broker runs on, gets no bundle from now on, and what it has goes to others, until ``undrain_broker``; a process of its name
        that starts meanwhile gets none either.  Idempotent.  Raises BrokerNotFound, and NotEnoughBrokers while nobody else could take
        them."""
        check_name("broker", broker)
        await self._write("DrainBroker", pb.DrainBrokerRequest(broker=broker, drained=True))

    async def undrain_broker(self, broker: str) -> None:
        """The broker may be given bundles again.  Idempotent.  Raises BrokerNotFound."""
        check_name("broker", broker)
        await self._write("DrainBroker", pb.DrainBrokerRequest(broker=broker))

    async def draining(self, broker: str, timeout_s: float) -> AsyncIterator[int]:
        """How many bundles a broker still has, now and again, until there is none.  Raises Timeout."""
        check_name("broker", broker)
        arguments.timeout_s(timeout_s)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            listed = (await self._read("ListBrokers", pb.ListBrokersRequest())).brokers
            left = next((len(b.bundles) for b in listed if b.name == broker), 0)
            if not left:
                return
            yield left
            if asyncio.get_running_loop().time() >= deadline:
                raise Timeout(f"{broker} still has {left} bundles; it goes on", timeout_s=timeout_s)
            await asyncio.sleep(PROGRESS_S)

    async def unload_broker(self, broker: str, bundles: list[str] | None = None) -> dict[str, str]:
        """What the broker has of ``bundles``, None: all that it has, goes to others, once: it may be given some again.  What moved, with
        its new owner.  Raises BrokerNotFound, BundleNotFound, and NotEnoughBrokers while nobody else could take them."""
        check_name("broker", broker)
        if bundles is not None and (not isinstance(bundles, list) or not 1 <= len(bundles) <= CHOSEN_MAX):
            raise arguments.refusal("bundles", bundles, f"a list of 1 to {CHOSEN_MAX} bundles, or None")
        for bundle in bundles or ():
            arguments.text("bundles", bundle)
        answer = await self._write("UnloadBroker", pb.UnloadBrokerRequest(broker=broker, bundles=bundles or ()))
        return {m.bundle: m.broker for m in answer.moved}
