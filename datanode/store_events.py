"""What a store sees of its peers and what its replicas do about it: events that nameservers hear over WatchStore.

Guarantee: an election names the sign that this store acted on, or none; the first write of a term, or of an owner epoch, is told once, by
the replica that led and stored it, and never where it may not have been the first.  The ring is bounded (services/events.py): what it has
forgotten is not known any more.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from stele.datanode.directory import GroupSpec
from stele.services.events import EventKind, EventRing, OwnEvent, event_id, handed_over_id, leader_elected_id
from stele.services.pb import datanode_pb2 as pb
from stele.services.raft.election import ElectionCause, Victory
from stele.services.raft.listener import PeerSign


@dataclass(slots=True)
class _Peer:
    """``lost_at``: when its connection went that has not come back.  The rest are ids of what was recorded: of that, of the newest sign
    since it was last heard, and of when its process was last seen to be gone."""

    lost_at: float | None = None
    lost: str = ""
    sign: str = ""
    gone: str = ""


class StoreEvents:
    """``changed()`` is called after each one.  ``now`` is monotonic seconds."""

    def __init__(self, store_id: int, now: Callable[[], float], changed: Callable[[], None]) -> None:
        self._ring = EventRing(f"store-{store_id}", uuid.uuid4().hex[:8])
        self._store_id, self._now, self._changed = store_id, now, changed
        self._peers: dict[int, _Peer] = {}
        self.elections: Counter[str] = Counter()  # that replicas of this store won, by cause

    @property
    def life(self) -> str:
        return self._ring.life

    @property
    def newest(self) -> int:
        """The number of the newest one; 0: there is none."""
        return self._ring.newest

    def messages(self, after: int) -> list[pb.StoreEvent]:
        """Those that came after that number and are kept, as nameservers are told of them."""
        now = self._now()
        return [_message(event, now) for event in self._ring.after(after)]

    # --- peers ------------------------------------------------------------------------------------------------------

    def on_peer(self, sign: PeerSign, store_id: int) -> None:
        """BEFORE the replicas are told: what they do about it names the event."""
        peer = self._peers.setdefault(store_id, _Peer())
        match sign:
            case PeerSign.CONNECTED | PeerSign.ACTIVE:
                peer.lost_at, peer.lost, peer.sign = None, "", ""
            case PeerSign.DISCONNECTED:
                peer.lost_at, peer.lost = self._now(), ""
            case PeerSign.GONE:
                lost = self._connection_lost(store_id, peer)
                peer.gone = peer.sign = self._saw(EventKind.PROCESS_GONE, store_id, self._now(), "refused", lost)
            case PeerSign.SILENT:
                peer.sign = self._saw(EventKind.PROCESS_SILENT, store_id, self._now(), "silent", "")

    def _connection_lost(self, store_id: int, peer: _Peer) -> str:
        """Recorded once something follows from it: links come and go, and the ring has better to remember."""
        if peer.lost_at is not None and not peer.lost:
            peer.lost = self._saw(EventKind.CONNECTION_LOST, store_id, peer.lost_at, "closed", peer.sign)
        return peer.lost

    def _saw(self, kind: str, store_id: int, at_s: float, cause: str, caused_by: str) -> str:
        id = self._ring.record(kind, f"store-{store_id}", at_s, cause=cause, caused_by=caused_by, about=store_id)
        self._changed()
        return id

    # --- replicas ---------------------------------------------------------------------------------------------------

    def elected(self, spec: GroupSpec, victory: Victory) -> None:
        """This store's replica leads."""
        self.elections[victory.cause] += 1
        facts = {"term": str(victory.term)}
        if victory.former:
            facts["former_store_id"] = str(victory.former)
        self._record(
            EventKind.LEADER_ELECTED,
            spec,
            victory.cause,
            self._sign_for(spec.group, victory),
            leader_elected_id(spec.group, victory.term),
            facts,
        )

    def _sign_for(self, group: int, victory: Victory) -> str:
        peer = self._peers.get(victory.former)
        match victory.cause:
            case ElectionCause.REFUSED if peer is not None:
                return peer.gone
            case ElectionCause.TIMEOUT if peer is not None:
                return peer.sign or self._connection_lost(victory.former, peer)
            case ElectionCause.TRANSFER:
                return handed_over_id(group, victory.former_term)
            case _:
                return ""

    def handed_over(self, spec: GroupSpec, term: int, successor: int, cause: str) -> None:
        """This store's replica, the leader of ``term``, has asked that of ``successor`` to lead."""
        facts = {"term": str(term), "successor_store_id": str(successor)}
        id = handed_over_id(spec.group, term)
        self._record(EventKind.LEADERSHIP_HANDED_OVER, spec, cause or "asked", "", id, facts)

    def written(self, spec: GroupSpec, term: int, owner_epoch: int, new_term: bool, new_owner: bool) -> None:
        """The first write of the term, of the owner epoch, or of both, is committed."""
        facts = {"term": str(term), "owner_epoch": str(owner_epoch)}
        kind, group = EventKind.PARTITION_WRITTEN, spec.group
        if new_term:
            elected = leader_elected_id(group, term)
            self._record(kind, spec, "new_leader", elected, event_id(kind, group, f"term-{term}"), facts)
        if new_owner:
            # Which bundle that is only nameservers know: they say from which event it follows.
            self._record(kind, spec, "new_owner", "", event_id(kind, group, f"epoch-{owner_epoch}"), facts)

    def _record(self, kind: str, spec: GroupSpec, cause: str, caused_by: str, id: str, facts: dict[str, str]) -> None:
        self._ring.record(kind, "", self._now(), cause=cause, caused_by=caused_by, id=id, about=spec, facts=facts)
        self._changed()


def _message(event: OwnEvent, now: float) -> pb.StoreEvent:
    message = pb.StoreEvent(
        number=event.number,
        id=event.id,
        kind=event.kind,
        cause=event.cause,
        caused_by=event.caused_by,
        facts=event.facts,
        age_ms=round(max(0.0, now - event.at_s) * 1000),
    )
    if isinstance(event.about, GroupSpec):
        message.topic, message.partition, message.group = event.about.topic, event.about.partition, event.about.group
    elif isinstance(event.about, int):
        message.peer_store_id = event.about
    return message
