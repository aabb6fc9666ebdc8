"""What commands show of replicas that are to move, and of work that goes on while they wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from stele.cli.output import report, show_rows, size
from stele.model import OperationInfo, PlannedMove

WaitTimeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="With --wait: give up waiting after this long.", min=0)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would move where, and why the rest would not; change nothing.")
]


class ChangedLines:
    """Reports a line whenever it is another one than before."""

    def __init__(self) -> None:
        self._said = ""

    def tell(self, line: str, more: str = "") -> None:
        """``more`` is shown beside it, and is no reason to report it again."""
        if line != self._said:
            self._said = line
            report(line + more)


def step_of(operation: OperationInfo, *, with_bytes: bool = True) -> str:
    """Where it is, and the first thing that stands in its way."""
    left = f", {size(operation.bytes_left)}" if with_bytes else ""
    return f"{operation.step}{left}" + (f"; {operation.problems[0]}" if operation.problems else "")


def show_moves(moves: Iterable[PlannedMove], names: Mapping[int, str]) -> None:
    rows = [
        (m.topic, m.partition, m.group, names.get(m.source, m.source), names.get(m.to, m.to), size(m.log_bytes))
        for m in moves
    ]
    if rows:
        show_rows(("TOPIC", "PARTITION", "GROUP", "FROM", "TO", "LOG"), rows)
