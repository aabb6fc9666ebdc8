"""What a disk may forget: only what a majority holds without it.

A store that has lost its groups counts for nothing until it holds them anew, which a leader gives it: of two voters none may be lost.

A store whose whole folder is put back from an older copy does not know what it promised since, and with another leader nobody else does
(docs/reference/raft.md#lost): two of three that forget, or one of them while the third lags or is down, is beyond what any quorum can bear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.datanode.log.terms import TERM_NAME, decode
from stele.services.errors import SteleError
from stele.services.raft.group import Group
from tests.simulation.cluster.disk import Volume
from tests.support.disks import PowerLost

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


def may_come_back(world: World, host: str, backup: Any) -> bool:
    """Whether the volume of ``host`` may be now as ``backup`` has it: each of its groups that still exists has voted for nobody else
    since, and a majority of the voters holds durably, without it, whatever it holds.

    What the backup knows nothing of may go: the nameserver knows that it was there."""
    if world.servers[host].process is None:
        return False
    older = Volume(host)
    older.bring_back(backup)
    folder = older.path / "groups"
    for name in older.listdir(folder) if older.has_folder(folder) else []:
        exists = any(volume.has_folder(volume.path / "groups" / name) for volume in world.volumes.values())
        term = _term(older, folder / name / TERM_NAME)
        if exists and not _may_forget(_replicas(world, int(name)), host, term):
            return False
    return True


def may_go(world: World, host: str) -> bool:
    """Whether ``host`` may lose its groups: in each of them the other voters are a majority, by all that a replica that runs knows."""
    volume = world.volumes[host]
    groups = volume.path / "groups"
    names = volume.names(groups) if volume.has_folder(groups) else []
    return all(len(replica.members.voters) > 2 for name in names for replica in _replicas(world, int(name)).values())


def _replicas(world: World, group_id: int) -> dict[str, Group]:
    """Those that run, by host."""
    found = {}
    for host in world.volumes:
        process = world.servers[host].process
        store = getattr(process.role, "store", None) if process is not None else None
        registry = getattr(store, "registry", None)  # none until it has begun
        group = registry.get(group_id) if registry is not None else None
        if group is not None:
            found[host] = group
    return found


def _term(volume: Volume, path: Any) -> tuple[int, int]:
    return decode(path.read_bytes(), path) if volume.has_file(path) else (0, 0)


def _may_forget(replicas: dict[str, Group], host: str, term: tuple[int, int]) -> bool:
    replica = replicas.get(host)
    if replica is None or not _is_whole(replica) or (replica.journal.term, replica.journal.voted_for) != term:
        return False
    voters = replica.members.voters
    holding = [
        other
        for other in replicas.values()
        if other is not replica and other.store_id in voters and _is_whole(other) and _holds(other, replica)
    ]
    return len(holding) * 2 > len(voters) and all(other.members == replica.members for other in holding)


def _is_whole(replica: Group) -> bool:
    """It works, counts, and all that it knows is durable."""
    return replica.state not in ("failed", "recovering") and replica.journal.synced_position == replica.journal.position


def _holds(other: Group, replica: Group) -> bool:
    """All that ``replica`` holds: logs that have an entry in common have all before it in common."""
    theirs, index = other.journal, replica.last_index
    if theirs.last_index < index:
        return False
    try:
        return theirs.first_index > index + 1 or theirs.term_at(index) == replica.journal.last_term
    except (SteleError, PowerLost):  # its disk fails: what it holds cannot be read
        return False
