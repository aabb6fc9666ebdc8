"""To which record format the cluster may rise.  Pure.

Guarantee: to none that a process does not know that may be in the cluster, now or later: one that is recorded and not registered may come
back as it was, so its absence proves nothing.  What a process does not say it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownFormat:
    """The highest record format that a process knows; 0: it is recorded, and not registered.  ``kind``: of which members it is one."""

    name: str
    kind: str
    knows: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class Finalization:
    """The cluster is ``at`` a format, and ``to`` is the highest that any process knows; ``hindrances``: why it cannot rise, by process."""

    at: int
    to: int
    members: tuple[KnownFormat, ...] = ()
    hindrances: tuple[tuple[str, str], ...] = ()


def finalization(at: int, members: Iterable[KnownFormat]) -> Finalization:
    """What would come of it now.  Nothing hinders what has come about already."""
    listed = tuple(sorted(members, key=lambda m: (m.kind, m.name)))
    to = max((m.knows for m in listed), default=at)
    if to <= at:
        return Finalization(at, at, listed)
    found = ((m.name, _hindrance(m, to)) for m in listed)
    return Finalization(at, to, listed, tuple((name, why) for name, why in found if why))


def _hindrance(member: KnownFormat, to: int) -> str:
    if not member.knows:
        return "is not registered: start it, or `stele metadata names rm` its name if it never comes back"
    if member.knows < to:
        return f"knows {member.knows} and not {to}: start it from the version that the others run"
    return ""
