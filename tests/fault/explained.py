"""What the command prints, and what `stele explain` says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.cluster import ClusterUnderTest

COMMAND = str(Path(sys.executable).parent / "stele")


async def command(cluster: ClusterUnderTest, *words: str, status: int = 0) -> str:
    """What the command prints."""
    line = [COMMAND, *words, "--server", cluster.bootstrap]
    ran = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=120)
    assert ran.returncode == status, f"{line}: {ran.returncode} {ran.stdout} {ran.stderr}"
    return ran.stdout + ran.stderr


async def explanation(cluster: ClusterUnderTest, what: str, about: str) -> dict[str, Any]:
    said = json.loads(await command(cluster, "explain", what, "-o", "json"))
    found: dict[str, Any] = next(c for c in said["chains"] if c["about"] == about)
    return found


def kinds(chain: dict[str, Any]) -> list[str]:
    return [s["event"]["kind"] if s["event"] else "?" for s in chain["steps"]]
