"""Wall clocks decide nothing about data: who reads one is listed here, with what for.

A wall clock may be set by anybody, to anything, at any moment.  What it says may be shown to people, and may be looked up by them; it is
never compared with a stamp of another machine, or of another time, to conclude that something is old, dead, owned or finished.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.unit.layout.tree import PACKAGES, modules

READS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "localtime"),
    ("time", "gmtime"),
    ("time", "ctime"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}

READERS = {
    "stele.services.clock": "the clock itself",
    "stele.broker.log_reader": "how old messages are, for people",
    "stele.services.coordination.enrolment": "when a process began, for people",
    "stele.nameserver.move_writer": "when moves began, for people",
    "stele.nameserver.server": "how long an operation lasts, for people",
    "stele.services.coordination.founding": "when a cluster was made, for people",
    "stele.nameserver.event_buffer": "when something happened, for people",
    "stele.nameserver.orphans": "when a topic was adopted, for people",
    "stele.nameserver.stores": "when a store was registered, for people",
    "stele.nameserver.topic_writer": "when a topic was made, for people",
    "stele.cause_calls": "when events happened, for people",
    "stele.producer": "the time of a message, for those who read it",
    "stele.cli.events": "what --since means",
    "stele.cli.metadata": "when a copy was taken, for people",
    "stele.cli.output": "shows times",
    "stele.lab.demonstration": "a timeline for people",
}


def readings(source: str) -> Iterator[int]:
    """Lines in which a wall clock is read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if node.attr == "wall_ms" or (owner, node.attr) in READS:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for name in node.names if ("time", name.name) in READS)
        elif isinstance(node, ast.FunctionDef) and node.name == "wall_ms":
            yield node.lineno


def test_p36_wall_clocks_are_read_where_a_reason_is_given_and_nowhere_else() -> None:
    found = {name for package in PACKAGES for name, path in modules(package) if any(readings(path.read_text()))}
    assert {name for name in found if not name.startswith("stele.lab.mutants.")} == set(READERS)


@pytest.mark.parametrize(
    "line",
    ["import time; time.time()", "from time import time_ns", "self._clock.wall_ms()", "datetime.datetime.now()"],
)
def test_a_reading_is_seen(line: str) -> None:
    assert list(readings(line)) == [1]
