"""Who a group consists of, entry by entry (H6).  Pure.

Guarantee: what is in force is what the newest membership entry of the log says, committed or not, and what it was
before as soon as that entry is cut off; two sets that follow one another have majorities that meet, because one voter
at most comes or goes.

The rule that makes single changes safe (Ongaro's dissertation, section 4.1, with the correction of 2015): a leader
starts one only when the one before is committed *and* it has committed an entry of its own term.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from stele.services.errors import InvalidArgument, NotReady
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.quorum import is_majority
from stele.services.raft.storage import MEMBERSHIP, Entry, Members, Snapshot

MEMBERS_MAX: Final = 32
RETRY_AFTER_MS: Final = 200


def encode(members: Members) -> bytes:
    return to_pb(members).SerializeToString()


def decode(payload: bytes) -> Members:
    """ValueError if the bytes do not name members as :func:`encode` does."""
    try:
        members = from_pb(pb.Members.FromString(payload))
    except DecodeError as e:
        raise ValueError(f"a membership entry cannot be read: {e}") from None
    if not members.voters or encode(members) != payload:
        raise ValueError("a membership entry cannot be read")
    return members


def to_pb(members: Members) -> pb.Members:
    return pb.Members(voters=members.voters, learners=members.learners)


def from_pb(message: pb.Members) -> Members:
    return Members(tuple(message.voters), tuple(message.learners))


def with_learner(members: Members, store_id: int) -> Members:
    return Members(members.voters, tuple(sorted({*members.learners, store_id})))


def with_voter(members: Members, store_id: int) -> Members:
    learners = tuple(store for store in members.learners if store != store_id)
    return Members(tuple(sorted({*members.voters, store_id})), learners)


def without(members: Members, store_id: int) -> Members:
    return Members(
        tuple(store for store in members.voters if store != store_id),
        tuple(store for store in members.learners if store != store_id),
    )


def check_change(now: Members, wanted: Members) -> None:
    """Raises InvalidArgument unless ``wanted`` may follow ``now``: one store comes, goes or is promoted; a voter was a
    learner before."""
    voters, learners = set(wanted.voters), set(wanted.learners)
    if (
        len(voters) < len(wanted.voters)
        or len(learners) < len(wanted.learners)
        or voters & learners
        or 0 in voters | learners
    ):
        raise InvalidArgument(f"{_described(wanted)} names a store twice, or store 0")
    if not voters:
        raise InvalidArgument("a group needs at least one voter")
    if len(voters | learners) > MEMBERS_MAX:
        raise InvalidArgument(f"a group of {len(voters | learners)} members; accepted: up to {MEMBERS_MAX}")
    before, learning = set(now.voters), set(now.learners)
    changed = {store for store in before | learning | voters | learners if _role(now, store) != _role(wanted, store)}
    if len(changed) != 1:
        raise InvalidArgument(
            f"from {_described(now)} to {_described(wanted)}: one member at a time, this changes {len(changed)}"
        )
    if voters - before - learning:
        raise InvalidArgument(f"store {changed.pop()} must be a learner before it is a voter")


def check_ready(
    group_id: int,
    history: MemberHistory,
    wanted: Members,
    commit_index: int,
    *,
    applied_index: int,
    current: bool,
    held: Mapping[int, int],
    whole: Collection[int],
) -> None:
    """Raises NotReady unless a leader may begin the change to ``wanted`` now (H6).

    ``current``: it has committed an entry of its own term.  ``held``: up to where each follower holds the log, as far
    as it counts. ``whole``: the stores that were heard of late and lost no log, the leader's own among them.
    """

    def refuse(why: str) -> None:
        raise NotReady(why, retry_after_ms=RETRY_AFTER_MS)

    # Two changes at once may leave two majorities that have nobody in common.  One that is committed is in flight until it is applied, and
    # there is room for one (services/raft/proposals.py).
    if history.index > applied_index:
        refuse(f"group {group_id} changes its members already")
    # One that a predecessor began and did not commit may still come into force behind this leader's back (the
    # correction of 2015).
    if not current:
        refuse(f"group {group_id} has a leader that is not current yet")
    # A voter that lacks entries holds up every commit that needs it, for as long as they take to arrive.
    for store in sorted(set(wanted.voters) - set(history.current.voters)):
        if (holds := held.get(store, 0)) < commit_index:
            refuse(f"store {store} holds group {group_id} up to entry {holds} of {commit_index}")
    # The new set is in force at once: without a majority that answers and can vote it commits nothing, not even the
    # next change.
    if not is_majority(whole, wanted.voters):
        refuse(f"too few of the stores {list(wanted.voters)} answer and hold group {group_id}")


def _role(members: Members, store_id: int) -> str:
    return "voter" if store_id in members.voters else "learner" if store_id in members.learners else ""


def _described(members: Members) -> str:
    learners = f" and learners {list(members.learners)}" if members.learners else ""
    return f"voters {list(members.voters)}{learners}"


class MemberHistory:
    """The sets that were in force in the part of the log that is kept, oldest first, each with the index of the entry
    that brought it."""

    def __init__(self, index: int, members: Members, entries: Iterable[Entry]) -> None:
        """``members`` are in force from ``index`` on; ``entries``: the membership entries behind it."""
        self._sets: list[tuple[int, Members]] = [(index, members)]
        for entry in entries:
            if entry.index > index:
                self.appended(entry)

    @property
    def current(self) -> Members:
        return self._sets[-1][1]

    @property
    def index(self) -> int:
        """Where the current one stands: a change is under way until this is committed."""
        return self._sets[-1][0]

    def at(self, index: int) -> Members:
        """The set in force at entry ``index``, which must not be older than what is kept."""
        return next(members for at, members in reversed(self._sets) if at <= index)

    def appended(self, entry: Entry) -> None:
        """An entry whose bytes name no members changes nothing, on every replica alike (H17)."""
        if entry.kind == MEMBERSHIP:
            with contextlib.suppress(ValueError):
                self._sets.append((entry.index, decode(entry.payload)))

    def truncated(self, index: int) -> None:
        """Entry ``index`` and everything after it is gone from the log."""
        while self._sets[-1][0] >= index:
            self._sets.pop()

    def installed(self, snapshot: Snapshot) -> None:
        self._sets = [(snapshot.index, snapshot.members)]

    def forget_before(self, index: int) -> None:
        """Sets that nothing from entry ``index`` on can ask for."""
        while len(self._sets) > 1 and self._sets[1][0] <= index:
            del self._sets[0]


def first_members(members: Members | Sequence[int]) -> Members:
    """Plain store ids are voters."""
    return members if isinstance(members, Members) else Members(tuple(sorted(members)))
