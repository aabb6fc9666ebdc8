"""What the transport tells of its links and of what arrives on them, and what it asks for its peers."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.storage import Entry, SnapshotSource


class PeerSign(StrEnum):
    """What a store sees of another one's process."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    GONE = "gone"  # its port refuses
    SILENT = "silent"  # the stream stands, and nothing comes
    ACTIVE = "active"  # again


class Listener(Protocol):
    """Who is told what arrives: the registry."""

    def deliver(self, sender: int, message: pb.RaftMessage) -> None: ...

    def peer_connected(self, store_id: int) -> None: ...

    def peer_disconnected(self, store_id: int) -> None: ...

    def peer_gone(self, store_id: int) -> None: ...

    def peer_silent(self, store_id: int) -> None:
        """Nothing was heard for ``election_min_s`` although the stream stands: a pause or a partition.  Said once."""
        ...

    def peer_active(self, store_id: int) -> None:
        """It speaks again; before what it says is delivered."""
        ...

    def turn(self, store_id: int, group_id: int) -> None:
        """A group that may send that store nothing more (``may_send``) may try again."""
        ...

    def open_snapshot(self, group_id: int, index: int) -> SnapshotSource:
        """Blocks; called on a thread.  KeyError or a SteleError: there is none."""
        ...

    async def read_entries(self, group_id: int, first: int, last: int) -> list[Entry]:
        """Committed entries from ``first`` on, at least that one.  SteleError."""
        ...
