"""configuration.md: every setting of every role, from services/config.py."""

from __future__ import annotations

import dataclasses

from pages import code, table
from stele.services.config import ROLES, NodeConfig
from stele.services.settings import fields_of

HEAD = """# Configuration

Every setting has a flag (`--session-timeout-s 4`), an environment variable (`STELE_SESSION_TIMEOUT_S=4`; an empty one counts as not
set) and a key in a TOML file (`session_timeout_s = 4`) that `--config` or `STELE_CONFIG` names. A flag wins over the environment, the
environment over the file, the file over the default. The file holds settings of every role at its top level and those of one role in a
table of the role's name. Sizes take `KiB`, `MiB` or `GiB`. Settings that contradict one another are refused at start with one line.
"""


def page() -> str:
    common = {field.name for field, _ in fields_of(NodeConfig)}
    lines = [HEAD, "## Every role", "", *settings(NodeConfig, set())]
    for role, config_type in ROLES.items():
        own = settings(config_type, common)
        lines += ["", f"## {role.capitalize()}", ""]
        lines += own if len(own) > 2 else ["Nothing beyond the settings of every role."]
    return "\n".join(lines)


def settings(config_type: type[NodeConfig], without: set[str]) -> list[str]:
    return table(
        ("setting", "what it is", "default", "accepted"),
        (
            (code(field.name), field.metadata["help"], default_of(field), accepted(field))
            for field, _ in fields_of(config_type)
            if field.name not in without
        ),
    )


def default_of(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default == "":
        return "empty"
    value = field.default
    if isinstance(value, int) and "bytes" in field.name.split("_"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % size == 0:
                return f"`{value // size}{unit}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def accepted(field: dataclasses.Field[object]) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    return "" if low is None else f"{low:,.10g} to {high:,.10g}"
