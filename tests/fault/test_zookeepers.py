"""A cluster in use whose three ZooKeepers die, come back and are restarted, and whose processes lose their sessions: real processes.

`make zookeepers` plays the same, and says how long it took."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fault.zookeepers import Scenes, Seen, scenes_of
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=2, datanodes=3, brokers=2, zookeepers=3)

EVERY_S = 0.05


@pytest.fixture
async def scenes(cluster: ClusterUnderTest) -> AsyncIterator[Scenes]:
    async with scenes_of(cluster) as found:
        yield found


def check_unnoticed(seen: Seen) -> None:
    """By clients."""
    assert seen.sent > 0
    assert seen.failed == []
    assert seen.problems == []


async def test_one_dies_they_are_restarted_one_by_one_two_die_and_nobody_is_evicted(
    cluster: ClusterUnderTest, scenes: Scenes
) -> None:
    before = {p.name: p.pid for p in cluster.local.status()}
    sessions = await scenes.sessions()

    async def scene() -> None:
        await scenes.kill_leader(for_s=0.2)
        await scenes.restart_one_by_one()
        await scenes.kill_two(for_s=4.5)  # longer than sessions live unheard: who is to end them is dead, too

    check_unnoticed(await scenes.play(scene, EVERY_S))
    assert await scenes.sessions() == sessions
    assert cluster.local.ensemble.problems() == []
    after = {p.name: p.pid for p in cluster.local.status()}
    assert {name for name in before if after[name] != before[name]} == {"zk1", "zk2", "zk3"}


async def test_r5_7_each_role_in_turn_and_all_together_are_back_after_their_sessions_expired(scenes: Scenes) -> None:
    async def scene() -> None:
        for name in await scenes.one_of_each_role():
            await scenes.expire(name)
        await scenes.expire()

    seen = await scenes.play(scene, EVERY_S)
    check_unnoticed(seen)
    assert seen.registered_s.keys() == (await scenes.sessions()).keys(), "each has had a new session"
