"""Altering topics.

Guarantee: a change that returned is recorded, and goes on whichever nameserver leads; ``altering`` says how far it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stele import arguments
from stele.model import OperationInfo, TopicInfo
from stele.operations import PROGRESS_S, Operations
from stele.services.errors import Timeout, TopicReplaced
from stele.services.pb import common_pb2, nameserver_pb2
from stele.services.topics import Retention, check_retention, parse_topic

COUNT_MAX = (1 << 31) - 1
ID_MAX = (1 << 63) - 1


class Alterations(Operations):
    """The part of ``client.admin`` that alters topics."""

    async def alter_topic(
        self,
        topic: str,
        *,
        partitions: int = 0,
        replication: int = 0,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
        topic_id: int = 0,
    ) -> TopicInfo:
        """Returns once the change is recorded; the replicas follow within moments.  None and 0: stays as it is; a retention of 0: no
        bound.  What has been removed does not come back.

        More ``partitions`` show, all at once, when each of them has a leader; until then ``growing_to`` of the topic says how many.  A
        key's messages may go to another partition from then on.  Another ``replication`` is reached partition by partition: who joins
        counts before anybody goes.  ``topic_id``: of the topic that is meant, should another one have its name by now.  Raises
        TopicNotFound, TopicReplaced, NotEnoughStores, and InvalidArgument for fewer partitions."""
        parse_topic(topic)
        arguments.whole("partitions", partitions, 0, COUNT_MAX)
        arguments.whole("replication", replication, 0, COUNT_MAX)
        arguments.whole("topic_id", topic_id, 0, ID_MAX)
        request = nameserver_pb2.AlterTopicRequest(
            topic=topic,
            retention=retention_asked(retention_bytes, retention_ms),
            partitions=partitions,
            replication=replication,
            topic_id=topic_id or await self._meant(topic),
        )
        return read_topic((await self._write("AlterTopic", request)).topic)

    async def _meant(self, topic: str) -> int:
        """The id of the topic that has the name now: the change is asked for again where no answer comes, and by then another may."""
        return int((await self._read("Lookup", nameserver_pb2.LookupRequest(topic=topic))).topic.id)

    async def altering(self, altered: TopicInfo, timeout_s: float) -> AsyncIterator[OperationInfo]:
        """How far the change of a topic is, as ``alter_topic`` returned it, now and again, until nothing is left to do.  Raises
        TopicNotFound, TopicReplaced, Timeout."""
        if not isinstance(altered, TopicInfo):
            raise arguments.refusal("altered", altered, "a TopicInfo of alter_topic")
        parse_topic(altered.topic)
        arguments.timeout_s(timeout_s)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            # BEFORE the topic: what is not seen of a change that the topic shows has ended.
            under_way = [o for o in await self.list_operations() if o.kind == "alter" and o.topic == altered.topic]
            now = read_topic((await self._read("Lookup", nameserver_pb2.LookupRequest(topic=altered.topic))).topic)
            if now.id != altered.id:
                raise TopicReplaced(f"topic {altered.topic} was made anew", expected=altered.id, got=now.id)
            is_seen = now.replication == altered.replication
            if is_seen and not under_way and now.partitions >= max(altered.partitions, altered.growing_to):
                return
            for operation in under_way:
                yield operation
            if asyncio.get_running_loop().time() >= deadline_s:
                raise Timeout(f"{altered.topic} is not altered yet; it goes on", timeout_s=timeout_s)
            await asyncio.sleep(PROGRESS_S)


def read_topic(t: nameserver_pb2.TopicInfo) -> TopicInfo:
    return TopicInfo(
        t.topic,
        t.id,
        t.partitions,
        t.replication,
        t.state,
        t.created_ms,
        t.retention.size_bytes,
        t.retention.age_ms,
        t.racks,
        t.growing_to,
    )


def retention_asked(size_bytes: int | None, age_ms: int | None) -> common_pb2.Retention:
    """The bounds that are asked for; None: nothing is said of it.  Raises InvalidArgument."""
    # BEFORE the message is made: it refuses numbers out of its range as a bare ValueError.
    check_retention(Retention(0 if size_bytes is None else size_bytes, 0 if age_ms is None else age_ms))
    return common_pb2.Retention(size_bytes=size_bytes, age_ms=age_ms)
