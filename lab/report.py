"""What a run shows: a timeline of faults and of what the cluster did, a table of what each fault cost, the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from stele.lab.checker import Verdict

SHOWN_KINDS = frozenset(
    {
        "member_joined",
        "member_gone",
        "nameserver_elected",
        "partition_leader_elected",
        "bundle_moved",
        "store_loading",
        "store_ready",
        "topic_created",
    }
)
FOLDED_WITHIN_S = 1.0  # events of one kind that follow one another this closely are shown as one line


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline; ``at_s`` counts from the start of the load."""

    at_s: float
    kind: str  # fault, mend, or an event's kind
    text: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What one fault cost.  0 ms: no longer than the longest pause before the first fault."""

    fault: str
    process: str
    writes_ms: int
    reads_ms: int
    lost: int
    duplicated: int


def folded(moments: Sequence[Moment]) -> list[Moment]:
    """The timeline in order, with runs of one kind of event made one line."""
    lines: list[Moment] = []
    counts: list[int] = []
    for moment in sorted(moments, key=lambda m: m.at_s):
        last = lines[-1] if lines else None
        foldable = moment.kind in ("partition_leader_elected", "bundle_moved")
        if foldable and last is not None and last.kind == moment.kind and moment.at_s - last.at_s <= FOLDED_WITHIN_S:
            counts[-1] += 1
        else:
            lines.append(moment)
            counts.append(0)
    return [
        Moment(m.at_s, m.kind, f"{m.text} (and {n} more)" if n else m.text) for m, n in zip(lines, counts, strict=True)
    ]


def show(
    console: Console, timeline: Sequence[Moment], costs: Sequence[Cost], verdict: Verdict, noise_ms: tuple[int, int]
) -> None:
    """Prints all three."""
    console.print("\n[bold]Timeline[/bold] (seconds since the first message)")
    for moment in folded(timeline):
        mark = {"fault": "[bold red]✗ ", "mend": "[bold green]✓ "}.get(moment.kind, "[dim]  ")
        console.print(f"{moment.at_s:7.2f}  {mark}{moment.text}[/]", highlight=False)
    table = Table(title="What each fault cost", title_justify="left", caption_justify="left")
    table.caption = (
        f"The worst partition's longest pause; 0 is no longer than before the first fault "
        f"(writes {noise_ms[0]} ms, reads {noise_ms[1]} ms)."
    )
    table.add_column("fault")
    table.add_column("process")
    for column in ("writes unavailable\n(ms)", "reads unavailable\n(ms)", "lost", "duplicated"):
        table.add_column(column, justify="right")
    for c in costs:
        table.add_row(c.fault, c.process, str(c.writes_ms), str(c.reads_ms), str(c.lost), str(c.duplicated))
    console.print()
    console.print(table)
    colour = "green" if verdict.holds else "red"
    console.print(
        f"\n[bold {colour}]{verdict.acknowledged} acknowledged: {len(verdict.lost) + len(verdict.undelivered)} lost, "
        f"{len(verdict.duplicated)} duplicated, {len(verdict.unordered)} out of order[/]"
        f"   ({verdict.redelivered} delivered more than once, as at-least-once allows; "
        f"{verdict.indefinite} sends without an answer)",
        highlight=False,
    )
    for problem in verdict.problems:
        console.print(f"[red]  {problem}[/]", highlight=False)


def as_json(
    timeline: Sequence[Moment], costs: Sequence[Cost], verdict: Verdict, noise_ms: tuple[int, int]
) -> dict[str, object]:
    return {
        "acknowledged": verdict.acknowledged,
        "lost": len(verdict.lost) + len(verdict.undelivered),
        "duplicated": len(verdict.duplicated),
        "unordered": len(verdict.unordered),
        "problems": verdict.problems,
        "redelivered": verdict.redelivered,
        "noise_ms": {"writes": noise_ms[0], "reads": noise_ms[1]},
        "faults": [asdict(c) for c in costs],
        "timeline": [asdict(m) for m in timeline],
    }
