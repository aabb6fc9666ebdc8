"""A short run of the chaos, so that it does what it says; long ones are `make chaos MINUTES=60`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stele.lab import chaos


def test_a_short_run_of_chaos_loses_nothing(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    assert chaos.main(["--minutes", "0.34", "--period", "20", "--seed", "4", "--json", str(found)]) == 0
    tally = json.loads(found.read_text())
    assert tally["acknowledged"] > 1000
    assert sum(tally["faults"].values()) >= 3
    assert tally["problems"] == []


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--period", "3"], ["--faults", "rain"], ["--faults", ""]])
def test_wrong_input_is_refused_in_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chaos.main(wrong)
    assert ended.value.code == 2
    assert "accepted" in capsys.readouterr().err.splitlines()[-1]
