"""Bundles: the unit in which brokers own topics.  Pure.

A namespace's hash ring of 2**32 points is cut into N equal ranges; a partition belongs to the range that its hash falls in.
The mapping depends on nothing but the arguments, so every process computes the same one.
"""

from __future__ import annotations

from crc32c import crc32c

from stele.services.errors import InvalidArgument
from stele.services.topics import check_name, parse_topic

BUNDLES_MAX = 4096
_RING = 1 << 32


def ranges(bundles: int) -> list[str]:
    """The N ranges in order, both ends included: ``ranges(4)[0] == "00000000-3fffffff"``."""
    _check(bundles)
    return [_range(i, bundles) for i in range(bundles)]


def bundles_of(namespace: str, bundles: int) -> list[str]:
    """Every bundle of a namespace, ``"ns/00000000-3fffffff"`` first."""
    check_name("namespace", namespace)
    return [f"{namespace}/{r}" for r in ranges(bundles)]


def bundle_of(topic: str, partition: int, bundles: int) -> str:
    """The bundle that a partition of ``"ns/topic"`` belongs to, e.g. ``"ns/40000000-7fffffff"``."""
    _check(bundles)
    namespace, _ = parse_topic(topic)
    point = crc32c(f"{topic}-{partition}".encode())
    return f"{namespace}/{_range(point * bundles >> 32, bundles)}"


def _range(index: int, bundles: int) -> str:
    return f"{_start(index, bundles):08x}-{_start(index + 1, bundles) - 1:08x}"


def _start(index: int, bundles: int) -> int:
    return -(-index * _RING // bundles)  # rounded up: the first point whose index this is


def _check(bundles: int) -> None:
    if not 1 <= bundles <= BUNDLES_MAX:
        raise InvalidArgument(f"a namespace has 1 to {BUNDLES_MAX} bundles, not {bundles}", bundles=bundles)
