"""What waits to be sent to one peer: words before bulk, and bulk by turns.

Guarantee: what carries entries (*bulk*) never holds up what carries none, such as heartbeats, votes and answers; of bulk no more waits
than ``BULK_BYTES_MAX`` and what one group may have in flight; the groups that find no room get it in turn, a batch each.

Order is kept where somebody relies on it: what a leader says to its follower in a group stays behind the entries that it was sent
before.  A vote or an answer relies on none, and overtakes.

Use: ``may_send`` before bulk is put in; ``next_turns`` after something was taken out, and whoever it names asks again.  A turn that is not
used ends once no bulk waits.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.replication import BATCH_BYTES_MAX

BULK_BYTES_MAX: Final = 4 << 20  # of all groups together; below what a slow network carries within an election timeout
QUEUE_BYTES_MAX: Final = 64 << 20  # of words too: beyond it the peer reads nothing, and the link is broken on purpose
FRAME_BYTES_MAX: Final = 1 << 20  # a frame is closed once it holds this much; an entry of the largest size still fits
OVERTAKES: Final = frozenset({"request_vote", "vote_answer", "append_answer"})


class Lanes:
    """Of one peer."""

    def __init__(self) -> None:
        self._words: deque[tuple[pb.RaftMessage, int]] = deque()
        self._bulk: deque[tuple[pb.RaftMessage, int]] = deque()
        self._bytes = self._bulk_bytes = 0
        self._in_bulk: Counter[int] = Counter()  # messages there, by group
        self._waiting: dict[int, None] = {}  # groups that found no room, in the order of their turns
        self._turns: set[int] = set()  # groups that have a turn and have not used it

    def clear(self) -> None:
        for held in (self._words, self._bulk, self._in_bulk, self._waiting, self._turns):
            held.clear()
        self._bytes = self._bulk_bytes = 0

    # --- turns ------------------------------------------------------------------------------------------------------------

    def may_send(self, group: int, ahead_bytes: int) -> bool:
        """Whether ``group`` may put in one more batch, ``ahead_bytes`` of its own being on their way here.  If not, its turn will come."""
        if group in self._turns:
            self._turns.discard(group)
            return True
        waits = self._bulk_bytes + ahead_bytes
        if not waits or (not self._waiting and waits < BULK_BYTES_MAX):
            self._waiting.pop(group, None)
            return True
        self._waiting.setdefault(group)
        return False

    def next_turns(self) -> list[int]:
        """The groups whose turn has come."""
        if not self._bulk:
            self._turns.clear()
        room = BULK_BYTES_MAX - self._bulk_bytes - len(self._turns) * BATCH_BYTES_MAX
        turns = []
        while self._waiting and room > 0:
            group = next(iter(self._waiting))
            del self._waiting[group]
            turns.append(group)
            room -= BATCH_BYTES_MAX
        self._turns.update(turns)
        return turns

    # --- what waits -------------------------------------------------------------------------------------------------------

    def put(self, message: pb.RaftMessage) -> bool:
        """False: more waits than may, and ``message`` is not put in."""
        size = message.ByteSize()
        if self._bytes + size > QUEUE_BYTES_MAX:
            return False
        body = message.WhichOneof("body")
        if body not in OVERTAKES and (message.append_entries.payloads or message.group in self._in_bulk):
            self._bulk.append((message, size))
            self._bulk_bytes += size
            self._in_bulk[message.group] += 1
        else:
            self._words.append((message, size))
        self._bytes += size
        return True

    def take(self) -> list[pb.RaftMessage]:
        """The messages of the next frame."""
        messages: list[pb.RaftMessage] = []
        size = 0
        while self._words and size < FRAME_BYTES_MAX:
            message, message_bytes = self._words.popleft()
            messages.append(message)
            size += message_bytes
        while self._bulk and size < FRAME_BYTES_MAX:
            message, message_bytes = self._bulk.popleft()
            messages.append(message)
            size += message_bytes
            self._bulk_bytes -= message_bytes
            self._in_bulk[message.group] -= 1
            if not self._in_bulk[message.group]:
                del self._in_bulk[message.group]
        self._bytes -= size
        return messages
