"""Groups that sleep: an idle group says nothing, and costs nothing, until something happens to it.

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
deleted) or stepped down, and on doing so it said ``Awake`` to everyone to whom ``sleep`` was its last word (:meth:`_say_awake`).  S is FIFO
and loses nothing unless it breaks, so ``Awake`` comes behind W; a process that dies breaks S; one that hangs, or is cut off,
is silent on it.  A break, silence and ``Awake`` each give the follower its election deadline back.

Why a sleeping leader that was deposed harms nobody (H15).  It serves no read and acknowledges no write by itself: both wake it, and need
answers of a majority.  Check-quorum then counts from when the nodes were last heard, not from when it woke.

Why the followers of a living leader help nobody to depose it: woken by a question for their vote, they count their leader's node's
last word as the leader's.

``node_heard`` tells when a store was last heard, on the clock of ``now``; a replica to which nobody tells that never sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.reads import Reads
from stele.services.raft.state import RaftState


class Sleeping(Reads):
    """Both ends of ``AppendEntries.sleep`` and of ``Awake``."""

    def __init__(self, *library: Any, **parts: Any) -> None:
        self.asleep = False
        self.node_heard: Callable[[int], float] | None = None
        self._quiet_since: float | None = None
        self._newest_word = (0, 0.0)  # (term, request) of the leader's newest AppendEntries
        super().__init__(*library, **parts)

    # --- falling asleep -----------------------------------------------------------------------------------------------

    def _rest(self, now: float) -> None:
        """The leader's turn, before it sends: is there anything left to say?"""
        if not self._is_quiet(now):
            self._stir()
            return
        if self._quiet_since is None:
            self._quiet_since = now
        self._lulling = now - self._quiet_since >= self.timing.idle_s
        self.asleep = self._lulling and all(0 < peer.lulled <= peer.answered for peer in self._peers.values())

    def _is_quiet(self, now: float) -> bool:
        journal, last = self.journal, self.journal.last_index
        if self._pending_count() or self._has_reads() or self.node_heard is None or not self._peers:
            return False
        if not last == self.commit_index == self._applied == journal.synced_index:
            return False
        if journal.last_term != self.term or journal.disk_full:
            return False
        heard_from = now - self.timing.election_min_s
        return all(
            peer.match_index == last == peer.commit_sent
            and not (peer.inflight or peer.offered or peer.recovered_at)
            and self._is_connected(store)
            and self.node_heard(store) > heard_from
            for store, peer in self._peers.items()
        )

    def _heed_sleep(self, leader: int, m: pb.AppendEntries) -> None:
        """A follower, after it has handled ``m``: may it rely on its leader's node alone?"""
        journal, last = self.journal, self.journal.last_index
        word = (self.term, m.request)
        self._newest_word = max(word, self._newest_word)
        self.asleep = (
            m.sleep
            and word == self._newest_word
            and self.node_heard is not None
            and self.raft.state is RaftState.FOLLOWER
            and self.leader == leader
            and self._is_connected(leader)
            and m.prev_log_index == last == self.commit_index == journal.synced_index
            and not m.payloads
            and not self.recovering
        )

    # --- waking -------------------------------------------------------------------------------------------------------

    def _stir(self) -> None:
        """Something happens: a leader that is awake stays so for ``idle_s``."""
        self._quiet_since = None
        self._lulling = False

    def _wake(self) -> None:
        self._stir()
        if not self.asleep:
            return
        self.asleep = False
        if self.is_leader:
            for store, peer in self._peers.items():
                peer.heard_at = max(peer.heard_at, self._last_heard(store))
                peer.sent_at = float("-inf")
        else:
            self._leader_heard_at = max(self._leader_heard_at, self._last_heard(self.leader))
            self._election_deadline = self._leader_heard_at + self._election_timeout()

    def _wake_by_word(self, sender: int, message: pb.RaftMessage) -> None:
        """Before ``message`` is handled."""
        if not self.asleep:
            if self.is_leader and message.WhichOneof("body") != "append_answer":
                self._stir()
            return
        if self._sleeps_on(sender, message):
            return
        leader, deposed = self.leader, message.term > self.term
        self._wake()
        if not self.is_leader and sender != leader and not deposed:
            self._emit(leader, pb.RaftMessage(awake=pb.Awake()))

    def _sleeps_on(self, sender: int, message: pb.RaftMessage) -> bool:
        """What belongs to falling asleep, or is none of this replica's business."""
        body = message.WhichOneof("body")
        if message.term > self.term:
            return False
        if self.is_leader:
            answer = message.append_answer
            return body == "append_answer" and answer.success and not answer.recovering
        if sender == self.leader:
            return body == "append_entries" and message.append_entries.sleep and message.term == self.term
        return body == "awake"  # its leader hears it too

    def _on_awake(self, sender: int) -> None:
        """Whom this replica follows leads no more, nor ever again in this term; to a leader it was a word like any other."""
        if sender == self.leader and not self.is_leader:
            self._newest_word = (self.term, float("inf"))
            self.peer_gone(sender)

    def _say_awake(self) -> None:
        """This leader's end, or the end of its leadership: to all to whom ``sleep`` was the last word."""
        self.asleep = False
        for store, peer in self._peers.items():
            if peer.lulled:
                peer.lulled = 0
                self._emit(store, pb.RaftMessage(awake=pb.Awake()))

    def _greet(self, store_id: int) -> None:
        """A replica that knows of no leader may have been started on a link that stands, under a leader that sleeps (R4.1)."""
        if self._leader_commit_at_start is None and not self.is_leader and self.node_heard is not None:
            self._emit(store_id, pb.RaftMessage(awake=pb.Awake()))

    # --- events of links and nodes --------------------------------------------------------------------------------------

    def _wake_by_node(self, store_id: int) -> None:
        """A follower relies on its leader's node alone."""
        if self.is_leader or store_id == self.leader:
            self._wake()

    def peer_silent(self, store_id: int) -> None:
        """Nothing was heard of that store for ``election_min_s``, although its link stands."""
        if not self.failed:
            self._wake_by_node(store_id)

    def peer_heard(self, store_id: int) -> None:
        """The store speaks again.  Its replica may lead asleep and not know that it was missed."""
        if not self.failed and not self.is_leader and self.leader == store_id:
            self._emit(store_id, pb.RaftMessage(awake=pb.Awake()))

    def peer_gone(self, store_id: int) -> None:
        """A leader has been told of the break, and learns nothing new."""
        if not self.failed and not self.is_leader and self.leader == store_id:
            self._wake()
        super().peer_gone(store_id)

    # --- of the room above ----------------------------------------------------------------------------------------------

    def _last_heard(self, store_id: int) -> float:
        return self.node_heard(store_id) if self.node_heard is not None else float("-inf")

    def _pending_count(self) -> int:
        """Proposals that are not done."""
        raise NotImplementedError
