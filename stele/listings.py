"""What a cluster holds, listed page by page.

Guarantee: each page is of one moment, and the next goes on behind it by name, not by count: what is there all the while is listed once,
what comes or goes meanwhile perhaps.  No page outgrows a message, however much there is.
"""

from __future__ import annotations

from stele import arguments
from stele.alteration import read_topic
from stele.model import PartitionInfo, ReplicaInfo, TopicInfo
from stele.operations import Operations
from stele.services.errors import InvalidArgument
from stele.services.pb import datanode_pb2
from stele.services.pb import nameserver_pb2 as pb
from stele.services.topics import parse_topic

TOPICS_PER_PAGE, PARTITIONS_PER_PAGE = 5_000, 1_000
LISTED_MAX = (1 << 31) - 1


class Listings(Operations):
    """The part of ``client.admin`` that lists what there may be many of."""

    async def list_topics(self, namespace: str = "", *, limit: int | None = None, after: str = "") -> list[TopicInfo]:
        """The topics of a namespace, "": of all, by name: those behind the topic ``after``, at most ``limit``; fewer only where no more
        follow.  Raises NamespaceNotFound."""
        arguments.text("namespace", namespace)
        arguments.text("after", after)
        left = _checked(limit)
        found: list[TopicInfo] = []
        while left > 0:
            request = pb.ListTopicsRequest(namespace=namespace, limit=min(left, TOPICS_PER_PAGE), after=after)
            answer = await self._read("ListTopics", request)
            found += (read_topic(t) for t in answer.topics)
            if not answer.more:
                break
            after, left = answer.topics[-1].topic, left - len(answer.topics)
        return found

    async def list_partitions(
        self, topic: str = "", *, limit: int | None = None, after: str = ""
    ) -> list[PartitionInfo]:
        """Partitions with their replicas as the datanodes reported them, of a topic, "": of every one, by topic and number: those behind
        the partition ``after`` (namespace/topic/number), at most ``limit``; fewer only where no more follow.  Raises TopicNotFound."""
        if topic != "":
            parse_topic(topic)
        behind, left = _place(after), _checked(limit)
        found: list[PartitionInfo] = []
        while left > 0:
            request = pb.ListPartitionsRequest(
                topic=topic, limit=min(left, PARTITIONS_PER_PAGE), after_topic=behind[0], after_partition=behind[1]
            )
            answer = await self._read("ListPartitions", request)
            found += (_partition(p) for p in answer.partitions)
            if not answer.more:
                break
            last = answer.partitions[-1]
            behind, left = (last.topic, last.route.partition), left - len(answer.partitions)
        return found


def _checked(limit: int | None) -> int:
    return LISTED_MAX if limit is None else arguments.whole("limit", limit, 1, LISTED_MAX)


def _place(after: str) -> tuple[str, int]:
    topic, _, number = arguments.text("after", after).rpartition("/")
    if not after:
        return "", 0
    if not (topic.count("/") == 1 and number.isascii() and number.isdecimal() and len(number) <= 9):
        raise InvalidArgument(f"after: {arguments.shown(after)} is no partition; write it as namespace/topic/number")
    return topic, int(number)


def _partition(p: pb.PartitionInfo) -> PartitionInfo:
    reports: dict[int, datanode_pb2.ReplicaStatus] = {r.store_id: r.status for r in p.reports}
    return PartitionInfo(
        topic=p.topic,
        partition=p.route.partition,
        group=p.route.group,
        bundle=p.route.bundle,
        broker=p.route.broker,
        broker_address=p.route.broker_address.endpoint,
        owner_epoch=p.route.owner_epoch,
        leader_store_id=p.route.leader_store_id,
        replicas=tuple(_replica(r, reports.get(r.store_id)) for r in p.route.replicas),
    )


def _replica(r: pb.Replica, status: datanode_pb2.ReplicaStatus | None) -> ReplicaInfo:
    if status is None:
        return ReplicaInfo(r.store_id, r.endpoint, r.state, problem=r.problem)
    return ReplicaInfo(
        store_id=r.store_id,
        endpoint=r.endpoint,
        state=r.state or status.state,
        term=status.term,
        commit_index=status.commit_index,
        last_index=status.last_index,
        high_watermark=status.high_watermark,
        log_bytes=status.log_bytes,
        problem=status.problem,
        log_start=status.log_start_offset,
    )
