"""What is taken from a caller, what is copied, and how the rest is refused: by name, in one short line."""

from __future__ import annotations

import array
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from stele import arguments
from stele.services.errors import InvalidArgument
from tests.support.both_ways import holds_and_mutant_fails, promise


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG = [None, "text", 1, 1.5, True, [], {}, object(), Hostile(), 1 << 100_000, "x" * 10_000, "\ud800", b"x" * 10_000]


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (lambda v: arguments.octets("it", v), (bytes, bytearray, memoryview)),
        (lambda v: arguments.text("it", v), (str,)),
        (lambda v: arguments.flag("it", v), (bool,)),
        (lambda v: arguments.whole("it", v, 0, 1 << 63), (int,)),
        (lambda v: arguments.number("it", v, 0, 1e9), (int, float)),
    ],
)
def test_what_is_of_another_type_is_refused_by_name_in_one_line(check: Callable[[Any], object], good: Any) -> None:
    for value in WRONG:
        is_good = isinstance(value, good) and not (isinstance(value, bool) and bool not in good)
        if is_good and value not in ("\ud800", 1 << 100_000):
            check(value)
            continue
        with pytest.raises(InvalidArgument, match=r"^it ") as refused:
            check(value)
        assert refused.value.facts["argument"] == "it"
        assert len(str(refused.value)) < 250
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [-1, 11, math.nan, math.inf, -math.inf, 1 << 2_000])
def test_numbers_out_of_their_bounds_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="from 0 to 10"):
        arguments.number("it", value, 0, 10)
    with pytest.raises(InvalidArgument, match="from 0 to 10 messages"):
        arguments.whole("it", value, 0, 10, "messages")


async def test_p17_a_buffer_may_be_used_again_at_once() -> None:
    async def scenario(octets: Callable[[str, Any], bytes]) -> None:
        buffer = bytearray(b"first")
        taken = [octets("value", buffer), octets("value", memoryview(buffer))]
        buffer[:] = b"other"
        with promise("a message is stored as it was when it was handed over"):
            assert taken == [b"first"] * 2
            assert all(type(one) is bytes for one in taken)

    await holds_and_mutant_fails(scenario, arguments.octets, "batches.takes_by_reference")


def test_p17_what_is_no_row_of_bytes_is_refused() -> None:
    doubles = array.array("d", [1.0, 2.0])
    for value in (
        doubles,
        memoryview(doubles),
        memoryview(b"abcd").cast("B", (2, 2)),
        memoryview(b"abcdef")[::2],
        memoryview(b"abcd").cast("H"),
    ):
        with pytest.raises(InvalidArgument, match=r"value .*contiguous memoryview of bytes"):
            arguments.octets("value", value)


def test_headers_are_a_mapping_of_names_to_bytes() -> None:
    assert arguments.headers(None) == {}
    assert arguments.headers(MappingProxyType({"a": b"1"})) == {"a": b"1"}
    for wrong in ([("a", b"1")], "a", {1: b"1"}, {"a": "1"}, {"a": None}, {"\ud800": b"1"}):
        with pytest.raises(InvalidArgument, match=r"^headers"):
            arguments.headers(wrong)
