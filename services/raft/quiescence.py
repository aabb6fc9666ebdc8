"""Groups that sleep: an idle group sends nothing, and costs nothing, until something happens to it.

Guarantee: sleeping changes nothing that Raft promises.  A sleeping leader has no deadline, and neither have its followers as long as its
*node* is heard; whatever happens wakes a replica with its clocks where the nodes' words left them, as if the last heartbeat of the group
had come when the node was last heard.

    falling asleep   a leader to which nothing has happened for ``Timing.idle_s``, all of whose members can be talked to, hold everything
                     and know that it is committed, says ``sleep`` in its heartbeats; once all have answered it says no more.
                     A follower sleeps if it finds the same: this leader's term, its last entry, everything committed.
    waking           the leader: by anything that is asked or said, and by every change of a member's link or node.  It says a
                     heartbeat at once, which wakes the others.
                     A follower: by its leader's word; by another's, and then it asks its leader for one (``Awake``); and when its
                     leader's link breaks or node falls silent or is gone.

Why no follower sleeps for ever without a leader (liveness).  It sleeps by a word W of leader L of term T, over a stream S.  While S stands
and L's node speaks on it, either L's replica still leads in T, asleep or not, and then all is well; or it ended (failed, stopped,
deleted) or stepped down, and on doing so it sent ``Awake`` to everyone to whom ``sleep`` was its last word (:meth:`Quiescence.end`).
S is FIFO and loses nothing unless it breaks, so ``Awake`` comes behind W; a process that dies breaks S; one that hangs, or is cut off,
is silent on it.  A break, silence and ``Awake`` each give the follower its election deadline back.

Why a sleeping leader that was deposed harms nobody (H15).  It serves no read and acknowledges no write by itself: both wake it, and need
answers of a majority.  Check-quorum then counts from when the nodes were last heard, not from when it woke.

Why the followers of a living leader help nobody to depose it: woken by a question for their vote, they count their leader's node's
last word as the leader's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.progress import NEVER, Progress
from stele.services.raft.timing import Timing


class Quiescence:
    """``node_active_at`` tells when a store was last heard, on the replica's clock; a replica to which nobody tells that never sleeps."""

    __slots__ = ("_newest", "_quiet_since", "_timing", "asleep", "node_active_at", "offers_sleep")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.node_active_at: Callable[[int], float] | None = None
        self.asleep = False
        self.offers_sleep = False  # the leader's heartbeats say `sleep`
        self._quiet_since: float | None = None
        self._newest: tuple[int, float] = (0, 0.0)  # (term, request) of the leader's newest AppendEntries

    def last_active(self, store_id: int) -> float:
        return self.node_active_at(store_id) if self.node_active_at is not None else NEVER

    # --- falling asleep ---------------------------------------------------------------------------------------------------

    def on_turn(self, now: float, idle: bool, followers: Mapping[int, Progress]) -> None:
        """The leader's turn, before it sends.  ``idle``: it has nothing left to do, and nobody anything left to hear."""
        if not idle:
            self.mark_active()
            return
        if self._quiet_since is None:
            self._quiet_since = now
        self.offers_sleep = now - self._quiet_since >= self._timing.idle_s
        # Each has answered a `sleep` behind which nothing else was sent, and relies on this node alone: no more need be sent.
        self.asleep = self.offers_sleep and all(
            0 < progress.sleep_request <= progress.answered_request for progress in followers.values()
        )

    def is_quiet(
        self, now: float, last_index: int, followers: Mapping[int, Progress], connected: Collection[int]
    ) -> bool:
        """Whether every follower holds everything, knows it, and could be told otherwise at once.  One that is away might come
        back by a link that breaks nowhere near this replica, and would wait for a heartbeat that does not come."""
        if self.node_active_at is None or not followers:
            return False
        active_since = now - self._timing.election_min_s
        return all(
            progress.has_everything(last_index) and store in connected and self.node_active_at(store) > active_since
            for store, progress in followers.items()
        )

    def on_append(self, term: int, m: pb.AppendEntries, at_rest: bool) -> None:
        """A follower, after it has handled ``m``: may it rely on its leader's node alone?  ``at_rest``: it holds what the
        leader says is the end of the log, durably and committed, and the leader's link stands.

        Not by an older message that arrives once more: its leader may have ended since, and has sent its last word."""
        request = (term, m.request)
        self._newest = max(request, self._newest)
        self.asleep = m.sleep and request == self._newest and self.node_active_at is not None and at_rest

    # --- waking -----------------------------------------------------------------------------------------------------------

    def mark_active(self) -> None:
        """Something happens: a leader that is awake stays so for ``idle_s``."""
        self._quiet_since = None
        self.offers_sleep = False

    def wake(self) -> bool:
        """True if it slept."""
        self.mark_active()
        slept, self.asleep = self.asleep, False
        return slept

    def sleeps_on(self, sender: int, message: pb.RaftMessage, term: int, leader: int, leads: bool) -> bool:
        """Whether ``message`` belongs to falling asleep, or is none of this replica's business."""
        body = message.WhichOneof("body")
        if message.term > term:
            return False
        if leads:
            answer = message.append_answer
            return body == "append_answer" and answer.success and not answer.recovering
        if sender == leader:
            return body == "append_entries" and message.append_entries.sleep and message.term == term
        return body == "awake"  # its leader hears it too

    def on_leader_ended(self, term: int) -> None:
        """Whom this replica follows leads no more, nor ever again in ``term``: no word of it that is still on its way puts to sleep."""
        self._newest = (term, float("inf"))

    def on_silence(self, store_id: int, leader: int, leads: bool) -> bool:
        """A node was not heard for long although its link stands.  True if that wakes: a follower relies on its leader's node
        alone, a leader on everybody's."""
        return leads or store_id == leader

    def end(self, followers: Mapping[int, Progress]) -> list[int]:
        """This leader's end, or the end of its leadership: to whom it owes ``Awake``.  Those sleep, or will, by its last word."""
        self.asleep = False
        owed = [store for store, progress in followers.items() if progress.sleep_request]
        for store in owed:
            followers[store].sleep_request = 0
        return owed

    def validate(self) -> None:
        assert not self.offers_sleep or self._quiet_since is not None
        assert not self.asleep or self.node_active_at is not None
