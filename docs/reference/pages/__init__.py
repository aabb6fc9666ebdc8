"""The pages of the reference that are made from code, one module each (see docs/reference/generate).

A module here has one public function, ``page() -> str``: the page in Markdown, its first line the title.  It reads the code that
it describes (classes, tables, commands) and repeats none of it, so that a rename reaches the page with the next ``make docs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    written = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {row} |" for row in written)]


def code(text: str) -> str:
    """``text`` as code; nothing for nothing."""
    return f"`{text}`" if text else ""
