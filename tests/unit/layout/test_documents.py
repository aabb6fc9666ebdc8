"""Pages that are made from code say what the code says; links inside the documents lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.unit.layout.tree import ROOT, files

LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")


def test_configuration_page_is_current() -> None:
    checked = subprocess.run([sys.executable, ROOT / "docs" / "reference" / "generate", "--check"], check=False)
    assert checked.returncode == 0, "run: make docs"


def test_links_lead_somewhere() -> None:
    broken = [
        f"{path}: {target}"
        for path in files()
        if path.suffix == ".md"
        for target in LINK.findall((ROOT / path).read_text())
        if not (ROOT / path.parent / Path(target)).exists()
    ]
    assert broken == []
