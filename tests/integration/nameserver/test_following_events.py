"""Following events goes on with another nameserver, however wrong the clock of the one before was."""

from __future__ import annotations

import asyncio

import stele
from stele.services.clock import SYSTEM
from tests.integration.nameserver.cluster import Cluster
from tests.support.eventually import eventually

HOUR_MS = 3_600_000


class Ahead:
    """A machine's clocks of which the one that people read is wrong."""

    monotonic = staticmethod(SYSTEM.monotonic)

    @staticmethod
    def wall_ms() -> int:
        return SYSTEM.wall_ms() + HOUR_MS


async def test_a_nameserver_whose_clock_is_ahead_silences_nobody_who_goes_on_with_another(cluster: Cluster) -> None:
    await cluster.start(nameservers=2, datanodes=3)
    leader = (await cluster.leader())._config.name
    (ahead,) = (name for name in cluster.nameservers if name != leader)
    cluster.nameservers[ahead].view.events._clock = Ahead()
    seen: list[stele.Event] = []

    def times(subject: str, kind: str = "topic_created") -> int:
        return len([e for e in seen if (e.kind, e.subject) == (kind, subject)])

    async with stele.connect(cluster.nameservers[ahead].endpoint) as client:

        async def follow() -> None:
            async for event in client.admin.events(follow=True):
                seen.append(event)

        client._known = [cluster.nameservers[ahead].endpoint]  # the first that it follows
        following = asyncio.create_task(follow())
        try:
            await cluster.create("demo/one", partitions=1, of=leader)
            await cluster.delete("demo/one")
            await eventually(lambda: times("demo/one", "topic_deleted") == 1)
            assert max(e.time_ms for e in seen) > SYSTEM.wall_ms() + HOUR_MS / 2, "told by the one that is ahead"
            client._known = [ns.endpoint for name, ns in cluster.nameservers.items() if name != ahead]
            await cluster.nameservers[ahead].stop()
            await cluster.create("demo/two", partitions=1, of=leader)
            await eventually(lambda: times("demo/two") == 1)
            assert (times("demo/one"), times("demo/one", "topic_deleted")) == (1, 1)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
