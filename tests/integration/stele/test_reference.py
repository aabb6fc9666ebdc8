"""The reference pages that are made from code hold for a running cluster."""

from __future__ import annotations

import asyncio
import re
import urllib.request

from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.unit.layout.tree import ROOT

running_cluster = cluster_fixture(nameservers=1, datanodes=1, brokers=1)

REFERENCE = ROOT / "docs" / "reference"
TYPE = re.compile(r"^# TYPE (?P<name>stele_\w+) (?P<type>\w+)$", re.MULTILINE)
ROW = re.compile(r"^\| `(?P<name>stele_\w+)` \| (?P<type>\w+) \|", re.MULTILINE)


def scraped(endpoint: str) -> set[tuple[str, str]]:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        found = TYPE.findall(answer.read().decode())
    return {(name, kind) for name, kind in found if not name.endswith("_created")}


async def test_a_process_counts_what_the_page_of_metrics_says(cluster: ClusterUnderTest) -> None:
    sections = re.split(r"^## ", (REFERENCE / "metrics.md").read_text(), flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0].lower(): set(ROW.findall(section)) for section in sections}
    processes = [p for p in cluster.local.status() if p.role in told]
    assert {p.role for p in processes} == told.keys()
    for process in processes:
        assert await asyncio.to_thread(scraped, process.admin) == told[process.role]
