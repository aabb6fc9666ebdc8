"""What the replicas of each group apply, as the run knows it from whoever applied an entry first.

* An entry that was applied never changes, and has the same outcome everywhere.
* Nothing is written under an owner's epoch that was overtaken.
* An acknowledgement of one generation of a cursor changes nothing in another; no generation comes twice.  One that is confirmed is
  written under the generation that its message was delivered under, and what was not delivered under a generation is not acknowledged
  under it.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stele.datanode import commands
from stele.datanode.commands import AppendOutcome, CommandKind, CursorOutcome, Refused
from stele.model import Message
from stele.services.errors import StaleAck, SteleError, SubscriptionNotFound, TopicNotFound
from tests.simulation.cluster.ambient import resident

if TYPE_CHECKING:
    from stele.datanode.replica import Replica
    from tests.simulation.cluster.world import World

GONE = (StaleAck, SubscriptionNotFound, TopicNotFound)

_HEAD = struct.Struct(">BQ")
_ACKS = (CommandKind.ACK, CommandKind.COUNTED_ACK)
_NEW_GENERATION = (CommandKind.CREATE_CURSOR, CommandKind.RESET_CURSOR)
_Under = tuple[int, int, str, int]  # topic's id, partition, subscription, generation
_Cursor = tuple[int, int, int] | None  # generation, floor, ranges


@dataclass(slots=True)
class _History:
    """Of one group."""

    entries: dict[int, tuple[int, int, Any]] = field(default_factory=dict)  # index → term, checksum, outcome
    newest: int = 0
    epoch: int = 0  # of the owner, after the newest
    generation: int = 0  # the newest of any cursor


class Applied:
    def __init__(self, world: World) -> None:
        self._world = world
        self._groups: dict[int, _History] = {}
        self._acked: defaultdict[_Under, set[int]] = defaultdict(set)
        self._delivered: defaultdict[_Under, set[int]] = defaultdict(set)
        self.looked_at = 0

    def before(self, replica: Replica, payload: bytes) -> tuple[commands.Ack, _Cursor] | None:
        """The cursor that an acknowledgement is about to meet."""
        if payload[:1] and payload[0] in _ACKS:
            command = commands.decode(payload)
            assert isinstance(command, commands.Ack)
            return command, _cursor(replica, command.subscription)
        return None

    def after(
        self,
        replica: Replica,
        index: int,
        term: int,
        payload: bytes,
        outcome: Any,
        acked: tuple[commands.Ack, _Cursor] | None,
    ) -> None:
        self.looked_at += 1
        group = replica.spec.group
        history = self._groups.setdefault(group, _History())
        running = resident()
        if running is not None:
            self._world.durable.saw_store(replica._store_id, running.host)
        now = (term, zlib.crc32(payload), outcome)
        known = history.entries.setdefault(index, now)
        if known != now:
            self._world.violated("applied entry changed", f"{index} of group {group} was {known} and is {now}")
        if index > history.newest:
            history.newest = index
            self._check_owner(history, group, index, payload, outcome)
            if acked is not None and not isinstance(outcome, Refused):
                self._note(replica, acked[0])
            if b"outlives" in payload and payload[0] == CommandKind.APPEND and _is_stored(outcome):
                self._world.workload.outliving.applied(replica, payload, self._world.checks.topic_of(replica.spec))
        if acked is not None:
            command, before = acked
            after = _cursor(replica, command.subscription)
            if before is not None and command.generation != before[0] and after != before:
                self._world.violated(
                    "acknowledged in another generation",
                    f"{command} at {index} of group {group} changed {before} into {after}",
                )

    def _note(self, replica: Replica, command: commands.Ack) -> None:
        spec = replica.spec
        under = (spec.topic_id, spec.partition, command.subscription, command.generation)
        offsets = {offset for first, last in command.ranges for offset in range(first, last + 1)}
        if not offsets <= self._delivered[under]:
            self._world.violated(
                "acknowledged in another generation",
                f"{sorted(offsets - self._delivered[under])} are acknowledged under {under}, and were delivered to nobody under it",
            )
        self._acked[under] |= offsets

    def delivered(self, subscription: str, message: Message) -> None:
        """A user is given a message."""
        self._delivered[message.topic_id, message.partition, subscription, message.generation].add(message.offset)

    def confirmed(self, subscription: str, message: Message) -> None:
        """A client is told that its acknowledgement counts."""
        under = (message.topic_id, message.partition, subscription, message.generation)
        if message.offset not in self._acked[under]:
            self._world.violated(
                "acknowledged in another generation",
                f"{message.offset} of {message.topic}-{message.partition} for {subscription} is confirmed, and not written under {under}",
            )

    def refused(self, subscription: str, message: Message, error: SteleError) -> None:
        """A client is told what its acknowledgement failed with.  Where what it is about is gone it counts for nothing, written or not."""
        under = (message.topic_id, message.partition, subscription, message.generation)
        if error.definite and not isinstance(error, GONE) and message.offset in self._acked[under]:
            self._world.violated(
                "definite error",
                f"{message.offset} of {message.topic}-{message.partition} is acknowledged for {subscription}, and was refused: {error!r}",
            )

    def _check_owner(self, history: _History, group: int, index: int, payload: bytes, outcome: Any) -> None:
        kind, epoch = _HEAD.unpack_from(payload)
        if kind == CommandKind.TRIM:
            return
        if epoch < history.epoch and not isinstance(outcome, Refused):
            self._world.violated(
                "fenced owner",
                f"entry {index} of group {group} is written under epoch {epoch}; {history.epoch} had begun",
            )
        history.epoch = max(history.epoch, epoch)
        if kind in _NEW_GENERATION and isinstance(outcome, CursorOutcome):
            made = kind == CommandKind.RESET_CURSOR or outcome.created
            if made and outcome.generation <= history.generation:
                self._world.violated(
                    "generation used again",
                    f"{outcome} at {index} of group {group}: generation {history.generation} had been given",
                )
            history.generation = max(history.generation, outcome.generation)


def _is_stored(outcome: Any) -> bool:
    return isinstance(outcome, AppendOutcome) and not any(isinstance(result, Refused) for result in outcome.results)


def _cursor(replica: Replica, subscription: str) -> _Cursor:
    cursor = replica.partition.cursor(subscription)
    return (cursor.generation, cursor.ack_floor, cursor.range_count) if cursor is not None else None
