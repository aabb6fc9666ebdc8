"""What README.md and the docstrings of the package show works as it is written, and prints what they say."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path

import pytest

from tests.e2e.outsider.installation import Environment
from tests.unit.layout.tree import ROOT

pytestmark = pytest.mark.timeout(600)  # the first of them installs everything

ADDRESS = re.compile(r'"127\.0\.0\.1:\d+(?:,127\.0\.0\.1:\d+)*"')
RUNNER = Path(__file__).with_name("run_usages.py")


def usages() -> list[tuple[str, str]]:
    """(where, code) of every block behind a line ``Usage…::`` in the docstrings of the client."""
    found = []
    for path in sorted((ROOT / "stele").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                blocks = blocks_of(ast.get_docstring(node) or "")
                found += [(f"{path.name}: {getattr(node, 'name', 'module')}", block) for block in blocks]
    return found


def blocks_of(docstring: str) -> list[str]:
    """The indented blocks behind ``Usage…::``."""
    return [
        textwrap.dedent(found["block"]).strip("\n") + "\n"
        for found in re.finditer(r"^Usage[^\n]*::\n(?P<block>(?:\n|[ ]+[^\n]*\n?)+)", docstring, re.MULTILINE)
    ]


def readme() -> tuple[str, str]:
    """The Python program of README.md, and what it is said to print."""
    found = re.search(r"```python\n(?P<code>.*?)```\n+```\n(?P<printed>.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    return found["code"], found["printed"]


def at(address: str, code: str) -> str:
    return ADDRESS.sub(json.dumps(address), code)


def run(client: Environment, address: str, pieces: list[tuple[str, str]]) -> str:
    listed = client.directory / "usages.json"
    listed.write_text(json.dumps([(name, at(address, code)) for name, code in pieces]))
    return client.run("python", str(RUNNER), str(listed), STELE_SERVER=address).stdout


def test_a_block_of_usage_is_found() -> None:
    docstring = (
        "Guarantee: none.\n\nUsage, with a client::\n\n    a = 1\n\n    b(a)\n\nElse nothing.\n\n::\n\n    a diagram\n"
    )
    assert blocks_of(docstring) == ["a = 1\n\nb(a)\n"]
    assert [name for name, _ in usages()] == [
        f"{part}.py: module" for part in ("client", "consumer", "producer", "sync")
    ]


def test_the_program_of_the_readme_prints_what_it_says(client: Environment, address: str) -> None:
    code, printed = readme()
    assert ADDRESS.search(code)
    assert run(client, address, [("README.md", code)]) == f"{printed}README.md: done\n"


def test_every_usage_in_a_docstring_runs_as_it_is_written(client: Environment, address: str) -> None:
    printed = run(client, address, usages())
    assert re.findall(r"^(.*): done$", printed, re.MULTILINE) == [name for name, _ in usages()]
