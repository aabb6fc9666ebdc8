"""Which broker owns which bundle of topics.  Pure.

Guarantee: every change raises the bundle's epoch, so that whatever a former owner still sends is fenced (R5.10); no bundle is given to
a broker that is not registered, or whose process is known to be gone (R5.9), or that an operator has drained; a bundle moves only when
its owner may not keep it or when moving it makes the cluster more even; where everything fits, nothing moves.  What an operator has given
to a broker is not moved merely to even out.

A broker that registers again is a new incarnation: an assignment written before that was meant for the old one and is renewed
under a higher epoch, even if the name stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stele.nameserver.bundle_balance import RELUCTANT, OwnerLoads
from stele.nameserver.catalog import BundleEntry, Member, MemberState

EVENING_MOVES_MAX = 4  # bundles moved per round merely to even out; each costs its topics a short pause


class Pulse(StrEnum):
    """What the leader's own connection to a broker says.  It only hints: registration in ZooKeeper is what counts, and a wrong hint is
    made harmless by the epoch."""

    UNPROBED = "unprobed"
    ALIVE = "alive"
    SILENT = "silent"  # connects or hangs, but does not answer
    REFUSED = "refused"  # its connection broke and its port refuses: the process is gone


class BundleCause(StrEnum):
    """Why a bundle was given to whom it was given; recorded with it."""

    UNASSIGNED = "unassigned"
    GONE = "gone"
    REREGISTERED = "reregistered"
    DRAINING = "draining"  # its process ends
    DRAINED = "drained"  # by an operator, whichever process it is
    EVEN = "even"
    OVERTAKEN = "overtaken"
    OPERATOR = "operator"  # to a broker that was named
    UNLOADED = "unloaded"  # to any other broker
    SPLIT = "split"  # what was one bundle before


@dataclass(frozen=True, slots=True)
class BrokerCandidate:
    member: Member
    pulse: Pulse = Pulse.ALIVE
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Assign:
    """Give ``bundle`` to ``broker`` ("" where nobody may have it) under ``epoch``."""

    bundle: str
    broker: str
    epoch: int
    former: str
    cause: BundleCause


def may_keep(bundle: BundleEntry, broker: BrokerCandidate | None) -> bool:
    """Whether the owner that the record names still is the process that was meant and may go on."""
    return (
        broker is not None
        and not broker.drained
        and broker.pulse is not Pulse.REFUSED
        and broker.member.joined_zxid <= bundle.assigned_zxid
        and broker.member.state == MemberState.READY
    )


def is_ready(broker: BrokerCandidate) -> bool:
    """Whether it may be given bundles, unless it is silent."""
    return broker.member.state == MemberState.READY and not broker.drained and broker.pulse is not Pulse.REFUSED


def takers(brokers: Collection[BrokerCandidate]) -> list[str]:
    """The brokers that may be given bundles, by name: registered, ready, not drained, and probed alive; those that are silent only where
    nobody answers at all."""
    ready = [b for b in brokers if is_ready(b)]
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
    traffic: Mapping[str, float] | None = None,
) -> list[Assign]:
    """The changes that give every bundle in ``wanted`` an owner, evenly, moving as little as that takes.

    ``seen``: the highest owner epoch that a bundle's partitions know of.  Every write under a lower one is refused (R5.10), so a bundle
    whose record is behind it, as after ZooKeeper was put back to an older copy, is given anew above it.  ``traffic``: what each bundle
    costs its owner beside the 1 that it costs by being there."""
    seen = seen or {}
    may_take = takers(brokers.values())
    loads = OwnerLoads(may_take, traffic or {})
    homeless: list[str] = []
    overtaken: list[str] = []
    for name in sorted(wanted):
        record = records.get(name)
        if record is not None and may_keep(record, brokers.get(record.broker)):
            loads.give(name, record.broker)
            if seen.get(name, 0) > record.epoch:
                overtaken.append(name)
        else:
            homeless.append(name)

    changes = {name: (records[name].broker, BundleCause.OVERTAKEN) for name in overtaken}
    share = sum(loads.cost(name) for name in wanted) / max(1, len(may_take))
    for name in sorted(homeless, key=lambda n: (-loads.cost(n), n)):  # the heaviest first: the others even it out
        record = records.get(name)
        former = record.broker if record is not None else ""
        cause = _cause(record, brokers.get(former))
        if may_take:
            # The former owner where it registered again and has room, else whoever has least.
            has_room = former in may_take and loads.of(former) < share
            taker = former if has_room else loads.least()
            loads.give(name, taker)
            changes[name] = (taker, cause)
        elif former and former not in brokers:
            # Who is registered keeps what nobody else can take: that its port seems to refuse may be the leader's own trouble.
            changes[name] = ("", cause)

    reluctance = {name: rank for name in wanted if (rank := _reluctance(records, name)) is not None}
    reluctance |= dict.fromkeys(changes, 0)  # what moves in this round anyway costs nothing more
    for _ in range(evening_moves_max if may_take else 0):
        moving = loads.to_even(reluctance)
        if moving is None:
            break
        name, taker = moving
        loads.give(name, taker)
        reluctance[name] = 0
        changes[name] = (taker, changes[name][1] if name in changes else BundleCause.EVEN)

    return [change(name, records.get(name), *changes[name], seen.get(name, 0)) for name in sorted(changes)]


def _reluctance(records: Mapping[str, BundleEntry], name: str) -> int | None:
    """How unwelcome it is to move a bundle merely to even out: what an operator has given to a broker stays there (None), and what was
    sent away from one stays where it came to, while its owner has another one."""
    match records[name].cause if name in records else "":
        case BundleCause.OPERATOR:
            return None
        case BundleCause.UNLOADED:
            return RELUCTANT
        case _:
            return 1


def unload(
    chosen: Collection[str],
    records: Mapping[str, BundleEntry],
    brokers: Mapping[str, BrokerCandidate],
    seen: Mapping[str, int] | None = None,
    traffic: Mapping[str, float] | None = None,
) -> list[Assign]:
    """The changes that give each of ``chosen``, which one broker has, to another one; none where nobody else could take it."""
    seen = seen or {}
    leaving = {records[name].broker for name in chosen}
    loads = OwnerLoads([b for b in takers(brokers.values()) if b not in leaving], traffic or {})
    for record in records.values():
        loads.give(record.name, record.broker)
    changes: list[Assign] = []
    for name in sorted(chosen, key=lambda n: (-loads.cost(n), n)) if loads.may_take else ():
        taker = loads.least()
        loads.give(name, taker)
        changes.append(change(name, records[name], taker, BundleCause.UNLOADED, seen.get(name, 0)))
    return sorted(changes, key=lambda c: c.bundle)


def split(bundle: str, two: tuple[str, str], records: Mapping[str, BundleEntry], owner: str, seen: int) -> list[Assign]:
    """The changes with which a bundle goes and two take its place, ``owner``'s ("" nobody's).  All three have one epoch, above every one
    that any of them has had and that partitions have ``seen``: what is still sent for the former bundle is refused (R5.10), and brokers
    never believe in a lower one."""
    epoch = max(seen, *(r.epoch for r in records.values()), 0) + 1
    former = records[bundle].broker if bundle in records else ""
    return [
        Assign(bundle, "", epoch, former, BundleCause.SPLIT),
        *(Assign(half, owner, epoch, former, BundleCause.SPLIT) for half in two),
    ]


def _cause(record: BundleEntry | None, owner: BrokerCandidate | None) -> BundleCause:
    if record is None or not record.broker:
        return BundleCause.UNASSIGNED
    if owner is None or owner.pulse is Pulse.REFUSED:
        return BundleCause.GONE
    if owner.drained:
        return BundleCause.DRAINED
    if owner.member.joined_zxid > record.assigned_zxid:
        return BundleCause.REREGISTERED
    return BundleCause.DRAINING


def change(name: str, record: BundleEntry | None, broker: str, cause: BundleCause, seen: int) -> Assign:
    """Under an epoch above every one that the bundle has had, and that its partitions have ``seen``."""
    epoch = max(record.epoch if record else 0, seen) + 1
    return Assign(name, broker, epoch, record.broker if record else "", cause)
