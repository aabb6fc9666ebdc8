"""What ZooKeeper's answers mean: stats become ours, errors become the error tree's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kazoo.exceptions import (
    BadVersionError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)

from stele.services.coordination.nodes import Stat
from stele.services.errors import CoordinationUnknown, RecordExists, RecordMissing, SteleError, VersionConflict


def stat_of(stat: Any) -> Stat:
    return Stat(
        version=stat.version,
        czxid=stat.czxid,
        mzxid=stat.mzxid,
        ephemeral_owner=stat.ephemeralOwner,
        created_ms=stat.ctime,
        modified_ms=stat.mtime,
        children=stat.numChildren,
    )


def translate(error: BaseException, what: str, path: str) -> BaseException:
    """Only the four answers that ZooKeeper gives about a node are definite; whatever else went wrong leaves the outcome unknown."""
    if isinstance(error, SteleError) or not isinstance(error, Exception):
        return error
    if isinstance(error, NoNodeError):
        return RecordMissing(f"{what} {path}: no such record", path=path)
    if isinstance(error, NodeExistsError):
        return RecordExists(f"{what} {path}: the record exists", path=path)
    if isinstance(error, BadVersionError):
        return VersionConflict(f"{what} {path}: the record has changed", path=path)
    if isinstance(error, NotEmptyError):
        return VersionConflict(f"{what} {path}: the record has children", path=path)
    return CoordinationUnknown(f"{what} {path}: {type(error).__name__} {error}".rstrip(), path=path)


def first_failure(results: Sequence[Any]) -> tuple[int, Exception] | None:
    """Index and error of the operation that failed a transaction; the others only say that they were rolled back."""
    rolled_back: tuple[int, Exception] | None = None
    for index, result in enumerate(results):
        if isinstance(result, Exception):
            if not isinstance(result, RolledBackError | RuntimeInconsistency):
                return index, result
            rolled_back = rolled_back or (index, result)
    return rolled_back
