"""What is killed with -9 is named as the cause of what came of it, with how it was seen and how long each step took."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import stele
from tests.fault.explained import command, explanation, kinds
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually

# Sessions that outlast the test's looks: what is seen sooner has to be what is acted on.
running_cluster = cluster_fixture(
    nameservers=3,
    datanodes=3,
    brokers=2,
    settings={"broker": {"session_timeout_s": "20"}, "nameserver": {"leader_balance_after_s": "0"}},
)

PARTITIONS = 8


@contextlib.asynccontextmanager
async def writing(client: stele.Client, topic: str) -> AsyncIterator[None]:
    """To every partition, over and over."""

    async def write() -> None:
        async with client.producer(topic, send_timeout_s=60) as producer:
            while True:
                await asyncio.gather(*(producer.send(b"x", partition=p) for p in range(PARTITIONS)))
                await asyncio.sleep(0.01)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def assert_in_order(chain: dict[str, Any], within_ms: int) -> None:
    at = [s["at_ms"] for s in chain["steps"]]
    assert at[0] == 0, chain
    assert all(0 <= later <= within_ms for later in at), chain
    assert chain["write_known"], chain


async def test_a_killed_leader_is_named_by_what_its_follower_saw(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("why/leader", partitions=PARTITIONS, replication=3)
        names = {s.store_id: s.name for s in await client.admin.list_stores()}
        async with writing(client, "why/leader"):
            led = (await client.admin.list_partitions("why/leader"))[0]
            dead = names[led.leader_store_id]
            await cluster.kill(dead)

            async def told() -> bool:
                chain = await explanation(cluster, "why/leader/0", "leader")
                return bool(chain["write_known"]) and kinds(chain)[-1] == "partition_written" and len(kinds(chain)) > 2

            await eventually(told, within_s=30, describe=cluster.describe)
            chain = await explanation(cluster, "why/leader/0", "leader")
            assert kinds(chain)[0] == "connection_lost"
            assert kinds(chain)[-3:] == ["process_gone", "partition_leader_elected", "partition_written"]
            lost, *_, gone, elected, written = (s["event"] for s in chain["steps"])
            assert (lost["subject"], gone["subject"], gone["cause"]) == (dead, dead, "refused")
            assert elected["cause"] == "refused"
            assert elected["facts"]["former"] == dead
            assert elected["facts"]["leader"] == gone["facts"]["seen_by"] != dead
            assert written["caused_by"] == elected["id"]
            assert chain["steps"][-2]["waited_for"] == "a majority's votes"
            assert_in_order(chain, 15_000)
            shown = await command(cluster, "explain", "why/leader/0")
            assert "process_gone" in shown
            assert "its port to refuse" in shown
        await cluster.start(dead)
        await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)


async def test_a_killed_owner_is_named_by_what_the_leading_nameserver_saw(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("why/owner", partitions=PARTITIONS, replication=3)

        async def shared() -> bool:
            return {p.broker for p in await client.admin.list_partitions("why/owner")} == {"br1", "br2"}

        await eventually(shared, within_s=30, describe=cluster.describe)
        async with writing(client, "why/owner"):
            await asyncio.sleep(0.5)
            owned = next(p for p in await client.admin.list_partitions("why/owner") if p.broker == "br1")
            what = f"why/owner/{owned.partition}"
            await cluster.kill("br1")

            async def told() -> bool:
                return kinds(await explanation(cluster, what, "owner"))[-2:] == ["bundle_moved", "partition_written"]

            await eventually(told, within_s=30, describe=cluster.describe)
            chain = await explanation(cluster, what, "owner")
            assert kinds(chain)[0] == "connection_lost"
            assert kinds(chain)[-3:] == ["process_gone", "bundle_moved", "partition_written"]
            lost, *_, gone, moved, _ = (s["event"] for s in chain["steps"])
            assert (lost["subject"], gone["subject"], gone["cause"]) == ("br1", "br1", "refused")
            assert gone["facts"]["seen_by"] == (await client.admin.cluster()).leader
            assert (moved["cause"], moved["facts"]["from"], moved["facts"]["to"]) == ("gone", "br1", "br2")
            assert_in_order(chain, 15_000)
            left = await explanation(cluster, "br1", "bundles that left it")
            assert kinds(left)[0] == "connection_lost"
            assert moved["id"] in [s["id"] for s in left["steps"]]
        await cluster.start("br1")
        await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)


async def test_what_the_nameserver_alone_saw_that_died_is_not_known_any_more(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("why/forgotten", partitions=PARTITIONS, replication=3)
        owned = (await client.admin.list_partitions("why/forgotten"))[0]
        await cluster.kill(owned.broker)

        async def moved() -> bool:
            now = (await client.admin.list_partitions("why/forgotten"))[0]
            return now.broker not in ("", owned.broker)

        await eventually(moved, within_s=30, describe=cluster.describe)
        leader = (await client.admin.cluster()).leader
        await cluster.kill(leader)

        async def forgotten() -> bool:
            return kinds(await explanation(cluster, "why/forgotten/0", "owner"))[:2] == ["?", "bundle_moved"]

        await eventually(forgotten, within_s=30, describe=cluster.describe)
        chain = await explanation(cluster, "why/forgotten/0", "owner")
        assert chain["steps"][0]["id"].startswith(f"process_gone/{owned.broker}@{leader}."), "it says who had seen it"
        assert "not known any more" in await command(cluster, "explain", "why/forgotten/0")
        await cluster.start(leader)
        await cluster.start(owned.broker)
        await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)
