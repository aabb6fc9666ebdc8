"""A load on a real cluster while something happens to it, and the verdict of the client's own record."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import stele
from stele.lab.checker import judge
from stele.lab.history import History
from stele.lab.load import Load
from tests.support.cluster import ClusterUnderTest
from tests.support.eventually import eventually

PARTITIONS = 4
_number = itertools.count(1)


async def new_topic(client: stele.Client) -> str:
    topic = f"fault/t{next(_number)}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)

    async def whole() -> bool:
        partitions = await client.admin.list_partitions(topic)
        return all(p.leader_store_id and p.broker for p in partitions)

    await eventually(whole, within_s=20)
    return topic


async def under_load(
    cluster: ClusterUnderTest,
    during: Callable[[stele.Client, str], Awaitable[None]],
    messages: int = 4_000,
    seconds: float = 8.0,
) -> None:
    """Runs ``during`` while messages flow, then judges."""
    async with cluster.connect(timeout_s=30) as client:
        topic = await new_topic(client)
        history = History()
        load = Load(client, topic, history, messages, 100, seconds, PARTITIONS)
        consumer = asyncio.create_task(load.consume("s", "c1"))
        producers = [asyncio.create_task(load.produce(i, 2)) for i in range(2)]
        try:
            await asyncio.sleep(1.0)
            await during(client, topic)
            await asyncio.wait_for(asyncio.gather(*producers), 90)
            delivered = await load.all_delivered(lambda n: None)
            missing = sorted(str(place) for m, place in history.acked.items() if m not in history.delivered)
            assert delivered, f"{len(missing)} messages were acknowledged and not delivered: {missing[:20]}"
            await load.read_back(lambda n: None)
        finally:
            for task in (consumer, *producers):
                task.cancel()
            await asyncio.gather(consumer, *producers, return_exceptions=True)
    verdict = judge(history)
    assert verdict.holds, "\n".join(verdict.problems)
    assert verdict.acknowledged == messages, f"{len(history.failed)} sends failed: {list(history.failed.values())[:3]}"
