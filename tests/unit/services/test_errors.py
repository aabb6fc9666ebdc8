"""The error tree keeps its word: what a docstring says is what the class does, and every class survives the wire."""

from __future__ import annotations

import re

import grpc
import pytest

from stele.services.errors import _BY_REASON, SteleError, from_wire
from stele.services.rpc.status import to_status

CLASSES = [kind for kind in _BY_REASON.values() if not kind.__name__.startswith("_")]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_docstring_says_what_the_class_does(kind: type[SteleError]) -> None:
    text = " ".join((kind.__dict__.get("__doc__") or "").split())
    said = re.search(r"(Definite|Indefinite), (retryable|terminal)( for this replica)?", text)
    assert said, f"{kind.__name__}: the docstring says neither definite nor indefinite"
    assert (said[1] == "Definite") is kind.definite
    if not said[3]:  # terminal for one replica leaves open whether another one can serve the call
        assert (said[2] == "retryable") is kind.retryable


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_class_survives_the_wire_form(kind: type[SteleError]) -> None:
    back = from_wire(kind.reason, "what happened", {"fact": "1"})
    assert type(back) is kind
    assert (back.message, back.facts) == ("what happened", {"fact": "1"})


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_class_has_a_code_that_is_an_error(kind: type[SteleError]) -> None:
    assert to_status(kind("what happened")).code is grpc.StatusCode[kind.code.name] is not grpc.StatusCode.OK
    assert re.fullmatch(r"[A-Z][A-Z_]*[A-Z]", kind.reason)


def test_reasons_are_unique() -> None:
    assert len({kind.reason for kind in _BY_REASON.values()}) == len(_BY_REASON)


def test_an_unknown_reason_is_kept_and_neither_definite_nor_retryable() -> None:
    error = from_wire("FROM_THE_FUTURE", "?", {"a": "b"})
    assert type(error) is SteleError
    assert error.facts == {"a": "b", "reason": "FROM_THE_FUTURE"}
    assert (error.definite, error.retryable) == (False, False)
