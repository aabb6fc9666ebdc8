"""Bundles: the unit in which brokers own topics.  Pure.

A namespace's hash ring of 2**32 points is cut into N equal ranges, and further at the points where one of these was split; a partition
belongs to the range that its hash falls in.  The mapping depends on nothing but the arguments, so every process computes the same one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from crc32c import crc32c

from stele.services.errors import InvalidArgument
from stele.services.topics import check_name, parse_topic

BUNDLES_MAX = 4096
_RING = 1 << 32
_RANGE = re.compile("([0-9a-f]{8})-([0-9a-f]{8})")


def ranges(bundles: int, splits: Iterable[int] = ()) -> list[str]:
    """The ranges in order, both ends included: ``ranges(4)[0] == "00000000-3fffffff"``.  ``splits``: points where one begins, too."""
    return list(_ranges(bundles, tuple(splits)))


def bundles_of(namespace: str, bundles: int, splits: Iterable[int] = ()) -> list[str]:
    """Every bundle of a namespace, ``"ns/00000000-3fffffff"`` first."""
    check_name("namespace", namespace)
    return [f"{namespace}/{r}" for r in ranges(bundles, splits)]


def bundle_of(topic: str, partition: int, bundles: int, splits: Iterable[int] = ()) -> str:
    """The bundle that a partition of ``"ns/topic"`` belongs to, e.g. ``"ns/40000000-7fffffff"``."""
    starts = _starts(bundles, tuple(splits))
    namespace, _ = parse_topic(topic)
    place = bisect_right(starts, crc32c(f"{topic}-{partition}".encode()))
    return f"{namespace}/{_range(starts[place - 1], starts[place] if place < len(starts) else _RING)}"


def holds(bundle: str, topic: str, partition: int) -> bool:
    """Whether the partition's hash falls in the range of this bundle, which is of its namespace."""
    namespace, _, between = bundle.rpartition("/")
    match = _RANGE.fullmatch(between)
    if match is None or parse_topic(topic)[0] != namespace:
        return False
    first, last = (int(end, 16) for end in match.groups())
    return first <= crc32c(f"{topic}-{partition}".encode()) <= last


def halves(bundle: str) -> tuple[int, tuple[str, str]]:
    """Where a bundle is split, and the two that it then is.  InvalidArgument: it is no bundle, or is one point."""
    namespace, _, between = bundle.rpartition("/")
    match = _RANGE.fullmatch(between)
    first, last = (int(end, 16) for end in match.groups()) if match is not None else (1, 0)
    if first >= last:
        raise InvalidArgument(f"the bundle {bundle[:200]!r} cannot be split", bundle=bundle[:200])
    middle = (first + last + 1) // 2
    return middle, (f"{namespace}/{_range(first, middle)}", f"{namespace}/{_range(middle, last + 1)}")


def _range(start: int, end: int) -> str:
    return f"{start:08x}-{end - 1:08x}"


@lru_cache(maxsize=1024)
def _ranges(bundles: int, splits: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(_range(start, end) for start, end in pairwise((*_starts(bundles, splits), _RING)))


@lru_cache(maxsize=1024)
def _starts(bundles: int, splits: tuple[int, ...]) -> tuple[int, ...]:
    """The first point of each."""
    _check(bundles)
    equal = (-(-index * _RING // bundles) for index in range(bundles))
    return tuple(sorted({*equal, *splits}))


def _check(bundles: int) -> None:
    if not 1 <= bundles <= BUNDLES_MAX:
        raise InvalidArgument(f"a namespace has 1 to {BUNDLES_MAX} bundles, not {bundles}", bundles=bundles)
