"""rules.md: where each rule is kept, the tests that show it and the mutants that break it, from the tree and lab/mutants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from pages import code
from stele.lab.mutants import MUTANTS
from stele.lab.mutants.registry import WITHOUT_A_LINE, WITHOUT_A_MUTANT
from tests.unit.layout.rules import Rule, defined, kept_in, mutants_of, shown_by, simulated

HEAD = """# Rules: where each is kept, shown and broken on purpose

The rules themselves, with the failures behind them, stand in [failures.md](failures.md) (F1 to F6, R1.1 to R5.10) and [raft.md](raft.md)
(H1 to H18). *Kept in* are the places of the product that name the rule. *Shown by* are the tests that name it or that play a mutant of it:
with the product they pass, with the mutant they end with the promise broken that the mutant is about. *Simulated* mutants are found by
`make sim-proof`, and those that take few runs by `make test`.
"""
SIMULATION = "[the simulator's proof](../../tests/simulation/selfproof.py)"


def page() -> str:
    return "\n".join([HEAD, *(line for rule in defined().values() for line in section(rule))])


def section(rule: Rule) -> Iterator[str]:
    number, target = rule.number, f"{rule.page.name}#{rule.anchor}"
    if number[0] == "F":
        yield from (f"## [{number}]({target}). {rule.says}", "")
        return
    if number == "H1":
        yield from ("## The holes of the library, and their corrections", "")
    yield from (f'### <a id="{rule.anchor}"></a>[{number}]({target}) {first_sentence(rule.says)}', "")
    kept = ((place.path, place.inside) for place in kept_in(number))
    yield f"- Kept in: {listed(kept) or WITHOUT_A_LINE.get(number, '?')}"
    shown = [listed((test.path, test.test) for test in shown_by(number))]
    mutants = mutants_of(number)
    if set(mutants) & simulated():
        shown.append(SIMULATION)
    yield f"- Shown by: {'; '.join(s for s in shown if s) or WITHOUT_A_MUTANT.get(number, '?')}"
    if not mutants:
        yield f"- Broken by: no mutant. {WITHOUT_A_MUTANT.get(number, '?')}"
    for name in mutants:
        mutant = MUTANTS[name]
        yield f"- Broken by {code(name)}: {mutant.wrong} Then it no longer holds that {', or that '.join(mutant.promises)}."
    yield ""


def first_sentence(text: str) -> str:
    """A heading."""
    return text.split(". ")[0].rstrip(".")


def listed(places: Iterable[tuple[Path, str]]) -> str:
    """Files, linked, each with what in it."""
    return "; ".join(
        f"[{path}](../../{path})" + ("" if not any(inside) else f" ({', '.join(code(i) for i in inside if i)})")
        for path, inside in ((path, [i for _, i in group]) for path, group in groupby(sorted(places), lambda p: p[0]))
    )
