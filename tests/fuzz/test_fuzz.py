"""Every decoder against bytes made at random and against right ones that were changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

SEEDS = seeds()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Damage is logged, and here everything is damaged."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(wrapper_class=before)


@st.composite
def changed(draw: st.DrawFn, right: list[bytes]) -> bytes:
    """A right input with a few changes: bits, bytes, numbers, pieces cut out, doubled or put in."""
    content = bytearray(draw(st.sampled_from(right)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.integers(0, 6)):
            case 0 if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                content[at : at + 1] = draw(st.binary(max_size=3))
            case 2:
                width = draw(st.sampled_from((2, 4, 8)))
                content[at : at + width] = draw(
                    st.sampled_from((0, 1, 2, (1 << (8 * width - 1)), (1 << (8 * width)) - 1))
                ).to_bytes(width, "big")
            case 3:
                del content[at : at + draw(st.integers(0, 100))]
            case 4:
                piece = content[at : at + draw(st.integers(0, 64))]
                content[at:at] = piece
            case 5:
                del content[at:]
            case _:
                content += draw(st.binary(max_size=16))
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_are_right(name: str) -> None:
    for content in SEEDS[name]:
        TARGETS[name](content)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_refused_or_are_what_would_be_written(name: str) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=400) | changed(list(SEEDS[name])))
    def run(content: bytes) -> None:
        TARGETS[name](content)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_every_cut_and_every_flipped_byte_is_refused_or_is_what_would_be_written(name: str) -> None:
    for content in SEEDS[name]:
        step = max(1, len(content) // 400)
        for at in range(0, len(content), step):
            TARGETS[name](content[:at])
            TARGETS[name](content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
            TARGETS[name](content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
