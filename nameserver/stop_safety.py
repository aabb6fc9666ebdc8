"""Whether a process can be stopped now without anybody missing it.  Pure.

Guarantee: a store is safe to stop only if, of every group in which it has a vote, a majority of the voters is left without it: up,
ready, with room, following the group's leader, and with all that was committed when that leader was asked first.  A broker only if another
one that serves may be given its bundles; a nameserver only if another one that is in touch with ZooKeeper stands for election.  Whoever
is registered and not whole, as one that came back a moment ago, is waited for, and so is the process itself.  What was not heard is never
taken for well.

Not promised: that two processes can be stopped at once because each of them can be, or that an answer still holds a moment later.  Who
stops one asks anew before the next.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

from stele.nameserver.bundle_assignment import BrokerCandidate, takers
from stele.nameserver.catalog import Catalog, MemberState, PartitionEntry, TopicState
from stele.nameserver.reports import LeaderReport, ReplicaState, Reports, is_heard, leaders
from stele.services.pb.nameserver_pb2 import GetClusterResponse
from stele.services.wording import counted

SHOWN_MAX = 10

_FOLLOWING = (ReplicaState.FOLLOWER, ReplicaState.LEADER)


def committed_by(reports: Reports) -> dict[int, int]:
    """How far each group's log is committed, by the word of its leader."""
    return {
        group: reports[leader.store_id].replicas[group].commit_index
        for group, leader in leaders(reports).items()
        if leader.confirmed and reports[leader.store_id].holds(group)
    }


def store_reasons(store_id: int, catalog: Catalog, reports: Reports, committed: Mapping[int, int]) -> list[str]:
    """Why the store cannot be stopped, one line for each partition, :data:`SHOWN_MAX` at most and one that counts the others.

    ``reports`` are of one moment, with their strays set apart; ``committed`` is what leaders had said before that moment began."""
    if why := _store_lacks(store_id, catalog, reports):
        return [f"{_name(store_id, catalog)} itself {why}"]
    led = leaders(reports)
    found = []
    for _, partition in sorted(catalog.partitions.items()):
        topic = catalog.topics.get(partition.topic)
        if topic is not None and topic.state == TopicState.DELETING:
            continue
        leader = led.get(partition.group)
        if why := _partition_reason(store_id, partition, leader, catalog, reports, committed):
            found.append(f"{partition.topic}-{partition.index}: {why}")
    if len(found) > SHOWN_MAX:
        return [*found[:SHOWN_MAX], f"and of {counted(len(found) - SHOWN_MAX, 'more partition')}"]
    return found


def _partition_reason(
    store_id: int,
    partition: PartitionEntry,
    leader: LeaderReport | None,
    catalog: Catalog,
    reports: Reports,
    committed: Mapping[int, int],
) -> str:
    """Nothing: the partition does without the store."""
    group, involved = partition.group, store_id in partition.replicas or reports[store_id].holds(partition.group)
    if leader is None or not leader.confirmed or not reports[leader.store_id].holds(group):
        return "nobody is heard that leads it" if involved else ""
    said = reports[leader.store_id].replicas[group]
    if store_id not in said.voters:
        return ""
    if not said.members_settled:
        return "its members are being changed"
    lacking = {v: why for v in said.voters if (why := _voter_lacks(v, group, leader, catalog, reports, committed))}
    left = sum(v not in lacking for v in said.voters if v != store_id)
    because = "; ".join(f"{_name(v, catalog)} {why}" for v, why in sorted(lacking.items()))
    if 2 * left <= len(said.voters):
        kept = f"{left} of {counted(len(said.voters), 'voter')} would be left, which is no majority"
        return f"{kept}: {because}" if because else kept
    # One that is gone is not waited for: nobody can say for how long it is.
    if any(v in catalog.live_stores for v in lacking):
        return because
    return ""


def _voter_lacks(
    store_id: int,
    group: int,
    leader: LeaderReport,
    catalog: Catalog,
    reports: Reports,
    committed: Mapping[int, int],
) -> str:
    """What a voter's replica lacks to count, as what is said of its store; nothing: it counts."""
    if why := _store_lacks(store_id, catalog, reports):
        return why
    replica = reports[store_id].replicas.get(group)
    if replica is None:
        return "has no replica of it"
    if replica.state not in _FOLLOWING or replica.problem:
        return f"has it {replica.state}" + (f" ({replica.problem})" if replica.problem else "")
    if (replica.leader_store_id, replica.term) != (leader.store_id, leader.term) and store_id != leader.store_id:
        return "does not follow its leader yet"
    if group not in committed:
        return "is not known to hold all of it"
    if (missing := committed[group] - replica.commit_index) > 0:
        return f"lacks {missing} of its entries"
    return ""


def _store_lacks(store_id: int, catalog: Catalog, reports: Reports) -> str:
    """The same of a store as a whole."""
    member = catalog.live_stores.get(store_id)
    if member is None:
        return "is not registered"
    if member.state == MemberState.LOADING:
        return f"is loading ({member.loaded} of {member.total})"
    if not is_heard(reports, store_id) or not reports[store_id].complete:
        return "does not answer"
    status = reports[store_id].status
    if status.state != MemberState.READY:
        return f"is {status.state}"
    return "has no room on its disk" if status.disk_full else ""


def _name(store_id: int, catalog: Catalog) -> str:
    return catalog.stores[store_id].name if store_id in catalog.stores else f"store {store_id}"


def broker_reasons(broker: str, candidates: Mapping[str, BrokerCandidate], serving: Container[str]) -> list[str]:
    """Why the broker cannot be stopped, of the registered ``candidates``; ``serving``: those that said so just now."""
    if broker not in serving:
        return [f"{broker} itself does not serve"]
    others = {name: b for name, b in sorted(candidates.items()) if name != broker}
    silent = [f"{name} does not serve" for name in others if name not in serving]
    if any(name in serving for name in takers(others.values())):
        return silent
    drained = [f"{name} is drained" for name, b in others.items() if b.drained and name in serving]
    said = [*silent, *drained] or [f"{name} is {b.member.state}, {b.pulse.value}" for name, b in others.items()]
    return [f"no other broker could take its bundles: {', '.join(said) or 'there is none'}"]


def nameserver_reasons(
    nameserver: str, registered: Collection[str], standing: Container[str], answers: Mapping[str, GetClusterResponse]
) -> list[str]:
    """Why the nameserver cannot be stopped.  ``standing``: who stands for election, the leader among them; ``answers``: what those of the
    ``registered`` said that answered just now."""
    lacking = {name: why for name in (nameserver, *registered) if (why := _nameserver_lacks(name, standing, answers))}
    if nameserver in lacking:
        return [f"{nameserver} itself {lacking[nameserver]}"]
    said = [f"{name} {why}" for name, why in sorted(lacking.items())]
    if any(name not in lacking for name in registered if name != nameserver):
        return said
    return [f"no other nameserver could lead: {', '.join(said) or 'there is none'}"]


def _nameserver_lacks(name: str, standing: Container[str], answers: Mapping[str, GetClusterResponse]) -> str:
    """What it lacks to lead, or to be elected next."""
    answer = answers.get(name)
    if answer is None or answer.answered_by != name:
        return "does not answer"
    if not answer.coordination_connected:
        return "is out of touch with ZooKeeper"
    return "" if name in standing else "does not stand for election yet"
