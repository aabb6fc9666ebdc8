"""Words of lines that people read."""

from __future__ import annotations

from stele.services.wording import counted


def test_one_is_singular() -> None:
    assert [counted(n, "replica") for n in (0, 1, 2)] == ["0 replicas", "1 replica", "2 replicas"]
