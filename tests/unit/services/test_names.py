"""Names that users choose, and the bundles that follow from them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.services.bundles import bundle_of, bundles_of, halves, ranges
from stele.services.errors import InvalidArgument
from stele.services.topics import check_name, parse_topic


@pytest.mark.parametrize("topic", ["a/b", "Orders/paid.v2", "0/_".replace("_", "9"), "n/" + "x" * 128])
def test_good_topics(topic: str) -> None:
    assert "/".join(parse_topic(topic)) == topic


@pytest.mark.parametrize(
    "topic",
    ["", "a", "/", "a/", "/b", "a/b/c", ".a/b", "a/-b", "a/b c", "a/ü", "a/b\n", "../x", "n/" + "x" * 129, "a/" + "\0"],
)
def test_bad_topics_are_refused_with_what_is_accepted(topic: str) -> None:
    with pytest.raises(InvalidArgument, match="accepted"):
        parse_topic(topic)


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_name("subscription", "y" * 100_000)
    assert len(refused.value.message) < 300


@given(st.integers(1, 4096))
def test_ranges_cover_the_ring_without_gap_or_overlap(bundles: int) -> None:
    bounds = [tuple(int(end, 16) for end in r.split("-")) for r in ranges(bundles)]
    assert (bounds[0][0], bounds[-1][1]) == (0, 2**32 - 1)
    assert all(second[0] == first[1] + 1 for first, second in itertools.pairwise(bounds))
    sizes = [last - first + 1 for first, last in bounds]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_a_partition_falls_in_one_of_its_namespaces_bundles(partition: int, bundles: int) -> None:
    assert bundle_of("ns/topic", partition, bundles) in bundles_of("ns", bundles)


def test_the_mapping_is_fixed() -> None:
    assert bundle_of("a/b", 1, 4) == "a/40000000-7fffffff"
    assert ranges(1) == ["00000000-ffffffff"]


@pytest.mark.parametrize("bundles", [0, -1, 4097])
def test_bundle_counts_are_bounded(bundles: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 4096"):
        ranges(bundles)


@given(st.integers(1, 40), st.lists(st.integers(0, 10_000), max_size=30), st.integers(0, 1023))
def test_a_split_moves_the_partitions_of_that_bundle_and_no_others(
    bundles: int, choices: list[int], partition: int
) -> None:
    splits: tuple[int, ...] = ()
    for choice in choices:
        before = bundles_of("ns", bundles, splits)
        chosen, at = before[choice % len(before)], bundle_of("ns/topic", partition, bundles, splits)
        middle, two = halves(chosen)
        splits = tuple(sorted((*splits, middle)))
        after = bundles_of("ns", bundles, splits)
        place = before.index(chosen)
        assert after == [*before[:place], *two, *before[place + 1 :]]
        now = bundle_of("ns/topic", partition, bundles, splits)
        assert now in two if at == chosen else now == at
        assert now in after


@pytest.mark.parametrize("bundle", ["", "ns", "ns/", "ns/x", "ns/00000000-0000000g", "ns/00000005-00000005", "ns/2-1"])
def test_what_is_no_range_cannot_be_halved(bundle: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be split"):
        halves(bundle)
