"""Versions that live side by side carelessly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from stele.nameserver.finalization import Finalization, KnownFormat, finalization
from stele.services.coordination.members import Membership
from stele.services.coordination.metadata import Transaction
from stele.services.coordination.records import Rewritten, decode


def counts_the_registered_alone(at: int, members: Iterable[KnownFormat]) -> Finalization:
    """A process that is recorded and not registered is taken for one that never comes back."""
    return finalization(at, [m for m in members if m.knows])


def goes_by_the_newest(at: int, members: Iterable[KnownFormat]) -> Finalization:
    """The cluster rises to what the newest process knows, whatever the others do."""
    found = finalization(at, members)
    return dataclasses.replace(found, hindrances=tuple((n, why) for n, why in found.hindrances if "registered" in why))


class WritesWhatItKnows(Transaction):
    """What is written is asked of nobody."""

    async def _check_format(self) -> None:
        pass


class JoinsUnasked(Membership):
    """The cluster's record format is looked at when the process starts, and not when it joins."""

    async def _read_cluster(self) -> None:
        pass


def forgets_the_unknown(value: bytes, record_type: Any, path: str = "") -> Any:
    """A record is read for what the process knows of it, and written as it was read."""
    record = decode(value, record_type, path)
    return dataclasses.replace(record, unknown_=()) if isinstance(record, Rewritten) else record
