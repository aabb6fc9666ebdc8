"""Typed records in ZooKeeper: versions, transactions, and a ``put`` that keeps its options.

Guarantee: a write either has the effect asked for, raises an error that says it had none, or raises ``CoordinationUnknown``.  An
ephemeral ``put`` that returns has left a node that this session owns, whichever way it came about (R5.1).  A transaction's errors
are raised, never returned.

It does not promise that an unversioned ``put`` keeps what another process wrote meanwhile; pass the version that was read.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from stele.services.coordination.records import (
    R,
    Versioned,
    ZnodeRecord,
    decode,
    encode,
    needs,
    written_format,
)
from stele.services.coordination.schema import CLUSTER, EPOCH
from stele.services.coordination.session import Session
from stele.services.coordination.znode import CheckOp, CreateOp, DeleteOp, Node, Op, SetOp, Stat
from stele.services.errors import (
    CoordinationUnknown,
    LeadershipLost,
    RecordExists,
    RecordMissing,
    UpgradeNotFinalized,
    VersionConflict,
)

PUT_ROUNDS_MAX = 8


class EpochFence(Protocol):
    """What a deposed leader's transactions fail by: the version of the epoch node at its election."""

    @property
    def epoch_version(self) -> int: ...

    def refuse(self) -> LeadershipLost:
        """Called when ZooKeeper has refused the epoch; the error to raise."""
        ...


class Transaction:
    """All or nothing.  Builders answer the transaction itself; ``commit`` may be awaited once.

    What it writes the cluster's record format has to allow, by ZooKeeper's own word: it only ever rises, so what was read is enough."""

    def __init__(self, session: Session, fence: EpochFence | None = None) -> None:
        self._session = session
        self._ops: list[Op] = []
        self._fence = fence
        self._needs = (1, "", "")  # record format, and for which field at which path
        if fence is not None:
            # First, so that a deposed leader learns that it is deposed before it learns anything else.
            self._ops.append(CheckOp(EPOCH, fence.epoch_version))

    def check(self, path: str, version: int) -> Transaction:
        self._ops.append(CheckOp(path, version))
        return self

    def create(self, path: str, record: ZnodeRecord | None = None, *, ephemeral: bool = False) -> Transaction:
        """``record`` None: an empty parent node."""
        self._ops.append(CreateOp(path, b"" if record is None else encode(record), ephemeral))
        return self if record is None else self._need(path, record)

    def set(self, path: str, record: ZnodeRecord, version: int) -> Transaction:
        self._ops.append(SetOp(path, encode(record), version))
        return self._need(path, record)

    def delete(self, path: str, version: int) -> Transaction:
        self._ops.append(DeleteOp(path, version))
        return self

    def __len__(self) -> int:
        return len(self._ops) - (self._fence is not None)

    async def commit(self, *, timeout_s: float | None = None) -> list[Any]:
        """One result per operation of the builder: the path of a create, the new version of a set, True of the others.  RecordExists,
        RecordMissing, VersionConflict, LeadershipLost, UpgradeNotFinalized, CoordinationUnknown."""
        if not self._ops:
            return []
        await self._check_format()
        try:
            results = await self._session.commit(self._ops, timeout_s=timeout_s)
        except (VersionConflict, RecordMissing) as error:
            if self._fence is not None and error.facts.get("path") == EPOCH:
                raise self._fence.refuse() from error
            raise
        values = [result.version if isinstance(result, Stat) else result for result in results]
        return values[1:] if self._fence is not None else values

    def _need(self, path: str, record: ZnodeRecord) -> Transaction:
        record_format, name = needs(record)
        self._needs = max(self._needs, (record_format, name, path))
        return self

    async def _check_format(self) -> None:
        needed, name, path = self._needs
        if needed == 1:
            return
        cluster = await self._session.get(CLUSTER)
        at = written_format(cluster.value) if cluster is not None else 1
        if at < needed:
            raise UpgradeNotFinalized(
                f"{name} in {path} takes record format {needed}, and the cluster is at {at}: once every process is of a version that "
                "knows it, `stele cluster finalize-upgrade` raises it",
                needed=needed,
                format=at,
                path=path,
            )


class MetadataStore:
    """Records by path, relative to the cluster's root."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def get(self, path: str, record_type: type[R]) -> Versioned[R] | None:
        """None: ZooKeeper says that it is absent.  CoordinationUnknown, RecordUnreadable."""
        node = await self.session.get(path)
        if node is None:
            return None
        return Versioned(decode(node.value, record_type, path), node.stat.version, node.stat)

    async def children(self, path: str) -> list[str]:
        """Names in order; none where the parent is absent."""
        return await self.session.children(path) or []

    async def list(self, path: str, record_type: type[R]) -> dict[str, Versioned[R]]:
        """The children's records by name; those that vanish meanwhile are left out."""
        names = await self.children(path)
        found = await asyncio.gather(*(self.get(f"{path}/{name}", record_type) for name in names))
        return {name: record for name, record in zip(names, found, strict=True) if record is not None}

    async def create(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False) -> int:
        """RecordExists, RecordMissing (the parent), CoordinationUnknown."""
        await self.session.create(path, encode(record), ephemeral=ephemeral)
        return 0

    async def set(self, path: str, record: ZnodeRecord, version: int) -> int:
        """RecordMissing, VersionConflict, CoordinationUnknown."""
        return (await self.session.set(path, encode(record), version)).version

    async def delete(self, path: str, version: int) -> None:
        """RecordMissing, VersionConflict, CoordinationUnknown."""
        await self.session.delete(path, version)

    async def put(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False, version: int | None = None) -> int:
        """Leaves ``record`` at ``path`` and answers its version.

        With ``version``: only onto that version (RecordMissing, VersionConflict); asked once, so CoordinationUnknown may mean either.
        Without: creates or replaces, and settles lost races and lost answers by reading back.  Every branch carries ``ephemeral``
        (R5.1); a node of the other kind or of another session is RecordExists, never adopted."""
        if version is not None:
            return await self.set(path, record, version)
        value = encode(record)
        for _ in range(PUT_ROUNDS_MAX):
            node = await self.session.get(path)
            try:
                if node is None:
                    await self.session.create(path, value, ephemeral=ephemeral)
                    return 0
                self._require_same_kind(path, node, ephemeral)
                return (await self.session.set(path, value, node.stat.version)).version
            except RecordExists:
                if node is not None:
                    raise
            except (VersionConflict, CoordinationUnknown):
                continue
            except RecordMissing:
                if node is None:
                    raise  # the parent
        raise CoordinationUnknown(f"put {path}: no settled outcome in {PUT_ROUNDS_MAX} rounds", path=path)

    def _require_same_kind(self, path: str, node: Node, ephemeral: bool) -> None:
        wanted = self.session.session_id if ephemeral else 0
        if node.stat.ephemeral_owner != wanted:
            raise RecordExists(
                f"put {path}: the node there belongs to session {node.stat.ephemeral_owner:#x}, wanted {wanted:#x}",
                path=path,
            )

    def transaction(self, fence: EpochFence | None = None) -> Transaction:
        return Transaction(self.session, fence)
