"""The table of mutants: each can be loaded, says what is wrong about it, and stands in for something that exists."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

from stele.lab import mutants
from stele.lab.mutants import MUTANTS, Mutant


def of_the_product(name: str) -> Any:
    module, _, own = name.partition(":")
    return getattr(importlib.import_module(module), own)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_stands_in_for_a_part_of_the_product(mutant: Mutant) -> None:
    wrong, right = mutant.load(), of_the_product(mutant.replaces)
    assert mutant.wrong.endswith("."), "its docstring says in one sentence what is wrong"
    assert mutant.instead_of == "" or not (inspect.isclass(wrong) and right in wrong.__mro__), "derived: nothing to say"


def test_every_mutant_is_in_the_table() -> None:
    made = {
        f"{module.name}.{name}"
        for module in pkgutil.iter_modules(mutants.__path__)
        if module.name != "registry"
        for name, part in vars(importlib.import_module(f"{mutants.__name__}.{module.name}")).items()
        if getattr(part, "__module__", "").endswith(f".mutants.{module.name}") and not name.startswith("_")
        if inspect.isclass(part) or inspect.isfunction(part)
    }
    assert made == set(MUTANTS)
