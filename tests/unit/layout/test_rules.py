"""Every number leads somewhere, both ways: what is cited is defined, what is defined is kept, shown and broken, or says why not."""

from __future__ import annotations

import ast

import pytest

from stele.lab.mutants import MUTANTS
from stele.lab.mutants.registry import WITHOUT_A_LINE, WITHOUT_A_MUTANT
from tests.unit.layout.rules import (
    cited,
    defined,
    kept_in,
    mutants_of,
    numbers,
    numbers_of_a_test,
    scenarios,
    shown_both_ways,
    shown_by,
    simulated,
)
from tests.unit.layout.tree import ROOT, files

KEPT = [number for number in defined() if number[0] != "F"]


def test_every_number_in_the_tree_is_defined() -> None:
    lost = [f"{c.place.path}:{c.line} {c.number}" for c in cited() if c.number not in defined()]
    assert lost == []


def test_the_pages_define_all_rules() -> None:
    assert [n for n in defined() if n[0] == "F"] == [f"F{n}" for n in range(1, 7)]
    assert [n for n in defined() if n[0] == "H"] == [f"H{n}" for n in range(1, 19)]
    counts = {"1": 9, "2": 7, "3": 9, "4": 8, "5": 10}
    rules = [f"R{failure}.{n}" for failure, last in counts.items() for n in range(1, last + 1)]
    assert [n for n in defined() if n[0] == "R"] == rules


@pytest.mark.parametrize("number", KEPT)
def test_a_rule_is_kept_shown_and_broken_or_says_why_not(number: str) -> None:
    assert bool(kept_in(number)) != (number in WITHOUT_A_LINE), "named by the product, or in WITHOUT_A_LINE"
    assert shown_both_ways(number) != (number in WITHOUT_A_MUTANT), "broken by a mutant, or in WITHOUT_A_MUTANT"
    assert shown_by(number) or mutants_of(number), "no test names it"


def test_reasons_and_mutants_are_about_rules_that_exist() -> None:
    named = {*WITHOUT_A_LINE, *WITHOUT_A_MUTANT, *(rule for mutant in MUTANTS.values() for rule in mutant.rules)}
    assert named - set(defined()) == set()


def test_every_mutant_is_played() -> None:
    """By a test, or by the simulator in the suite."""
    played = {name for shown in scenarios() for name in shown.mutants} | simulated()
    assert set(MUTANTS) - played == set()


def test_promises_are_those_that_mutants_break() -> None:
    made = {
        node.args[0].value
        for path in files()
        if path.parts[0] == "tests" and path.suffix == ".py"
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "promise"
        if isinstance(node.args[0], ast.Constant)
    }
    assert made - {promise for mutant in MUTANTS.values() for promise in mutant.promises} == set()


def test_what_is_a_number_and_what_is_none() -> None:
    assert numbers("(R4.2, R5.10; H7, H18) F6.  R1.1–R1.6, H10's") == [
        "R4.2", "R5.10", "H7", "H18", "F6", "R1.1", "R1.6", "H10", "R1.2", "R1.3", "R1.4", "R1.5",
    ]  # fmt: skip
    assert numbers("F401 F811 H265 R3: R3 R10 x.R4.2 R4.2.1 HR1.1 #f1 f1 H0 utF8 -H1 1-H2") == []
    assert numbers_of_a_test("test_r4_2_nobody_leads") == ["R4.2"]
    assert numbers_of_a_test("test_h7_h8_h10_what_was_promised") == ["H7", "H8", "H10"]
    assert numbers_of_a_test("test_a_path_of_h10") == []
    assert numbers_of_a_test("r4_2_helper") == []
