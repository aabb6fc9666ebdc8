"""Sizes and times as people write them."""

from __future__ import annotations

import pytest

from stele.cli.units import bytes_of, ms_of
from stele.services.errors import InvalidArgument
from stele.services.units import shown_span


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", None), ("forever", 0), ("0", 0), ("1GiB", 1 << 30), ("512 MiB", 512 << 20), ("100", 100), ("2k", 2048)],
)
def test_sizes(text: str, wanted: int | None) -> None:
    assert bytes_of("--retention-bytes", text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("forever", 0),
        ("0", 0),
        ("7d", 7 * 86_400_000),
        ("2w", 14 * 86_400_000),
        ("12h", 43_200_000),
        ("30min", 1_800_000),
        ("30m", 1_800_000),
        ("90 s", 90_000),
        ("1500ms", 1_500),
    ],
)
def test_spans(text: str, wanted: int | None) -> None:
    assert ms_of("--retention", text) == wanted


@pytest.mark.parametrize("text", ["7", "d", "-1d", "1.5h", "7 days", "x"])
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--retention .* is not accepted: a time like"):
        ms_of("--retention", text)


@pytest.mark.parametrize("text", ["GiB", "-1", "1.5GiB", "1XB"])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--retention-bytes .* is not accepted: a size like"):
        bytes_of("--retention-bytes", text)


@pytest.mark.parametrize("text", ["7d", "36h", "90min", "1500ms", "61s"])
def test_a_span_is_shown_as_it_was_given(text: str) -> None:
    ms = ms_of("", text)
    assert ms is not None
    assert ms_of("", shown_span(ms)) == ms
