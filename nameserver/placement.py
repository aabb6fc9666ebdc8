"""Which stores hold a new partition's replicas.  Pure.

Guarantee: the replicas of one partition are on different stores, and on as many racks as there are for them; between stores of racks that
serve as well, no two differ by more replicas afterwards than before (or by more than one, where they were even); the same arguments give
the same answer on every machine.  A store of which no rack is known is a rack of its own.

The first replica of each list is spread as well: it is where a group that starts with equal logs tends to be led.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stele.services.errors import NotEnoughStores


def spread(stores: Iterable[int], racks: Mapping[int, str]) -> int:
    """On how many racks they are."""
    return len({racks.get(s) or s for s in stores})


def place(
    partitions: int,
    replication: int,
    candidates: Sequence[int],
    assigned: Mapping[int, int],
    racks: Mapping[int, str] | None = None,
    apart: bool = False,
) -> list[tuple[int, ...]]:
    """The stores of each of ``partitions`` new partitions.

    ``candidates``: the stores that may be chosen; ``assigned``: how many replicas each store has already; ``racks``: of each store that
    has one.  Raises NotEnoughStores where there are fewer candidates than ``replication``, or fewer racks and they have to be ``apart``.
    """
    stores, rack_of = sorted(set(candidates)), racks or {}
    check_enough(replication, len(stores))
    if apart and (there := spread(stores, rack_of)) < replication:
        raise NotEnoughStores(
            f"replication {replication} on racks apart needs stores that are up, ready and not cordoned on {replication} racks; "
            f"there are {there}",
            up=there,
            wanted=replication,
        )
    load = {s: assigned.get(s, 0) for s in stores}
    firsts = dict.fromkeys(stores, 0)
    placed: list[tuple[int, ...]] = []
    for index in range(partitions):
        turn = {s: (at - index) % len(stores) for at, s in enumerate(stores)}
        chosen: list[int] = []
        while len(chosen) < replication:
            wider = [s for s in stores if s not in chosen and spread((*chosen, s), rack_of) > spread(chosen, rack_of)]
            able = wider or [s for s in stores if s not in chosen]
            chosen.append(min(able, key=lambda s: (load[s], turn[s])))
        chosen.sort(key=lambda s: (firsts[s], turn[s]))
        firsts[chosen[0]] += 1
        for store_id in chosen:
            load[store_id] += 1
        placed.append(tuple(chosen))
    return placed


def check_enough(replication: int, stores: int) -> None:
    """Raises NotEnoughStores where ``stores`` that may be given a replica are fewer than ``replication``."""
    if stores < replication:
        raise NotEnoughStores(
            f"replication {replication} needs {replication} stores that are up, ready and not cordoned; there are {stores}",
            up=stores,
            wanted=replication,
        )
