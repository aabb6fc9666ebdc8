"""R5.9, R5.10 on real processes: owners that die lose their bundles at once, owners that stood still get nothing accepted.

`make takeover` does the same more often, and says how long it took."""

from __future__ import annotations

from stele.services.errors import NotOwner
from tests.fault.takeover import SETTINGS, STALE_WRITES, Trials
from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=3, datanodes=3, brokers=2, settings=SETTINGS)

KILLS, PAUSES = 3, 20


async def test_r5_9_a_killed_owner_loses_its_bundles_before_its_session_ends(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        trials = Trials(cluster, client, "takeover/killed")
        await trials.begin()
        for _ in range(KILLS):
            await trials.kill_one()
        assert trials.seen.before_session_ended == KILLS
        assert await trials.stored() == trials.seen.values


async def test_r5_10_an_owner_that_stood_still_gets_nothing_accepted(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        trials = Trials(cluster, client, "takeover/paused")
        await trials.begin()
        await trials.part()
        for _ in range(PAUSES):
            await trials.pause_one()
        assert trials.seen.stale == {NotOwner.reason: PAUSES * STALE_WRITES}
        assert await trials.stored() == trials.seen.values
        assert trials.fenced(), "no partition ever had to refuse one: nothing was shown"
