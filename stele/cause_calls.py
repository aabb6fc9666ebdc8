"""Why partitions, topics and brokers are as they are.

Guarantee: what any nameserver that answers remembers is in the answer; what nobody remembers is said to be missing, and who did not answer
is named.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from stele import arguments
from stele.causes import KnownEvents, of_broker, of_partition
from stele.kept_calls import KeptCalls
from stele.listings import Listings
from stele.model import CauseChain, Event, Explained, PartitionInfo
from stele.operations import READ_TIMEOUT_S
from stele.services.errors import BrokerNotFound, InvalidArgument, PartitionNotFound, SteleError, Timeout
from stele.services.pb import nameserver_pb2, nameserver_pb2_grpc
from stele.services.rpc.channels import Channels
from stele.services.rpc.status import typed_errors
from stele.services.topics import check_name, parse_topic

DIAL_TIMEOUT_S = 2.0
NUMBER_DIGITS_MAX = 20


def read_event(e: nameserver_pb2.Event) -> Event:
    return Event(e.id, e.time_ms, e.kind, e.subject, dict(e.facts), e.cause, e.caused_by)


class CauseCalls(Listings, KeptCalls):
    """The part of ``client.admin`` that says why."""

    _channels: Channels

    async def explain(self, what: str, *, at_ms: int = 0) -> Explained:
        """Why the leader and the owner of a partition, or of each one of a topic, are who they are, or why bundles came to a broker and
        left it: from the first sign that was seen to the first write after it.

        ``what``: a partition as namespace/topic/number or its group, a topic as namespace/topic, or the name of a broker.  ``at_ms``, unix
        time: only what had begun by then; 0: by now.

        Raises TopicNotFound, PartitionNotFound, and BrokerNotFound for a name of which nothing is known."""
        topic, partition, broker = _parse(what)
        arguments.whole("at_ms", at_ms, 0, (1 << 63) - 1, "of milliseconds since 1970")
        listed = [] if broker else await self._partitions(what, topic, partition)
        known, unheard = await self._known_events()
        by_ms = at_ms or (1 << 63)
        chains: list[CauseChain] = []
        for p in listed:
            chains += of_partition(known, p.topic, p.partition, p.group, p.bundle, by_ms)
        if broker:
            await self._check_known(broker, known)
            chains += of_broker(known, broker, by_ms)
        return Explained(tuple(chains), unheard)

    async def _partitions(self, what: str, topic: str, number: int | None) -> list[PartitionInfo]:
        listed = [
            p
            for p in await self.list_partitions(topic)
            if number is None or number == (p.partition if topic else p.group)
        ]
        if not listed:
            raise PartitionNotFound(f"there is no partition {what}; `stele partition ls` lists them")
        return listed

    async def _check_known(self, broker: str, known: KnownEvents) -> None:
        answer = await self._read("ListBrokers", nameserver_pb2.ListBrokersRequest())
        named = {b.name for b in answer.brokers}
        for event in known.events.values():
            named |= {event.facts.get("from"), event.facts.get("to")}
            if event.facts.get("kind") == "broker":
                named.add(event.subject)
        if broker not in named:
            raise BrokerNotFound(
                f"nothing is known of a broker {broker!r}; `stele broker ls` lists them", broker=broker
            )

    async def _known_events(self) -> tuple[KnownEvents, tuple[str, ...]]:
        """What every nameserver remembers, and those that did not answer.  Raises what the last one did where none answers."""
        endpoints = await self._client.nameserver_endpoints()
        told = await asyncio.gather(*(self._told_by(endpoint) for endpoint in endpoints), return_exceptions=True)
        known, unheard, failure = KnownEvents(), [], None
        for endpoint, answer in zip(endpoints, told, strict=True):
            if isinstance(answer, SteleError):
                failure = answer
                unheard.append(f"{endpoint}: {answer.message}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                for event, found in answer:
                    known.add(event, found)
        if failure is not None and len(unheard) == len(endpoints):
            raise failure
        return known, tuple(unheard)

    async def _told_by(self, endpoint: str) -> list[tuple[Event, bool]]:
        """Each event with its time on this machine's clock, but for what the nameserver found when it began."""
        channel = await self._channels.connected(endpoint, DIAL_TIMEOUT_S)
        stub: Any = nameserver_pb2_grpc.NameserverStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.Events(nameserver_pb2.EventsRequest())
        told: list[tuple[Event, bool]] = []
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                with typed_errors():
                    while (event := await stream.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                        if not event.found:
                            event.time_ms = time.time_ns() // 1_000_000 - event.age_ms
                        told.append((read_event(event), event.found))
        except TimeoutError:
            raise Timeout(f"{endpoint} was silent", timeout_s=READ_TIMEOUT_S) from None
        finally:
            stream.cancel()
        return told


def _parse(what: str) -> tuple[str, int | None, str]:
    """A topic, the number of a partition or, without a topic, of a group, and a broker."""
    refused = arguments.refusal(
        "what", what, "namespace/topic/number or a group, namespace/topic, or the name of a broker"
    )
    if not isinstance(what, str):
        raise refused
    topic, _, number = (what, "", "") if what.count("/") == 1 else what.rpartition("/")
    is_number = number.isascii() and number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX
    try:
        if "/" in what:
            parse_topic(topic)
        elif not is_number:
            return "", None, check_name("broker", what)
    except InvalidArgument:
        raise refused from None
    if not is_number and topic != what:
        raise refused
    return topic, int(number) if is_number else None, ""
