"""The rules and where they live: what docs/reference/failures.md and docs/reference/raft.md define, what the tree cites, what tests and
mutants show.

A number is ``F4`` (a failure), ``R4.2`` (a rule that keeps it from happening) or ``H10`` (a hole of the library, with its correction);
in the name of a test ``test_r4_2_…``, ``test_h7_h8_…``.  It stands alone: F401, H265, R3 or x.R4.2 are none.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stele.lab.mutants import MUTANTS
from tests.unit.layout.tree import ROOT, files

PAGES = (Path("docs/reference/failures.md"), Path("docs/reference/raft.md"))
SIMULATORS = (Path("tests/simulation/selfproof.py"), Path("tests/simulation/cluster/proof.py"))
GENERATED = Path("docs/reference/rules.md")
PRODUCT = ("services", "nameserver", "datanode", "broker", "stele", "proto")

NUMBER = re.compile(r"(?<![\w.#/-])(?:F[1-9]|R[1-9]\.[1-9]\d?|H[1-9]\d?)(?![\w-]|\.\d)")
SPAN = re.compile(r"(?<![\w.#/-])(?P<family>R[1-9]\.|H)(?P<first>\d+)–(?P=family)(?P<last>\d+)(?![\w.-])")
IN_A_TEST = re.compile(r"(?<=_)(?:f[1-9]|r[1-9]_[1-9]\d?|h[1-9]\d?)(?=_)")
RULE = r"- <a id=\"(?P<at>[a-z0-9.]+)\"></a>\*\*(?P<rule>R[\d.]+)\*\* (?P<says>.+?)(?=\n- |\n\n|\Z)"
SECTION = r"#+ <a id=\"(?P<there>[a-z0-9]+)\"></a>(?P<section>[FH]\d+)\. (?P<title>[^\n]+)"
DEFINED = re.compile(f"^(?:{RULE}|{SECTION})", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    number: str
    says: str  # what it says, in full; of a failure or a hole its title
    page: Path
    anchor: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number is cited: in a function or class of a file, or in the file as a whole (``inside`` empty)."""

    path: Path
    inside: str


@dataclass(frozen=True, slots=True)
class Citation:
    number: str
    place: Place
    line: int


@cache
def defined() -> Mapping[str, Rule]:
    """In the order of the pages."""
    found: dict[str, Rule] = {}
    for page in PAGES:
        for m in DEFINED.finditer((ROOT / page).read_text()):
            number = m["rule"] or m["section"]
            says = " ".join((m["says"] or m["title"]).split())
            assert number not in found, f"{number} is defined twice"
            found[number] = Rule(number, says, page, m["at"] or m["there"])
    return found


def numbers(text: str) -> list[str]:
    """Those that stand in ``text``, and those between the ends of a span such as R1.2–R1.6."""
    found: list[str] = NUMBER.findall(text)
    for span in SPAN.finditer(text):
        found += [f"{span['family']}{n}" for n in range(int(span["first"]) + 1, int(span["last"]))]
    return found


@cache
def numbers_of_a_test(name: str) -> list[str]:
    """The numbers in the name of a test."""
    return [found.upper().replace("_", ".") for found in IN_A_TEST.findall(name)] if name.startswith("test_") else []


@cache
def cited() -> tuple[Citation, ...]:
    """Every number in the tree outside the pages that define and list them."""
    return tuple(_cited())


def _cited() -> Iterator[Citation]:
    for path in files():
        if path in (*PAGES, GENERATED) or path.parts[:2] == ("services", "pb") or path.suffix not in _READ:
            continue
        text = (ROOT / path).read_text(errors="replace")
        if path.suffix == ".py" or text.startswith("#!/usr/bin/env python"):
            yield from _cited_in_python(path, text)
        else:
            for at, line in enumerate(text.splitlines(), 1):
                yield from (Citation(number, Place(path, ""), at) for number in numbers(line))


_READ = {".py", ".md", ".proto", ".toml", ".yml", ".yaml", ".txt", ""}


def _cited_in_python(path: Path, text: str) -> Iterator[Citation]:
    said = NUMBER.search(text) or SPAN.search(text)
    if not said and not IN_A_TEST.search(text):
        return
    known = list(definitions(ast.parse(text)))
    for token in tokenize.generate_tokens(io.StringIO(text).readline) if said else ():
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for at, line in enumerate(token.string.splitlines(), token.start[0]):
                for number in numbers(line):
                    inside = next((name for first, last, name in reversed(known) if first <= at <= last), "")
                    yield Citation(number, Place(path, inside), at)
    for first, _, name in known:
        for number in numbers_of_a_test(name):
            yield Citation(number, Place(path, name), first)


def definitions(tree: ast.AST, within: str = "") -> Iterator[tuple[int, int, str]]:
    """First and last lines and dotted names of functions and classes, outer ones first."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{node.name}" if within else node.name
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield first, node.end_lineno or first, name
            yield from definitions(node, name)
        else:
            yield from definitions(node, within)


@dataclass(frozen=True, slots=True)
class Shown:
    """A test, and the mutants that it plays its scenario with: none, if it is played with the product alone."""

    path: Path
    test: str
    mutants: tuple[str, ...]


@cache
def scenarios() -> tuple[Shown, ...]:
    """Every test, by reading: a mutant is used where its name stands in a string of the test, its decorators or a function of the
    same file that the test names."""
    found: list[Shown] = []
    mutants = set(MUTANTS)
    for path in files():
        if path.parts[0] != "tests" or not path.name.startswith("test_") or path.suffix != ".py":
            continue
        tree = ast.parse((ROOT / path).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.append(Shown(path, node.name, tuple(sorted(_strings(node) & mutants))))
    return tuple(found)


def _strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@cache
def simulated() -> frozenset[str]:
    """The mutants that a simulator finds in the suite: rows of its table that are given some runs."""
    nodes = (n for simulator in SIMULATORS for n in ast.walk(ast.parse((ROOT / simulator).read_text())))
    rows = (n for n in nodes if isinstance(n, ast.Call))
    proofs = [row for row in rows if isinstance(row.func, ast.Name) and row.func.id == "Proof"]
    found = (ast.literal_eval(proof.args[0]) for proof in proofs if ast.literal_eval(proof.args[1]))
    return frozenset(name for names in found for name in names)


def mutants_of(number: str) -> list[str]:
    return [name for name, mutant in MUTANTS.items() if number in mutant.rules]


def shown_by(number: str) -> list[Shown]:
    """Those that name it and those that break it on purpose."""
    breaking = set(mutants_of(number))
    return [shown for shown in scenarios() if number in numbers_of_a_test(shown.test) or breaking & set(shown.mutants)]


def kept_in(number: str) -> list[Place]:
    """Where the product says that it keeps it: functions and classes before whole files."""
    places = {c.place for c in cited() if c.number == number and c.place.path.parts[0] in PRODUCT}
    return sorted(places, key=lambda place: (place.inside == "", str(place.path), place.inside))


def shown_both_ways(number: str) -> bool:
    """Whether a test of the suite, or the simulator in it, plays a mutant that breaks it."""
    breaking = set(mutants_of(number))
    return bool(breaking & simulated()) or any(breaking & set(shown.mutants) for shown in scenarios())
