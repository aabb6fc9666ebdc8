"""Which stores hold a new partition's replicas.  Pure.

Guarantee: the replicas of one partition are on different stores; afterwards no two candidate stores differ by more replicas
than before (or by more than one, where they were even); the same arguments give the same answer on every machine.

The first replica of each list is spread as well: it is where a group that starts with equal logs tends to be led.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stele.services.errors import NotEnoughStores


def place(
    partitions: int, replication: int, candidates: Sequence[int], assigned: Mapping[int, int]
) -> list[tuple[int, ...]]:
    """The stores of each of ``partitions`` new partitions.

    ``candidates``: the stores that may be chosen; ``assigned``: how many replicas each store has already.
    Raises NotEnoughStores where there are fewer candidates than ``replication``.
    """
    stores = sorted(set(candidates))
    if len(stores) < replication:
        raise NotEnoughStores(
            f"replication {replication} needs {replication} stores that are up and ready; there are {len(stores)}",
            up=len(stores),
            wanted=replication,
        )
    load = {s: assigned.get(s, 0) for s in stores}
    firsts = dict.fromkeys(stores, 0)
    placed: list[tuple[int, ...]] = []
    for index in range(partitions):
        turn = {s: (at - index) % len(stores) for at, s in enumerate(stores)}
        chosen = sorted(stores, key=lambda s: (load[s], turn[s]))[:replication]
        chosen.sort(key=lambda s: (firsts[s], turn[s]))
        firsts[chosen[0]] += 1
        for store_id in chosen:
            load[store_id] += 1
        placed.append(tuple(chosen))
    return placed
