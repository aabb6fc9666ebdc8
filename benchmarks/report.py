"""What a run found: rows with their baselines and targets, drawn as a table and written as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.children import ROOT

RESULTS = ROOT / "benchmarks" / "results"
LATEST = RESULTS / "latest.json"
DOCUMENT = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.  ``ratio`` is value / baseline; ``reached`` says whether the target is, None where there is none."""

    section: str
    what: str
    value: float | None
    unit: str
    against: str = ""
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""


def row(
    section: str,
    what: str,
    value: float | None,
    unit: str,
    against: tuple[str, float | None] = ("", None),
    at_most: float | None = None,
    at_least: float | None = None,
    ratio_at_least: float | None = None,
    note: str = "",
) -> Row:
    """A row with at most one target: of the value, or of its ratio to the baseline."""
    name, baseline = against
    ratio = value / baseline if value is not None and baseline else None
    target, reached = "", None
    if at_most is not None:
        target, reached = f"≤ {shown(at_most)} {unit}", value is not None and value <= at_most
    elif at_least is not None:
        target, reached = f"≥ {shown(at_least)} {unit}", value is not None and value >= at_least
    elif ratio_at_least is not None:
        target, reached = f"≥ {ratio_at_least:g} ×", ratio is not None and ratio >= ratio_at_least
    return Row(section, what, value, unit, name, baseline, ratio, target, reached, note)


@dataclass(slots=True)
class Report:
    """All rows of a run, and the measurements they were made from."""

    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True

    def add(self, rows: Sequence[Row], name: str, measured: Any) -> None:
        self.rows += rows
        self.measured[name] = measured

    def to_json(self) -> str:
        content = {
            "format": 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": machine(),
            "options": self.options,
            "seconds": round(self.seconds, 1),
            "rows": [asdict(r) for r in self.rows],
            "problems": self.problems,
            "measured": self.measured,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The table as it stands in the documentation."""
        lines = [
            "| figure | value | baseline | its value | ratio | target | reached |",
            "|---|--:|---|--:|--:|--:|:-:|",
        ]
        for r in self.rows:
            cells = [
                f"{r.what} ({r.note})" if r.note else r.what,
                _with_unit(r.value, r.unit),
                r.against,
                _with_unit(r.baseline, r.unit),
                "" if r.ratio is None else f"{shown(r.ratio)} ×",
                r.target,
                "" if r.reached is None else "yes" if r.reached else "**no**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        where = machine()
        day = datetime.now(UTC).date().isoformat()
        notes = "".join(f"\n- {problem}" for problem in self.problems)
        return (
            "\n".join(lines)
            + f"\n\nOf {day}, commit {_commit()}: {where['summary']}, {where['processor']}; "
            + ", ".join(f"{name} {number}" for name, number in where["libraries"].items())
            + f".{notes and f' Reported as it is:{chr(10)}{notes}'}\n"
        )

    def document(self, page: Path = DOCUMENT) -> Path:
        """Puts the table into the documentation and the figures beside the earlier ones; the file of the figures."""
        text = page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{self.to_markdown()}\n{END}{after}", encoding="utf-8")
        figures = RESULTS / f"{datetime.now(UTC).date().isoformat()}.json"
        figures.write_text(self.to_json(), encoding="utf-8")
        return figures

    def draw(self, console: Console) -> None:
        table = Table(title=f"Stele, {machine()['summary']}", title_justify="left")
        for title, side in (
            ("figure", "left"),
            ("value", "right"),
            ("baseline", "left"),
            ("its value", "right"),
            ("ratio", "right"),
            ("target", "right"),
            ("reached", "center"),
        ):
            table.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]
        section = None
        for r in self.rows:
            if section is not None and r.section != section:
                table.add_section()
            section = r.section
            reached = "" if r.reached is None else "[green]yes[/]" if r.reached else "[red]no[/]"
            ratio = "" if r.ratio is None else f"{shown(r.ratio)} ×"
            what = f"{r.what}\n  [dim]{r.note}[/]" if r.note else r.what
            table.add_row(
                what, _with_unit(r.value, r.unit), r.against, _with_unit(r.baseline, r.unit), ratio, r.target, reached
            )
        console.print(table)
        for problem in self.problems:
            console.print(f"[yellow]{problem}[/]", highlight=False)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    cores = os.cpu_count() or 0
    return {
        "summary": f"{cores} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "cores": cores,
        "processor": _processor(),
        "load_before": os.getloadavg()[0],
        "libraries": {name: version(name) for name in ("grpcio", "protobuf", "pysyncobj", "uvloop")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{shown(value)} {unit}".strip()


def shown(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
