"""Pages that are made from code say what the code says; links and paths in documents and docstrings lead somewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from stele.services.coordination.schema import TREE
from tests.unit.layout.tree import PACKAGES, ROOT, files

# A file named in a text, with as much of its path as the text needs; a folder in backquotes.
FILE = re.compile(r"(?<![\w/.<>*-])(?:\.\./|\./)*(?P<path>[\w-][\w./-]*\.(?:py|md|proto))\b(?!\()")
FOLDER = re.compile(r"`(?P<path>[\w.-]+/[\w./-]*)`")
HISTORY = Path("CHANGELOG.md")  # names what there was

LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")


REFERENCE = ROOT / "docs" / "reference"
GLOSSARY = ROOT / "docs" / "glossary.md"


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


def places() -> frozenset[str]:
    """Every file and folder, under each name that a text may use for it: the whole path or the end of it."""
    whole = {path for file in files() for path in (file, *file.parents)} | {
        Path("stele", *path.parts) for path in files() if path.parts[0] in PACKAGES
    }
    return frozenset("/".join(path.parts[start:]) for path in whole for start in range(len(path.parts)))


def named(path: Path, text: str) -> Iterator[str]:
    """The paths that a document, or the words of a module, name."""
    if path.suffix == ".py":
        if any(found.endswith(".py") for found in FILE.findall(text)):  # else its words name none either
            yield from (found for found in FILE.findall(words(text)) if found.endswith(".py"))
    elif path.suffix == ".md" and path != HISTORY:
        tops = {file.parts[0] for file in files() if len(file.parts) > 1}
        yield from FILE.findall(text)
        yield from (found for found in FOLDER.findall(text) if found.split("/")[0] in tops)


def words(source: str) -> str:
    """Comments and docstrings, not the strings that a program works with."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    alone = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENCODING)
    return "\n".join(
        token.string
        for number, token in enumerate(tokens)
        if token.type == tokenize.COMMENT
        or (
            token.type == tokenize.STRING
            and (number == 0 or tokens[number - 1].type in alone)
            and tokens[number + 1].type in alone
        )
    )


def test_paths_in_texts_lead_somewhere() -> None:
    known = places()
    lost = [
        f"{path}: {name}"
        for path in files()
        if path.suffix in (".py", ".md") and path.parts[:2] != ("services", "pb")
        for name in named(path, (ROOT / path).read_text())
        if name.rstrip("/") not in known
    ]
    assert lost == []


def test_a_lost_path_is_seen() -> None:
    text = '"""As in services/nowhere.py."""\nx = "made_by_a_test.py"  # see errors.py\n'
    assert list(named(Path("a.py"), text)) == ["services/nowhere.py", "errors.py"]
    assert "services/nowhere.py" not in places()
    assert {"services/errors.py", "errors.py", "stele/services/errors.py"} <= places()
    assert list(named(Path("a.md"), "`lab/nowhere` [x](../docs/design.md) `GET /x/y`")) == [
        "docs/design.md",
        "lab/nowhere",
    ]


def test_the_worked_example_can_be_applied() -> None:
    """The pieces of CONTRIBUTING.md, in their order, fit the code as it is."""
    pieces = re.findall(r"^```diff\n(.+?\n)```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(pieces) == 5
    fits = subprocess.run(
        ["git", "apply", "-p0", "--check"], cwd=ROOT, input="".join(pieces), capture_output=True, text=True, check=False
    )
    assert fits.returncode == 0, fits.stderr


def test_the_index_leads_to_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    pages = {ROOT / path for path in files() if path.parts[0] == "docs" and path.suffix == ".md"} - {index}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - linked) == []


def test_a_word_of_the_glossary_is_where_it_says() -> None:
    rows = re.findall(
        r"^\| (?P<words>[^|]+) \|.*\| \[[\w./]+\]\(\.\./(?P<file>[\w./]+)\) \|$", GLOSSARY.read_text(), re.MULTILINE
    )
    assert len(rows) == GLOSSARY.read_text().count("\n| ") - GLOSSARY.read_text().count("\n| word |")
    lost = [
        f"{word}: not in {file}"
        for words, file in rows
        for word in words.split(", ")
        if letters(word) not in letters(file + (ROOT / file).read_text())
    ]
    assert lost == []


def test_the_design_names_every_kind_of_node_in_zookeeper() -> None:
    section = (ROOT / "docs" / "design.md").read_text().partition("\n## 4.")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)`", section, re.MULTILINE) == [kind.path for kind in TREE]


def letters(text: str) -> str:
    """What is left of a text that a word may be written in as one, as two, with a hyphen or an underscore."""
    return re.sub(r"[^a-z]", "", text.lower())
