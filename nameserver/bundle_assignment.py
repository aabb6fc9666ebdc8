"""Which broker owns which bundle of topics.  Pure.

Guarantee: every change raises the bundle's epoch, so that whatever a former owner still sends is fenced (R5.10); no bundle is given to
a broker that is not registered, or whose process is known to be gone (R5.9); a bundle moves only when its owner may not keep
it or when moving it makes the cluster more even; where everything fits, nothing moves.

A broker that registers again is a new incarnation: an assignment written before that was meant for the old one and is renewed
under a higher epoch, even if the name stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stele.nameserver.catalog import BundleEntry, Member, MemberState

EVENING_MOVES_MAX = 4  # bundles moved per round merely to even out; each costs its topics a short pause


class Pulse(StrEnum):
    """What the leader's own connection to a broker says.  It only hints: registration in ZooKeeper is what counts, and a wrong hint is
    made harmless by the epoch."""

    UNPROBED = "unprobed"
    ALIVE = "alive"
    SILENT = "silent"  # connects or hangs, but does not answer
    REFUSED = "refused"  # its connection broke and its port refuses: the process is gone


@dataclass(frozen=True, slots=True)
class BrokerCandidate:
    member: Member
    pulse: Pulse = Pulse.ALIVE


@dataclass(frozen=True, slots=True)
class Assign:
    """Give ``bundle`` to ``broker`` ("" where nobody may have it) under ``epoch``."""

    bundle: str
    broker: str
    epoch: int
    former: str
    cause: str  # unassigned, gone, reregistered, draining, even, overtaken


def may_keep(bundle: BundleEntry, broker: BrokerCandidate | None) -> bool:
    """Whether the owner that the record names still is the process that was meant and may go on."""
    return (
        broker is not None
        and broker.pulse is not Pulse.REFUSED
        and broker.member.joined_zxid <= bundle.assigned_zxid
        and broker.member.state == MemberState.READY
    )


def takers(brokers: Collection[BrokerCandidate]) -> list[str]:
    """The brokers that may be given bundles, by name: registered, ready and probed alive; those that are silent only where nobody
    answers at all."""
    ready = [b for b in brokers if b.member.state == MemberState.READY and b.pulse is not Pulse.REFUSED]
    alive = sorted(b.member.name for b in ready if b.pulse is Pulse.ALIVE)
    if alive or any(b.pulse is Pulse.UNPROBED for b in ready):
        return alive
    return sorted(b.member.name for b in ready)


def assign(
    wanted: Sequence[str],
    records: Mapping[str, BundleEntry],
    brokers: Mapping[str, BrokerCandidate],
    evening_moves_max: int = EVENING_MOVES_MAX,
    seen: Mapping[str, int] | None = None,
) -> list[Assign]:
    """The changes that give every bundle in ``wanted`` an owner, evenly, moving as little as that takes.

    ``seen``: the highest owner epoch that a bundle's partitions know of.  Every write under a lower one is refused (R5.10), so a bundle
    whose record is behind it, as after ZooKeeper was put back to an older copy, is given anew above it."""
    seen = seen or {}
    may_take = takers(brokers.values())
    owned: dict[str, list[str]] = {name: [] for name in may_take}
    homeless: list[str] = []
    overtaken: list[str] = []
    for name in sorted(wanted):
        record = records.get(name)
        if record is not None and may_keep(record, brokers.get(record.broker)):
            owned.setdefault(record.broker, []).append(name)
            if seen.get(name, 0) > record.epoch:
                overtaken.append(name)
        else:
            homeless.append(name)

    changes: dict[str, tuple[str, str]] = {name: (records[name].broker, "overtaken") for name in overtaken}
    for name in homeless:
        record = records.get(name)
        former = record.broker if record is not None else ""
        cause = _cause(record, brokers.get(former))
        if may_take:
            taker = _preferred(former, may_take, owned, len(wanted))
            owned[taker].append(name)
            changes[name] = (taker, cause)
        elif former and former not in brokers:
            # Who is registered keeps what nobody else can take: that its port seems to refuse may be the leader's own trouble.
            changes[name] = ("", cause)

    if may_take:
        for _ in range(evening_moves_max):
            most = max(may_take, key=lambda b: (len(owned[b]), b))
            least = min(may_take, key=lambda b: (len(owned[b]), b))
            if len(owned[most]) - len(owned[least]) <= 1:
                break
            name = _to_move(owned[most], changes)
            owned[most].remove(name)
            owned[least].append(name)
            changes[name] = (least, changes[name][1] if name in changes else "even")

    return [_change(name, records.get(name), *changes[name], seen.get(name, 0)) for name in sorted(changes)]


def _preferred(former: str, may_take: Sequence[str], owned: Mapping[str, Sequence[str]], total: int) -> str:
    """The former owner where it registered again and has room, else whoever has least."""
    room = -(-total // len(may_take))
    if former in owned and former in may_take and len(owned[former]) < room:
        return former
    return min(may_take, key=lambda b: (len(owned[b]), b))


def _to_move(candidates: Sequence[str], changes: Mapping[str, object]) -> str:
    """One that moves in this round anyway costs nothing more; else the last by name."""
    moving = [name for name in candidates if name in changes]
    return max(moving or candidates)


def _cause(record: BundleEntry | None, owner: BrokerCandidate | None) -> str:
    if record is None or not record.broker:
        return "unassigned"
    if owner is None or owner.pulse is Pulse.REFUSED:
        return "gone"
    if owner.member.joined_zxid > record.assigned_zxid:
        return "reregistered"
    return "draining"


def _change(name: str, record: BundleEntry | None, broker: str, cause: str, seen: int) -> Assign:
    epoch = max(record.epoch if record else 0, seen) + 1
    return Assign(name, broker, epoch, record.broker if record else "", cause)
