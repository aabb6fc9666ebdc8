"""A datanode that is gone for good: its replicas are built anew elsewhere without a command, and it is welcome when it returns."""

from __future__ import annotations

import stele
from tests.fault.explained import explanation, kinds
from tests.fault.loaded import PARTITIONS, under_load
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

running_cluster = cluster_fixture(
    nameservers=2, datanodes=4, brokers=2, settings={"nameserver": {"store_down_after_s": "3"}}
)


async def test_a_store_that_is_lost_is_replaced_without_a_command(cluster: ClusterUnderTest) -> None:
    async def lose(client: stele.Client, topic: str) -> None:
        before = await client.admin.list_partitions(topic)
        stores = {s.name: s.store_id for s in await client.admin.list_stores()}
        held = {name: sum(s in {r.store_id for r in p.replicas} for p in before) for name, s in stores.items()}
        lost = max(held, key=lambda name: held[name])
        await cluster.kill(lost)

        async def whole_again() -> bool:
            now = await client.admin.list_partitions(topic)
            sets = [{r.store_id for r in p.replicas if r.state in ("leader", "follower")} for p in now]
            return len(now) == PARTITIONS and all(len(s) == 3 and stores[lost] not in s for s in sets)

        await eventually(whole_again, within_s=60, describe=cluster.describe)
        moved = next(p for p in before if stores[lost] in {r.store_id for r in p.replicas})

        async def explained() -> bool:
            chain = await explanation(cluster, f"{topic}/{moved.partition}", "replicas")
            return kinds(chain)[-4:] == ["process_gone", "member_gone", "replica_move_began", "replica_moved"]

        await eventually(explained, within_s=10, describe=cluster.describe)
        chain = await explanation(cluster, f"{topic}/{moved.partition}", "replicas")
        *_, gone, member, began, _ = (s["event"] for s in chain["steps"])
        assert kinds(chain)[0] == "connection_lost"
        assert (gone["subject"], member["subject"]) == (lost, lost)
        assert (gone["cause"], member["cause"], began["cause"]) == ("refused", "refused", "repair")
        assert chain["steps"][-2]["waited_for"] == "it to come back, for store_down_after_s"
        await cluster.start(lost)

        async def has_deleted() -> bool:
            store = next(s for s in await client.admin.list_stores() if s.name == lost)
            return store.live and store.status == "ready" and store.replicas == 0

        await eventually(has_deleted, within_s=30, describe=cluster.describe)
        assert await whole_again(), "nothing moves back to it"

    await under_load(cluster, lose)
    async with cluster.connect() as client:
        await eventually(lambda: is_healthy(client), within_s=20, describe=cluster.describe)
