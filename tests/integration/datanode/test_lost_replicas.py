"""A replica whose folder is gone, on real replicas, under a nameserver's plan carried out step by step."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stele.datanode.watch import status_of
from stele.nameserver.catalog import Catalog, Member, MemberKind, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.effects import ReconcileEffect, RecordMaterialised
from stele.nameserver.reconcile import plan
from stele.nameserver.replicas import ReplicaOrders
from stele.nameserver.reports import leaders, merge
from stele.services.errors import SteleError
from stele.services.raft.storage import Members
from tests.integration.datanode.cluster import TOPIC, TOPIC_ID, Cluster, Node
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch

GROUP = 1
ROUND_S = 0.1
Planner = Callable[..., list[ReconcileEffect]]


class Rounds:
    """What the leading nameserver does about one partition, of which every store has reported its replica."""

    def __init__(self, made: Cluster, planner: Planner = plan) -> None:
        self._made, self._planner = made, planner
        self._orders = ReplicaOrders(made.channels, made.session.cluster_id, 2, lambda: None)
        stores = tuple(n.store_id for n in made.nodes.values())
        self._partition = PartitionEntry(GROUP, TOPIC, 0, stores, materialised=stores)

    async def once(self) -> None:
        running = [n for n in self._made.nodes.values() if n.role is not None]
        catalog = Catalog(
            topics={TOPIC: TopicEntry(TOPIC, TOPIC_ID, 1, 3, TopicState.READY)},
            partitions={GROUP: self._partition},
            datanodes={
                n.name: Member(MemberKind.DATANODES, n.name, n.endpoint, store_id=n.store_id, state=n.store.state)
                for n in running
            },
        )
        reports = {n.store_id: merge(None, status_of(n.store)) for n in running}
        effects = self._planner(catalog, reports, leaders(reports))
        orders = [e for e in effects if not isinstance(e, RecordMaterialised)]
        self._orders.submit(orders, catalog.live_stores)  # type: ignore[arg-type]
        await asyncio.gather(*self._orders._working.values(), return_exceptions=True)
        await asyncio.sleep(ROUND_S)

    async def until(self, reached: Callable[[], bool], within_s: float = 30.0) -> None:
        async def after_a_round() -> bool:
            await self.once()
            return reached()

        await eventually(after_a_round, within_s, describe=lambda: self._made.describe(GROUP))

    async def stop(self) -> None:
        await self._orders.stop()


def folder(node: Node) -> Path:
    return Path(node.config.data_dir) / "groups" / str(GROUP)


def counts(made: Cluster, *stores: int) -> bool:
    """Whether the leader's members are exactly these voters, committed, and each has a replica."""
    for node in made.nodes.values():
        group = node.store.registry.get(GROUP) if node.role is not None else None
        if group is not None and group.members_settled:
            held = {n.store_id for n in made.nodes.values() if n.role is not None and GROUP in n.store.replicas}
            away = {n.store_id for n in made.nodes.values() if n.role is None}
            return bool(group.members == Members(tuple(sorted(stores)))) and {*stores} <= held | away
    return False


async def three(made: Cluster) -> tuple[Node, Node, Node]:
    """The leader and the others of a group that holds a message."""
    nodes = [made.nodes[name] for name in ("dn1", "dn2", "dn3")]
    await made.create(GROUP, epoch=2)
    await made.appended(GROUP, make_batch())
    leader = await made.leader(GROUP)
    lost, other = [n for n in nodes if n is not leader]
    return leader, lost, other


async def test_p2_what_was_acknowledged_by_two_outlives_the_folder_of_one(datanodes: Cluster) -> None:
    """The other one is away meanwhile, and the third, which has not seen it, may not find a majority in an empty replica."""
    for name in ("dn1", "dn2", "dn3"):
        await datanodes.node(name).start()

    async def scenario(planner: Planner) -> None:
        rounds = Rounds(datanodes, planner)
        leader, lost, behind = await three(datanodes)
        await datanodes.replicated(GROUP, 1)
        await behind.stop()
        acknowledged = make_batch(3, size=100)
        [stored] = await datanodes.appended(GROUP, acknowledged)
        await lost.stop()
        await leader.stop()
        shutil.rmtree(folder(lost))
        try:
            await lost.start()
            await behind.start()
            for _ in range(30):  # several elections' time
                await rounds.once()
                for node in (lost, behind):
                    with suppress(SteleError):
                        await node.append(GROUP, make_batch(1, size=7))
            await leader.start()
            await eventually(lambda: any(n.store.registry.get(GROUP).members_settled for n in (leader, behind)), 20)
            with promise("what was acknowledged outlives the loss of a replica"):
                batches = (await (await datanodes.leader(GROUP)).fetch(GROUP, stored.base_offset, 1)).batches
                assert [(b.base_offset, b.batch) for b in batches] == [(stored.base_offset, acknowledged)]
            await rounds.until(lambda: counts(datanodes, *(n.store_id for n in (leader, lost, behind))))
            await datanodes.replicated(GROUP, 4, 20)
        finally:
            await rounds.stop()

    async def cleared(planner: Planner) -> None:
        try:
            await scenario(planner)
        finally:
            for node in datanodes.nodes.values():
                await node.stop()
                shutil.rmtree(folder(node), ignore_errors=True)
            for node in datanodes.nodes.values():
                await node.start()

    await holds_and_mutant_fails(cleared, plan, "catalog.begins_the_lost_anew")


async def test_a_replica_whose_vote_is_damaged_leaves_its_group_and_joins_again(datanodes: Cluster) -> None:
    await datanodes.start(3)
    leader, damaged, other = await three(datanodes)
    await datanodes.replicated(GROUP, 1)
    await damaged.stop()
    (folder(damaged) / "term").write_bytes(b"what is this")
    await damaged.start()
    await eventually(lambda: [r.state for r in status_of(damaged.store).replicas] == ["quarantined"])
    rounds = Rounds(datanodes)
    try:
        await rounds.until(lambda: counts(datanodes, leader.store_id, other.store_id))
        await rounds.until(lambda: counts(datanodes, leader.store_id, damaged.store_id, other.store_id))
        await other.stop()
        await datanodes.appended(GROUP, make_batch())  # it counts again
        await datanodes.replicated(GROUP, 2)
    finally:
        await rounds.stop()


async def test_p2_an_old_folder_that_is_back_after_its_store_has_left_neither_disturbs_nor_is_lost(
    datanodes: Cluster,
) -> None:
    await datanodes.start(3)
    leader, lost, other = await three(datanodes)
    await datanodes.replicated(GROUP, 1)
    await lost.stop()
    away = folder(lost).with_name("away")
    folder(lost).rename(away)
    await lost.start()
    rounds = Rounds(datanodes)
    try:
        await rounds.until(lambda: counts(datanodes, leader.store_id, other.store_id))
        await lost.stop()
        shutil.rmtree(folder(lost), ignore_errors=True)
        away.rename(folder(lost))
        await datanodes.appended(GROUP, make_batch())
        term = leader.store.registry.get(GROUP).term
        await lost.start()
        # It holds a log in which it votes, and asks for votes in vain: nobody counts it.
        campaigned = asyncio.get_running_loop().time() + 3 * datanodes.nodes["dn1"].config.election_timeout_max_s
        while asyncio.get_running_loop().time() < campaigned:
            assert (leader.store.registry.get(GROUP).is_leader, leader.store.registry.get(GROUP).term) == (True, term)
            await asyncio.sleep(0.05)
        await rounds.until(lambda: counts(datanodes, leader.store_id, lost.store_id, other.store_id))
        await other.stop()
        await datanodes.appended(GROUP, make_batch())
        await datanodes.replicated(GROUP, 3)
    finally:
        await rounds.stop()
