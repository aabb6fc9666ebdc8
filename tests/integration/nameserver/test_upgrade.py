"""Versions side by side over a real ZooKeeper: what is written meanwhile, who joins, and the rise of the record format."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from kazoo.client import KazooClient

import stele.services.coordination.election as elections
import stele.services.coordination.metadata as metadata_module
from stele.nameserver.upgrade import Upgrade
from stele.services.coordination.members import Membership
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.name_register import remove_name
from stele.services.coordination.names import register_name
from stele.services.coordination.records import (
    ClusterRecord,
    MemberRecord,
    NamespaceRecord,
    TopicRecord,
    Versioned,
)
from stele.services.coordination.schema import CLUSTER
from stele.services.coordination.session import Session
from stele.services.errors import (
    CoordinationUnknown,
    FinalizeRefused,
    FormatUnknown,
    UpgradeNotFinalized,
)
from stele.services.pb import nameserver_pb2 as pb
from tests.integration.nameserver.cluster import Cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S

TOPIC = "demo/t"


class OlderProcess:
    """What ZooKeeper sees of a process that knows the first record format alone."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.session = Session(cluster.hosts, cluster.name, SESSION_TIMEOUT_S, record_format=1)
        self.name = name

    async def join(self, kind: type[Membership] = Membership) -> OlderProcess:
        await self.start()
        await self.register(kind)
        return self

    async def start(self) -> None:
        await self.session.start(20)
        await register_name(self.session, self.name, "127.0.0.1:1")

    async def register(self, kind: type[Membership] = Membership) -> None:
        await kind(self.session, "brokers", self.name, MemberRecord(endpoint="127.0.0.1:1", version="0.0.9")).register()


async def recorded(cluster: Cluster) -> ClusterRecord:
    found = await (await cluster.metadata()).get(CLUSTER, ClusterRecord)
    assert found is not None
    return found.record


async def at_first_format(cluster: Cluster, nameservers: int = 2, datanodes: int = 0) -> Cluster:
    """As it was made by a version that knew no other."""
    founder = OlderProcess(cluster, "founder")
    await founder.join()
    await founder.session.close()
    await remove_name((await cluster.metadata()).session, "founder")
    await cluster.start(nameservers=nameservers, datanodes=datanodes)
    assert (await recorded(cluster)).format == 1
    return cluster


async def finalize(cluster: Cluster, dry_run: bool = False, of: str = "") -> pb.FinalizeUpgradeResponse:
    request = pb.FinalizeUpgradeRequest(dry_run=dry_run)
    return await cluster.ask("FinalizeUpgrade", request, of=of)  # type: ignore[no-any-return]


async def test_a_new_cluster_begins_at_the_newest_format_and_every_process_says_what_it_knows(cluster: Cluster) -> None:
    await cluster.start(nameservers=2)
    seen = await cluster.ask("GetCluster", pb.GetClusterRequest())
    assert (seen.record_format, seen.known_format, (await recorded(cluster)).format) == (2, 2, 2)
    done = await finalize(cluster)
    assert (done.before, done.format, [(m.name, m.knows, m.hindrance) for m in done.members]) == (
        2,
        2,
        [("ns1", 2, ""), ("ns2", 2, "")],
    )


async def test_until_it_rises_nothing_is_written_that_an_older_process_would_lose(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_first_format(cluster, datanodes=3)
    await cluster.create(TOPIC, partitions=2)
    metadata = await cluster.metadata()

    async def scenario(kind: type[Transaction]) -> None:
        monkeypatch.setattr(metadata_module, "Transaction", kind)
        before = (
            await metadata.get(f"topics/{TOPIC}", TopicRecord),
            await metadata.get("namespaces/demo", NamespaceRecord),
        )
        with promise("nothing is written that an older process would lose"):
            for method, request in (
                ("AlterTopic", pb.AlterTopicRequest(topic=TOPIC, partitions=4)),
                ("CreateTopic", pb.CreateTopicRequest(topic="demo/r", partitions=1, replication=1, racks="require")),
                ("SplitBundle", pb.SplitBundleRequest(bundle="demo/00000000-0fffffff")),
            ):
                with pytest.raises(
                    UpgradeNotFinalized, match=r"takes record format 2, and the cluster is at 1: .*finalize-upgrade"
                ):
                    await cluster.ask(method, request, timeout_s=5)
            assert before == (
                await metadata.get(f"topics/{TOPIC}", TopicRecord),
                await metadata.get("namespaces/demo", NamespaceRecord),
            )

    assert elections.MetadataStore is MetadataStore
    await holds_and_mutant_fails(scenario, Transaction, "formats.WritesWhatItKnows")


async def test_it_rises_once_everybody_knows_and_what_takes_it_then_works(cluster: Cluster) -> None:
    await at_first_format(cluster, datanodes=3)
    await cluster.create(TOPIC, partitions=2)
    older = await OlderProcess(cluster, "br9").join()
    planned = await finalize(cluster, dry_run=True)
    assert (planned.before, planned.format) == (1, 2)
    assert {m.name: m.hindrance for m in planned.members if m.hindrance} == {
        "br9": "knows 1 and not 2: start it from the version that the others run"
    }
    for name in cluster.nameservers:
        with pytest.raises(FinalizeRefused, match="br9 knows 1 and not 2") as refused:
            await finalize(cluster, of=name)
        assert refused.value.facts["members"] == "br9"
    await older.session.close()
    metadata = await cluster.metadata()
    with pytest.raises(FinalizeRefused, match="br9 is not registered"):
        await finalize(cluster)
    assert await recorded(cluster) == replace(await recorded(cluster), format=1, finalizing=0)
    await remove_name(metadata.session, "br9")
    done = await finalize(cluster)
    assert (done.before, done.format) == (1, 2)
    assert [(await cluster.ask("GetCluster", pb.GetClusterRequest())).record_format] == [2]
    altered = await cluster.ask("AlterTopic", pb.AlterTopicRequest(topic=TOPIC, partitions=4))
    assert altered.topic.growing_to == 4
    assert (await finalize(cluster)).before == 2, "and again"


async def test_nobody_joins_who_does_not_know_the_format(cluster: Cluster) -> None:
    await at_first_format(cluster)
    number = iter(range(9))

    async def scenario(kind: type[Membership]) -> None:
        metadata = await cluster.metadata()
        known = await metadata.get(CLUSTER, ClusterRecord)
        assert known is not None
        version = await metadata.set(CLUSTER, replace(known.record, format=1, finalizing=0), known.version)
        late = OlderProcess(cluster, f"late{next(number)}")
        await late.start()
        await metadata.set(CLUSTER, replace(known.record, finalizing=2), version)
        try:
            with promise("nobody joins who does not know the cluster's record format"), pytest.raises(FormatUnknown):
                await late.register(kind)
        finally:
            await late.session.close()

    await holds_and_mutant_fails(scenario, Membership, "formats.JoinsUnasked")
    with pytest.raises(FormatUnknown, match="the cluster is at record format 2, and this version knows 1"):
        await OlderProcess(cluster, "later").start()


async def test_a_process_that_was_cut_off_while_the_cluster_rose_is_told_under_its_next_session(
    cluster: Cluster,
) -> None:
    await at_first_format(cluster)
    told: list[Any] = []
    session = Session(cluster.hosts, cluster.name, SESSION_TIMEOUT_S, record_format=1, on_mismatch=told.append)
    await session.start(20)
    metadata = await cluster.metadata()
    known = await metadata.get(CLUSTER, ClusterRecord)
    assert known is not None
    await metadata.set(CLUSTER, replace(known.record, format=2), known.version)
    session_id, password = session.credentials
    await end_session(cluster.hosts, session_id, password)
    await eventually(lambda: told, within_s=20)
    assert isinstance(told[0], FormatUnknown)
    await session.close()


async def end_session(hosts: str, session_id: int, password: bytes) -> None:
    """Somebody who presents a session's credentials may end it."""

    def end() -> None:
        client = KazooClient(hosts=hosts, client_id=(session_id, password))
        client.start(10)
        client.stop()
        client.close()

    await asyncio.to_thread(end)


class Interrupted(Upgrade):
    """Something happens right before its first write, or after it."""

    before: Callable[[], Awaitable[Any]] | None = None
    after: Callable[[], Awaitable[Any]] | None = None

    async def _write(self, cluster: Versioned[ClusterRecord], record: ClusterRecord) -> None:
        before, self.before = self.before, None
        if before is not None:
            await before()
        await super()._write(cluster, record)
        after, self.after = self.after, None
        if after is not None:
            await after()


async def interrupted(cluster: Cluster) -> Interrupted:
    controller = (await cluster.leader()).controller
    assert controller is not None

    async def mirrored(_: Any) -> None: ...

    return Interrupted(controller.leadership, MetadataStore(controller.upgrade._metadata.session), mirrored)


async def test_an_older_process_that_joins_at_the_last_moment_is_found(cluster: Cluster) -> None:
    await at_first_format(cluster)
    upgrade = await interrupted(cluster)
    upgrade.before = OlderProcess(cluster, "br9").join
    with pytest.raises(FinalizeRefused, match="br9 knows 1"):
        await upgrade.finalize()
    assert await recorded(cluster) == replace(await recorded(cluster), format=1, finalizing=0)


async def test_what_a_leader_left_that_died_in_between_is_gone_on_with_or_taken_back(cluster: Cluster) -> None:
    await at_first_format(cluster)

    async def die() -> None:
        raise CoordinationUnknown("as if it had died")

    upgrade = await interrupted(cluster)
    upgrade.after = die
    with pytest.raises(CoordinationUnknown):
        await upgrade.finalize()
    assert ((await recorded(cluster)).format, (await recorded(cluster)).finalizing) == (1, 2)
    with pytest.raises(FormatUnknown):
        await OlderProcess(cluster, "br9").join()
    metadata = await cluster.metadata()
    if await metadata.children("names") != ["ns1", "ns2"]:
        await remove_name(metadata.session, "br9")
    silent = await cluster.nameserver("ns3")
    await silent.stop()
    cluster.nameservers.pop("ns3")
    with pytest.raises(FinalizeRefused, match="ns3 is not registered"):
        await finalize(cluster)
    assert ((await recorded(cluster)).format, (await recorded(cluster)).finalizing) == (1, 0)
    await remove_name(metadata.session, "ns3")
    upgrade = await interrupted(cluster)
    upgrade.after = die
    with pytest.raises(CoordinationUnknown):
        await upgrade.finalize()
    assert (await finalize(cluster)).format == 2
    assert ((await recorded(cluster)).format, (await recorded(cluster)).finalizing) == (2, 0)


async def test_an_older_nameserver_may_lead_and_then_nothing_rises(cluster: Cluster) -> None:
    await at_first_format(cluster, nameservers=1)
    await cluster.nameserver("ns9", record_format=1)
    await cluster.nameserver("ns2")
    await cluster.crash("ns1")
    leader = await cluster.leader()
    assert leader is cluster.nameservers["ns9"]
    assert await cluster.ask("CreateNamespace", pb.CreateNamespaceRequest(namespace="made", bundles=4))
    with pytest.raises(FinalizeRefused, match=r"ns1 is not registered.*ns9 knows 1 and not 2"):
        await finalize(cluster, of="ns2")
    assert (await recorded(cluster)).format == 1
