"""docs/explanation/scale.md from the figures of `control`: a table, and for each figure a plot of how it grows with the cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.children import ROOT
from benchmarks.control import SCALES, TARGETS
from benchmarks.loads import Figures
from benchmarks.report import BEGIN, END, RESULTS, Report, shown

DOCUMENT = ROOT / "docs" / "explanation" / "scale.md"
DECADES = 5  # of a plot's height
CELLS = 8  # of a decade


def document(report: Report, page: Path = DOCUMENT) -> Path:
    """Puts table and plots into the page, and keeps the figures; the file of these."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    drawn = "\n\n".join(plots(report.measured["control"]))
    page.write_text(f"{before}{BEGIN}\n{report.to_markdown()}\n{drawn}\n\n{END}{after}", encoding="utf-8")
    figures = RESULTS / f"control-{datetime.now(UTC).date().isoformat()}.json"
    figures.write_text(report.to_json(), encoding="utf-8")
    return figures


def plots(found: Sequence[Figures]) -> list[str]:
    """One for each figure: a bar for each size, on one logarithmic scale; a mark where the target is."""
    return [plot(name, found) for name in TARGETS if any(name in figures for figures in found)]


def plot(name: str, found: Sequence[Figures]) -> str:
    what, unit, target = TARGETS[name]
    values = [
        (f"{figures['partitions']:,}", figures[name] * SCALES.get(name, 1.0) if name in figures else None)
        for figures in found
    ]
    known = [value for _, value in values if value]
    top = max([*known, *([target] if target else [])], default=1.0)
    width = DECADES * CELLS
    mark = _cell(target, top, width) if target else None
    lines = [f"{what[0].upper()}{what[1:]}, {unit} (each {CELLS} cells: ten times as much)", ""]
    for size, value in values:
        length = _cell(value, top, width) if value is not None else 0
        cells = ["█" if i < length else " " for i in range(width)]
        if mark is not None:
            cells[mark - 1] = "┃" if length < mark else "┇"
        lines.append(f"{size:>9} │{''.join(cells)}│ {shown(value) if value is not None else 'not reached'}")
    if target is not None:
        lines.append(f"{'':>9}  {'':>{(mark or 1) - 1}}└ target {shown(target)}")
    body = "\n".join(line.rstrip() for line in lines)
    return f"```text\n{body}\n```"


def _cell(value: float, top: float, width: int) -> int:
    """From 1; the largest value fills the width."""
    if value <= 0:
        return 1
    return max(1, min(width, width + round(math.log10(value / top) * CELLS)))
