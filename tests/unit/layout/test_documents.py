"""Pages that are made from code say what the code says; links inside the documents lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.unit.layout.tree import ROOT, files

LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")


REFERENCE = ROOT / "docs" / "reference"


def test_pages_made_from_code_are_current() -> None:
    checked = subprocess.run(
        [sys.executable, REFERENCE / "generate", "--check"], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_a_page_said_to_be_made_from_code_is() -> None:
    made = {module.stem for module in (REFERENCE / "pages").glob("[!_]*.py")}
    assert {page.stem for page in REFERENCE.glob("*.md") if "*Written by `make docs`" in page.read_text()} == made


def test_links_lead_somewhere() -> None:
    broken = [
        f"{path}: {target}"
        for path in files()
        if path.suffix == ".md"
        for target in LINK.findall((ROOT / path).read_text())
        if not (ROOT / path.parent / Path(target)).exists()
    ]
    assert broken == []
