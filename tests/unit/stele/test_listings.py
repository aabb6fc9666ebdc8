"""Long listings, page by page."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from stele.cli.output import LongListing, OutputFormat, show
from stele.cli.paging import pages
from stele.listings import Listings
from stele.nameserver.catalog import Catalog, PartitionEntry, TopicEntry, TopicState
from stele.nameserver.view import View
from stele.services.errors import InvalidArgument

CATALOG = Catalog(
    topics={f"a/t{i}": TopicEntry(f"a/t{i}", i, 2, 3, TopicState.READY) for i in range(5)},
    partitions={2 * i + n: PartitionEntry(2 * i + n, f"a/t{i}", n, (1,)) for i in range(5) for n in range(2)},
)
COLUMNS = ("NAME", "NUMBER")
ITEMS = [{"name": "x" * (i % 7), "number": i, "more": ["\n", {"a": None}]} for i in range(10)]
ROWS = [(item["name"], item["number"]) for item in ITEMS]


@pytest.mark.parametrize("sizes", [[], [10], [3, 7], [1] * 10])
@pytest.mark.parametrize("output", list(OutputFormat))
def test_what_is_shown_by_pages_is_what_is_shown_at_once(
    output: OutputFormat, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = sum(sizes)
    show(output, ITEMS[:shown], COLUMNS, ROWS[:shown])
    whole = capsys.readouterr().out
    listing = LongListing(output, COLUMNS)
    for first, last in pairwise([0, *(sum(sizes[: i + 1]) for i in range(len(sizes)))]):
        listing.add(ITEMS[first:last], ROWS[first:last])
    listing.end()
    paged = capsys.readouterr().out
    if output is OutputFormat.JSON:
        assert paged == whole
        assert json.loads(paged) == ITEMS[:shown]
    else:
        assert [line.split() for line in paged.splitlines()] == [line.split() for line in whole.splitlines()]


@pytest.mark.parametrize("limit", [None, 1, 4, 5, 9, 10, 11])
@pytest.mark.parametrize("after", ["", "3"])
async def test_pages_go_on_behind_the_last_and_end(limit: int | None, after: str) -> None:
    asked: list[int] = []

    async def fetch(count: int, behind: str) -> list[int]:
        asked.append(count)
        first = int(behind) + 1 if behind else 0
        return list(range(10))[first : first + count]

    found = [n async for page in pages(fetch, str, 5, limit, after) for n in page]
    assert found == list(range(4 if after else 0, 10))[:limit]
    assert max(asked) <= 5


class Asked(Listings):
    """A client of one view."""

    def __init__(self) -> None:
        self.view, self.calls = View(CATALOG, {}, {}), 0

    async def _read(self, method: str, request: Any) -> Any:
        self.calls += 1
        if method == "ListTopics":
            return self.view.topics(request.namespace, request.limit, request.after)
        return self.view.partitions(request.topic, request.limit, (request.after_topic, request.after_partition))


async def test_the_client_goes_from_page_to_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stele.listings.TOPICS_PER_PAGE", 2)
    monkeypatch.setattr("stele.listings.PARTITIONS_PER_PAGE", 3)
    admin = Asked()
    names = [f"a/t{i}" for i in range(5)]
    assert [t.topic for t in await admin.list_topics()] == names
    assert admin.calls == 3
    assert [t.topic for t in await admin.list_topics(limit=3, after="a/t0")] == names[1:4]
    places = [(name, n) for name in names for n in range(2)]
    admin.calls = 0
    assert [(p.topic, p.partition) for p in await admin.list_partitions()] == places
    assert admin.calls == 4
    assert [(p.topic, p.partition) for p in await admin.list_partitions(limit=5, after="a/t1/0")] == places[3:8]
    assert [(p.topic, p.partition) for p in await admin.list_partitions("a/t2", after="a/t2/0")] == [("a/t2", 1)]
    with pytest.raises(InvalidArgument, match="namespace/topic/number"):
        await admin.list_partitions(after="a/t1")
