"""To which record format the cluster may rise: to none that somebody does not know who may be in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.finalization import Finalization, KnownFormat, finalization
from tests.support.both_ways import holds_and_mutant_fails, promise

Decide = Callable[[int, Iterable[KnownFormat]], Finalization]

NS1, NS2 = KnownFormat("ns1", "nameservers", 2), KnownFormat("ns2", "nameservers", 2)
DN1, BR1 = KnownFormat("dn1", "datanodes", 2), KnownFormat("br1", "brokers", 2)
OLD, GONE = KnownFormat("br9", "brokers", 1, "0.1.0"), KnownFormat("br8", "", 0)


@pytest.mark.parametrize(
    ("at", "members", "to", "hindering"),
    [
        (1, [NS1, NS2, DN1, BR1], 2, []),
        (2, [NS1, NS2, DN1, BR1], 2, []),
        (2, [NS1, GONE], 2, []),  # what has come about, nothing hinders
        (1, [OLD], 1, []),
        (1, [], 1, []),
        (1, [NS1, DN1, OLD], 2, ["br9"]),
        (1, [NS1, DN1, GONE], 2, ["br8"]),
        (1, [OLD, NS1, GONE, KnownFormat("ns3", "nameservers", 3)], 3, ["br8", "br9", "ns1"]),
    ],
)
def test_it_rises_to_what_everybody_knows(at: int, members: list[KnownFormat], to: int, hindering: list[str]) -> None:
    found = finalization(at, members)
    assert (found.at, found.to, [name for name, _ in found.hindrances]) == (at, to, hindering)
    assert len(found.members) == len(members)


def test_each_hindrance_says_the_way_out() -> None:
    said = dict(finalization(1, [NS1, OLD, GONE]).hindrances)
    assert said["br9"] == "knows 1 and not 2: start it from the version that the others run"
    assert said["br8"] == "is not registered: start it, or `stele metadata names rm` its name if it never comes back"


@pytest.mark.parametrize("mutant", ["formats.counts_the_registered_alone", "formats.goes_by_the_newest"])
async def test_absence_and_age_both_count(mutant: str) -> None:
    async def scenario(decide: Decide) -> None:
        with promise("the cluster rises only to what everybody knows who may be in it"):
            assert decide(1, [NS1, DN1, OLD]).hindrances
            assert decide(1, [NS1, DN1, GONE]).hindrances

    await holds_and_mutant_fails(scenario, finalization, mutant)


@given(
    st.integers(1, 4),
    st.lists(st.builds(KnownFormat, st.text("abc", min_size=1), st.sampled_from(["brokers", ""]), st.integers(0, 5))),
)
def test_it_never_goes_back_and_never_above_anybody(at: int, members: list[KnownFormat]) -> None:
    found = finalization(at, members)
    assert found.to >= at
    if found.to > at and not found.hindrances:
        assert all(m.knows == found.to for m in members)
