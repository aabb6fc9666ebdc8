"""A JSON object in a file of its own, replaced whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stele.services.files import replace_file


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None when it is absent or not (yet) whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: object) -> None:
    """Durable when it returns; the old file or the new one after any crash (services/files.py).  OSError."""
    replace_file(path, json.dumps(content, indent=2).encode() + b"\n")
