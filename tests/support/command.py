"""The command ``stele`` in this process: its tree, made once, and a runner that plays a line on it."""

from __future__ import annotations

from typing import Any

import pytest
import typer
import typer.testing

from stele.cli.main import app

ROOT: Any = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def one_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer's runner makes the tree of all commands anew for each line, which takes far longer than the line."""
    monkeypatch.setattr(typer.testing, "_get_command", lambda _: ROOT)
