"""Links between stores that outlive the store at the other end (F2)."""

from __future__ import annotations

import asyncio

from stele.services.raft.lanes import Lanes
from stele.services.raft.links import Link, Stream
from stele.services.raft.transport import RaftTransport


class DialsTheRemoved(RaftTransport):
    """A store that was removed for good is dialled on, and asked for each time."""

    async def _dial(self, link: Link) -> None:
        while True:
            await super()._dial(link)
            await asyncio.sleep(0.01)


class GivesEverybodyRoom(Lanes):
    """Every group sends what it may have in flight, however many share the link."""

    def may_send(self, group: int, ahead_bytes: int) -> bool:
        return True


class TakesBackTheRemoved(RaftTransport):
    """A store that was removed for good is let in again when it dials itself."""

    def _takes_over(self, link: Link, stream: Stream) -> bool:
        link.tombstone = False
        return super()._takes_over(link, stream)
