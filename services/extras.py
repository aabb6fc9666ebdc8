"""What an installation without an extra says: one line with the command that installs it, instead of a traceback.

``pip install stele`` is the client.  The roles, the local cluster and the lab need libraries that a client never loads; where they
begin, they ask ``require("server", "stele.broker")`` before they import any.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

from stele.services.errors import ToolMissing

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^]]*)\])?[^;]*;.*\bextra == ['\"](?P<extra>[a-z]+)['\"]"
)


def missing(extra: str) -> list[str]:
    """The distributions that an extra of this installation asks for and that are not here; extras inside it count."""
    try:
        requirements = [found for line in metadata.requires("stele") or [] if (found := _REQUIREMENT.match(line))]
    except metadata.PackageNotFoundError:  # run from its source, uninstalled: nobody says what it needs
        return []
    absent: set[str] = set()
    for requirement in requirements:
        if requirement["extra"] != extra:
            continue
        if requirement["name"] == "stele":
            absent.update(name for inner in requirement["extras"].split(",") for name in missing(inner.strip()))
        elif not _is_installed(requirement["name"]):
            absent.add(requirement["name"])
    return sorted(absent)


def require(extra: str, what: str) -> None:
    """Raises ToolMissing where ``what`` cannot run because the extra was not installed."""
    if absent := missing(extra):
        raise ToolMissing(f"{what} needs {', '.join(absent)}, not installed here: pip install 'stele[{extra}]'")


def require_or_exit(extra: str, what: str) -> None:
    """The same for a process that is starting: it ends with the line on stderr and status 1."""
    try:
        require(extra, what)
    except ToolMissing as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
