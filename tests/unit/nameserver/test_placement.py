"""Placement is even, spread and the same everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.placement import place, spread
from stele.services.errors import NotEnoughStores


@st.composite
def clusters(draw: st.DrawFn) -> tuple[int, int, list[int], dict[int, int]]:
    stores = draw(st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True))
    replication = draw(st.integers(1, len(stores)))
    assigned = draw(st.dictionaries(st.sampled_from(stores), st.integers(0, 40)))
    return draw(st.integers(1, 120)), replication, stores, assigned


@given(clusters())
def test_replicas_of_a_partition_are_on_different_candidates(
    cluster: tuple[int, int, list[int], dict[int, int]],
) -> None:
    partitions, replication, stores, assigned = cluster
    placed = place(partitions, replication, stores, assigned)
    assert len(placed) == partitions
    for replicas in placed:
        assert len(set(replicas)) == len(replicas) == replication
        assert set(replicas) <= set(stores)


@given(clusters())
def test_the_spread_never_grows(cluster: tuple[int, int, list[int], dict[int, int]]) -> None:
    partitions, replication, stores, assigned = cluster
    load = {s: assigned.get(s, 0) for s in stores}
    before = max(load.values()) - min(load.values())
    for replicas in place(partitions, replication, stores, assigned):
        for store_id in replicas:
            load[store_id] += 1
    assert max(load.values()) - min(load.values()) <= max(before, 1)


@given(clusters())
def test_even_stores_stay_even_and_lead_evenly(cluster: tuple[int, int, list[int], dict[int, int]]) -> None:
    partitions, replication, stores, _ = cluster
    placed = place(partitions, replication, stores, {})
    load = dict.fromkeys(stores, 0)
    firsts = dict.fromkeys(stores, 0)
    for replicas in placed:
        firsts[replicas[0]] += 1
        for store_id in replicas:
            load[store_id] += 1
    assert max(load.values()) - min(load.values()) <= 1
    assert max(firsts.values()) - min(firsts.values()) <= 2


@given(clusters(), st.randoms())
def test_the_order_of_the_candidates_does_not_matter(
    cluster: tuple[int, int, list[int], dict[int, int]], random: object
) -> None:
    partitions, replication, stores, assigned = cluster
    shuffled = list(stores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(partitions, replication, shuffled, assigned) == place(partitions, replication, stores, assigned)


def test_an_empty_store_catches_up_before_others_get_more() -> None:
    placed = place(4, 1, [1, 2, 3], {1: 10, 2: 10})
    assert placed == [(3,), (3,), (3,), (3,)]


def test_too_few_stores_are_told_with_numbers() -> None:
    with pytest.raises(NotEnoughStores) as refused:
        place(1, 3, [1, 2], {})
    assert refused.value.facts == {"up": "2", "wanted": "3"}


@given(clusters(), st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=12, max_size=12))
def test_replicas_are_on_as_many_racks_as_there_are(
    cluster: tuple[int, int, list[int], dict[int, int]], names: list[str]
) -> None:
    partitions, replication, stores, assigned = cluster
    racks = {s: name for s, name in zip(stores, names, strict=False) if name}
    there = spread(stores, racks)
    for replicas in place(partitions, replication, stores, assigned, racks):
        assert len(set(replicas)) == replication
        assert spread(replicas, racks) == min(replication, there)
    if there < replication:
        with pytest.raises(NotEnoughStores, match="racks"):
            place(partitions, replication, stores, assigned, racks, apart=True)
    else:
        place(partitions, replication, stores, assigned, racks, apart=True)
