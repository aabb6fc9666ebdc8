"""The package says its types: strict mypy checks a program against what is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.outsider.installation import Environment

pytestmark = pytest.mark.timeout(600)  # the first of them installs everything

SAMPLES = Path(__file__).with_name("samples")


def mypy(client: Environment, sample: str) -> str:
    """What strict mypy says of a sample that stands in the project; the types are those installed for ``client``."""
    shutil.copy(SAMPLES / sample, client.project)
    settings = client.directory / "mypy.ini"
    settings.write_text("[mypy]\n")
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"),
            *("--config-file", str(settings), "--cache-dir", str(client.directory / "mypy")),
            *("--python-executable", str(client.python), sample),
        ],
        cwd=client.project,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert checked.stderr == ""
    return checked.stdout


def test_a_right_program_is_right(client: Environment) -> None:
    assert mypy(client, "right.py") == ""


def test_mistakes_are_seen(client: Environment) -> None:
    lines = (SAMPLES / "wrong.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    seen = {int(found) for found in re.findall(r"^wrong\.py:(\d+): error:", mypy(client, "wrong.py"), re.MULTILINE)}
    assert seen == marked
