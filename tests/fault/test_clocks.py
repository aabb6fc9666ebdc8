"""Datanodes whose wall clocks are set a year ahead, as processes: nothing is removed before its time, running or restarted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import stele
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

YEAR_S = 366 * 86_400
HOUR_MS = 3_600_000
SHORT_MS = 2_000
PARTITIONS = 3
DATANODES = ("dn1", "dn2", "dn3")
SETTINGS = {
    "datanode": {
        "retention_check_s": "0.5",
        "snapshot_bytes": "64KiB",
        "snapshot_interval_s": "1",
        "segment_bytes": "1MiB",
    }
}
_number = itertools.count(1)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / "ahead_s"
    path.write_text("0")
    return path


@pytest.fixture(scope="module", name="running_cluster")
def running(clock: Path) -> Iterator[ClusterUnderTest]:
    env = {
        "PYTHONPATH": str(Path(__file__).parents[1] / "support" / "set_clock"),
        "TEST_CLOCK_FILE": str(clock),
        "TEST_CLOCK_NAMES": ",".join(DATANODES),
    }
    cluster = start_cluster(1, len(DATANODES), 1, SETTINGS, env)
    try:
        yield cluster
    finally:
        remove_cluster(cluster)


async def starts(client: stele.Client, topic: str) -> list[int]:
    return [p.log_start for p in await client.admin.list_partitions(topic)]


async def removed_since(client: stele.Client, cluster: ClusterUnderTest) -> None:
    """Returns once messages of a topic that keeps them for a moment are gone from every partition: retention has been decided anew, with
    the clocks as they are now, by whoever leads."""
    topic = f"clocks/short{next(_number)}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3, retention_ms=SHORT_MS)
    ledger = Ledger(client, topic, PARTITIONS)
    await ledger.must_send(60 * PARTITIONS, 4_000)

    async def all_gone() -> bool:
        await ledger.send(PARTITIONS, 4_000)  # a log can only begin behind what was stored later
        return min(await starts(client, topic)) > 0

    await eventually(all_gone, 60, every_s=0.3, describe=cluster.describe)


async def test_p36_clocks_a_year_ahead_remove_nothing_that_is_younger_than_its_retention(
    cluster: ClusterUnderTest, clock: Path
) -> None:
    async with cluster.connect(timeout_s=30) as client:
        await client.admin.create_topic("clocks/kept", partitions=PARTITIONS, replication=3, retention_ms=HOUR_MS)
        ledger = Ledger(client, "clocks/kept", PARTITIONS)
        await ledger.must_send(100 * PARTITIONS, 4_000)
        await removed_since(client, cluster)  # which takes longer than snapshots take to come
        assert await starts(client, "clocks/kept") == [0] * PARTITIONS
        clock.write_text(str(YEAR_S))
        await removed_since(client, cluster)
        assert await starts(client, "clocks/kept") == [0] * PARTITIONS
        for name in DATANODES:  # one after the other, each with what it recorded or did not
            await cluster.kill(name)
            await cluster.start(name)
        await removed_since(client, cluster)
        clock.write_text("0")
        await removed_since(client, cluster)
        await ledger.must_send(PARTITIONS)
        assert await starts(client, "clocks/kept") == [0] * PARTITIONS
        await ledger.check(60)
