"""A run as a space-time diagram: processes are lanes, time runs down, messages are arrows, faults are marked.  One self-contained file."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.cluster.plan import Hosts

if TYPE_CHECKING:
    from tests.simulation.cluster.world import Line


def diagram(trace: Sequence[Line], hosts: Hosts, title: str) -> str:
    lanes = [*hosts.zookeepers, *hosts.servers, *hosts.clients, ""]
    events = [
        [
            round(line.at, 6),
            line.what,
            line.where,
            str(line).partition(f"{line.what} ")[2],
            str(line.facts.get("to", "")),
        ]
        for line in trace
    ]
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return page.replace("@TITLE@", html.escape(title)).replace(
        "@DATA@", json.dumps({"lanes": lanes, "events": events}).replace("</", "<\\/")
    )
