"""How far a cluster's metadata has come, as far as one party knows.  Pure.

Guarantee: what is joined never goes back.  Every store keeps durably the highest that a leading nameserver told it, so that a ZooKeeper
which was put back to an older copy, and would give ids out a second time, is known for what it is.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from stele.services.pb import datanode_pb2


@dataclass(frozen=True, slots=True)
class HighWater:
    """The highest epoch of a leading nameserver, and the next ids of topics, groups and stores; 0: not known."""

    epoch: int = 0
    topics: int = 0
    groups: int = 0
    stores: int = 0

    @classmethod
    def of(cls, message: datanode_pb2.HighWater) -> HighWater:
        return cls(message.epoch, message.topics, message.groups, message.stores)

    def message(self) -> datanode_pb2.HighWater:
        return datanode_pb2.HighWater(epoch=self.epoch, topics=self.topics, groups=self.groups, stores=self.stores)

    def joined(self, other: HighWater) -> HighWater:
        return HighWater(*map(max, astuple(self), astuple(other)))

    def beyond(self, other: HighWater) -> tuple[str, ...]:
        """In which of its fields it is higher than ``other``."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) > getattr(other, f.name))


NOTHING_TOLD = HighWater()
