"""A run as a space-time diagram: processes are lanes, time runs down, messages are arrows that end where they arrive, faults are lines
across.  One self-contained file."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.cluster.plan import Hosts

if TYPE_CHECKING:
    from tests.simulation.cluster.world import Line

STARTS, ENDS = 1, -1  # of a lane's process


def diagram(trace: Sequence[Line], hosts: Hosts, title: str) -> str:
    seen = {host for line in trace for host in (line.where, str(line.facts.get("to", ""))) if host}
    known = [*hosts.zookeepers, *hosts.servers, *hosts.clients]
    lanes = ["", *known, *sorted(seen.difference(known))]
    data = {"lanes": lanes, "events": [_event(line) for line in trace]}
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return page.replace("@TITLE@", html.escape(title)).replace("@DATA@", json.dumps(data).replace("</", "<\\/"))


def _event(line: Line) -> list[object]:
    """When, what, where, in words; of a message to whom and when it arrives (-1: held); whether the lane's process starts or ends."""
    arrives = line.facts.get("arrives", 0)
    life = STARTS if line.what == "start" else ENDS if "down_s" in line.facts or line.what.startswith("exit ") else 0
    text = " ".join([line.text, *(f"{k}={v}" for k, v in line.facts.items() if k not in ("to", "arrives"))]).strip()
    return [
        round(line.at, 6),
        line.what,
        line.where,
        text,
        str(line.facts.get("to", "")),
        -1 if arrives == "held" else arrives,
        life,
    ]
