"""Writes a copy of a cluster's records into ZooKeeper.

Guarantee: from its first write to its last no nameserver leads: the epoch's record says that an import has not ended, and whoever led
before is refused by its version.  An import that was interrupted is taken up by importing the same copy again; two at once refuse one
another by that version, too.  What is newer than the copy is never lost by it (copy_merge.py), and ids are given out again only once the
stores have said how far they have come (nameserver/metadata_guard.py).

Usage: ``await plan_import(session, copy)`` says what would change; ``await import_copy(session, copy)`` does it.  The session was started
without preparing the tree.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import structlog

from stele.services.coordination.copy_document import MetadataCopy, ZnodeValue, record_value, stored_value, to_json
from stele.services.coordination.copy_merge import begun, cluster_value, is_empty, lost, merged
from stele.services.coordination.records import EpochRecord, encode
from stele.services.coordination.schema import CLUSTER, ELECTION, EPOCH, KINDS, MEMBERS, PARENTS
from stele.services.coordination.session import Session
from stele.services.coordination.tree_reader import TreeNodes, copy_of, read_tree
from stele.services.coordination.znode import CheckOp, CreateOp, DeleteOp, Op, SetOp
from stele.services.errors import (
    ClusterMismatch,
    CoordinationUnknown,
    ImportRefused,
    InvalidArgument,
    RecordExists,
    RecordMissing,
    VersionConflict,
)
from stele.services.wording import counted

WRITES_PER_TRANSACTION_MAX = 64
ROUNDS_MAX = 16
NAMED_MAX = 5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Paths of the records that an import creates, changes and removes; ``resumed``: one that was interrupted."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    resumed: bool


async def plan_import(session: Session, copy: MetadataCopy) -> ImportPlan:
    """What an import would do now.

    Errors: ClusterMismatch: another cluster is recorded, or lives; ImportRefused: something newer would be lost, or the import of another
    copy has not ended; InvalidArgument: the copy has records that cannot be read; CoordinationUnknown; NotReady.
    """
    _check_readable(copy)
    nodes = await read_tree(session)
    live = await _check(session, copy, nodes)
    return _plan(nodes, merged(copy, live), live.epoch.importing == digest(copy))


async def import_copy(session: Session, copy: MetadataCopy) -> ImportPlan:
    """What it did.  Errors as of ``plan_import``, and nothing was changed; CoordinationUnknown: import the same copy again."""
    _check_readable(copy)
    await session.ensure_root()
    mark = digest(copy)
    before, version = await _begin(session, copy, mark)
    nodes = await read_tree(session)
    resumed = before.importing == mark
    try:
        if not resumed:
            # Again: until the epoch's record was written, the leading nameserver could still write others.
            _refuse_loss(copy, _with_epoch(_readable(session, nodes), before))
    except (ImportRefused, ClusterMismatch):
        await session.set(EPOCH, encode(replace(before, epoch=_epoch(session, nodes).epoch)), version)
        raise
    wanted = merged(copy, _readable(session, nodes))  # once: what it is made of changes by what is written
    plan = _plan(nodes, wanted, resumed)
    await _write(session, nodes, wanted, version)
    await _end(session, mark, version)
    log.info("metadata_imported", cluster=copy.cluster_id, created=len(plan.created), changed=len(plan.changed))
    return plan


def digest(copy: MetadataCopy) -> str:
    """What tells an import of this copy from one of another."""
    return hashlib.sha256(to_json(copy).encode()).hexdigest()[:32]


# --- what is refused ----------------------------------------------------------------------------------------------------


def _check_readable(copy: MetadataCopy) -> None:
    _, wrong = copy.without_what_is_unreadable()
    if wrong or not copy.cluster_id or EPOCH not in copy.records:
        what = f"{_named(wrong.values())}" if wrong else "it does not say which cluster it is of, or its epoch"
        raise InvalidArgument(f"the copy cannot be imported: {what}")


async def _check(session: Session, copy: MetadataCopy, nodes: TreeNodes) -> MetadataCopy:
    live = _readable(session, nodes)
    importing = live.epoch.importing
    if importing == digest(copy):
        return live
    if importing:
        raise ImportRefused(
            "the import of another copy has not ended: import that one again, or wipe ZooKeeper's tree first"
        )
    if live.cluster_id not in ("", copy.cluster_id):
        await _check_replaceable(session, copy, live)
        return MetadataCopy(live.cluster, {})
    _refuse_loss(copy, live)
    return live


async def _check_replaceable(session: Session, copy: MetadataCopy, live: MetadataCopy) -> None:
    """A process that starts over a ZooKeeper that was wiped records a new cluster: that may go, once nobody lives in it."""
    what = f"ZooKeeper holds the cluster {live.cluster_id} at {session.root}, the copy is of {copy.cluster_id}"
    if not is_empty(live):
        raise ClusterMismatch(what, expected=copy.cluster_id, got=live.cluster_id)
    alive = [name for kind in KINDS for name in await session.children(f"{MEMBERS}/{kind}") or []]
    if alive or await session.children(ELECTION):
        raise ClusterMismatch(
            f"{what}, and {', '.join(alive) or 'a nameserver'} lives in it: stop that first",
            expected=copy.cluster_id,
            got=live.cluster_id,
        )


def _refuse_loss(copy: MetadataCopy, live: MetadataCopy) -> None:
    if newer := lost(copy, live):
        raise ImportRefused(
            f"what is recorded is newer than the copy, and would be lost: {_named(newer)}; if that is meant, wipe ZooKeeper's tree first",
            lost=len(newer),
        )


def _named(what: Iterable[str]) -> str:
    listed = list(what)
    more = f" and {counted(len(listed) - NAMED_MAX, 'more record')}" if len(listed) > NAMED_MAX else ""
    return "; ".join(listed[:NAMED_MAX]) + more


def _readable(session: Session, nodes: TreeNodes) -> MetadataCopy:
    live, wrong = copy_of(session.cluster, nodes)
    if wrong:
        raise ImportRefused(f"it is not certain what would be lost: {_named(wrong.values())}", lost=len(wrong))
    return live


# --- its steps ----------------------------------------------------------------------------------------------------------


async def _begin(session: Session, copy: MetadataCopy, mark: str) -> tuple[EpochRecord, int]:
    """From here on nobody leads.  The epoch's record as it was before, and its version now."""
    for _ in range(ROUNDS_MAX):
        nodes = await read_tree(session)
        live = await _check(session, copy, nodes)
        before = _epoch(session, nodes)
        value = encode(begun(copy, MetadataCopy(copy.cluster, {EPOCH: record_value(before)}), mark))
        # Both at once: a nameserver that starts meanwhile finds its cluster, and that it is not to lead.
        cluster = stored_value(cluster_value(copy, live))
        ops: list[Op] = [
            SetOp(CLUSTER, cluster, nodes[CLUSTER].stat.version) if CLUSTER in nodes else CreateOp(CLUSTER, cluster),
            SetOp(EPOCH, value, nodes[EPOCH].stat.version) if EPOCH in nodes else CreateOp(EPOCH, value),
        ]
        try:
            results = await session.commit(ops)
        except (RecordExists, RecordMissing, VersionConflict, CoordinationUnknown) as e:
            log.info("import_begin_unsettled", error=str(e))
            continue
        return before, results[1].version if EPOCH in nodes else 0
    raise CoordinationUnknown(f"the import is not begun after {ROUNDS_MAX} rounds; import the same copy again")


async def _write(session: Session, nodes: TreeNodes, wanted: Mapping[str, ZnodeValue], version: int) -> None:
    for depth in range(1 + max(folder.count("/") for folder in PARENTS)):
        await asyncio.gather(*(session.ensure(folder) for folder in PARENTS if folder.count("/") == depth))
    for _ in range(ROUNDS_MAX):
        operations = iter(_operations(nodes, wanted))
        try:
            while chunk := list(islice(operations, WRITES_PER_TRANSACTION_MAX)):
                await session.commit([CheckOp(EPOCH, version), *chunk])
        except (RecordExists, RecordMissing, VersionConflict) as e:
            if e.facts.get("path") == EPOCH:
                raise ImportRefused("another import has begun meanwhile") from e
        except CoordinationUnknown as e:
            log.info("import_unsettled", error=str(e))
        nodes = await read_tree(session)
        if not list(_operations(nodes, wanted)):
            return
    raise CoordinationUnknown(f"the import is not whole after {ROUNDS_MAX} rounds; import the same copy again")


async def _end(session: Session, mark: str, version: int) -> None:
    """From here on a nameserver may lead, and gives nothing out until it has heard the stores."""
    for _ in range(ROUNDS_MAX):
        node = await session.get(EPOCH)
        now = _epoch(session, {EPOCH: node} if node is not None else {})
        if now.importing != mark:
            if now.imported:
                return  # the answer was lost
            raise ImportRefused("another import has begun meanwhile")
        try:
            await session.set(EPOCH, encode(EpochRecord(epoch=now.epoch, imported=True)), version)
            return
        except VersionConflict as e:
            raise ImportRefused("another import has begun meanwhile") from e
        except CoordinationUnknown as e:
            log.info("import_end_unsettled", error=str(e))
    raise CoordinationUnknown(f"the import's end is not settled after {ROUNDS_MAX} rounds; import the same copy again")


def _operations(nodes: TreeNodes, wanted: Mapping[str, ZnodeValue]) -> Iterator[Op]:
    """Parents come before their children, and go after them."""
    there, _ = copy_of("", nodes)
    for path in sorted(wanted):
        if path not in nodes:
            yield CreateOp(path, stored_value(wanted[path]))
        elif there.records.get(path) != wanted[path]:
            yield SetOp(path, stored_value(wanted[path]), nodes[path].stat.version)
    for path in sorted(nodes, reverse=True):
        if path not in wanted and path != EPOCH:
            yield DeleteOp(path, nodes[path].stat.version)


def _plan(nodes: TreeNodes, wanted: Mapping[str, ZnodeValue], resumed: bool) -> ImportPlan:
    operations = list(_operations(nodes, wanted))

    def paths(kind: type[Op]) -> tuple[str, ...]:
        return tuple(op.path for op in operations if isinstance(op, kind))

    return ImportPlan(paths(CreateOp), paths(SetOp), paths(DeleteOp), resumed)


def _epoch(session: Session, nodes: TreeNodes) -> EpochRecord:
    return _readable(session, {EPOCH: nodes[EPOCH]} if EPOCH in nodes else {}).epoch


def _with_epoch(live: MetadataCopy, epoch: EpochRecord) -> MetadataCopy:
    return replace(live, records={**live.records, EPOCH: record_value(epoch)})
