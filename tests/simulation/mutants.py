"""Runs with a part of the product replaced by one that is wrong on purpose (lab/mutants), to show that the simulator sees it.

A part is replaced under its name in every module of the product, and where a function has it as the default of an argument.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

from stele.lab.mutants import MUTANTS
from tests.support.in_place import PLACES, in_place

HOLDERS = ("stele.", "tests.simulation.")


@contextmanager
def switched(names: Sequence[str]) -> Iterator[None]:
    """The product with the mutants of these ``names`` in the place of what they stand in for."""
    ours = [name for name in names if MUTANTS[name].replaces.rpartition(":")[2] not in PLACES]
    with in_place(*(MUTANTS[name].load() for name in names if name not in ours)), _everywhere(ours):
        yield


@contextmanager
def _everywhere(names: Sequence[str]) -> Iterator[None]:
    """Wherever a module of the product has the part under its name."""
    put_back: list[Callable[[], None]] = []
    try:
        for name in names:
            module, _, part = MUTANTS[name].replaces.rpartition(":")
            original, mutant = getattr(importlib.import_module(module), part), MUTANTS[name].load()
            for holder in [m for n, m in sys.modules.items() if n.startswith(HOLDERS) and "mutants" not in n]:
                if getattr(holder, part, None) is original:
                    put_back.append(partial(setattr, holder, part, original))
                    setattr(holder, part, mutant)
                for function in _functions(holder):
                    put_back += _as_default(function, original, mutant)
        yield
    finally:
        for undo in reversed(put_back):
            undo()


def _functions(module: Any) -> Iterator[FunctionType]:
    """Those of the module and of its classes."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for found in [value, *vars(value).values()] if isinstance(value, type) else [value]:
            if isinstance(found, FunctionType):
                yield found


def _as_default(function: FunctionType, original: Any, mutant: Any) -> list[Callable[[], None]]:
    """``mutant`` where ``function`` has ``original`` as a default; what puts that back."""
    undo: list[Callable[[], None]] = []
    defaults, by_name = function.__defaults__ or (), function.__kwdefaults__ or {}
    if any(default is original for default in defaults):
        function.__defaults__ = tuple(mutant if default is original else default for default in defaults)
        undo.append(partial(setattr, function, "__defaults__", defaults))
    for name, default in by_name.items():
        if default is original:
            by_name[name] = mutant
            undo.append(partial(by_name.__setitem__, name, original))
    return undo
