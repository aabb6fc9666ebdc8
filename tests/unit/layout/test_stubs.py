"""The generated modules in services/pb are what proto/generate makes of proto/ now."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.layout.tree import ROOT


def stubs(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((root / "services" / "pb").glob("*.py*"))}


def test_generated_stubs_are_up_to_date(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    subprocess.run(
        [tmp_path / "proto" / "generate"], check=True, capture_output=True, env={**os.environ, "PYTHON": sys.executable}
    )
    made, kept = stubs(tmp_path), stubs(ROOT)
    assert sorted(made) == sorted(kept)
    stale = [name for name in made if made[name] != kept[name]]
    assert stale == [], "run: make proto"
