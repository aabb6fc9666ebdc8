"""Which run of which process somebody is, and what can be proven about another one (R1.9, R5.4, R5.5).

Guarantee: ``Fate.OWN`` and ``Fate.DEAD`` are answered only on proof that the other run is over or was ours; ``Fate.ALIVE`` only on
proof that it runs.  Whatever cannot be proven is ``Fate.UNKNOWN``, and its session's expiry has to be waited for.

The proofs: the same instance id (this very process, under an earlier session); the same identity, which only the holder of an
exclusive lock can have (a datanode's store uuid); the same endpoint, whose port this process has just opened (R1.8), so that the other
one no longer has it; and, on the same machine since the same boot, whether a process of that pid and start time exists.
"""

from __future__ import annotations

import os
import sys
import uuid
from enum import Enum
from pathlib import Path

from stele.services.coordination.records import Incarnation


class Fate(Enum):
    OWN = "own"
    DEAD = "dead"
    ALIVE = "alive"
    UNKNOWN = "unknown"


def current(identity: str = "") -> Incarnation:
    """This run of this process, under a new instance id."""
    return Incarnation(
        instance=uuid.uuid4().hex,
        machine=machine(),
        pid=os.getpid(),
        pid_started=started(os.getpid()) or 0,
        identity=identity,
    )


def fate(other: Incarnation, other_endpoint: str, mine: Incarnation, my_endpoint: str) -> Fate:
    """``my_endpoint`` "": the port was opened long ago, so that another run at the same endpoint is not our past but our successor."""
    if other.instance == mine.instance or (my_endpoint and other_endpoint == my_endpoint):
        return Fate.OWN
    if other.identity and other.identity == mine.identity:
        return Fate.OWN
    if not other.machine or other.machine != mine.machine or not other.pid_started:
        return Fate.UNKNOWN
    return Fate.ALIVE if started(other.pid) == other.pid_started else Fate.DEAD


def machine() -> str:
    """Boot and pid namespace: pids compare only within both.  "" where the system does not say."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def started(pid: int) -> int | None:
    """When the process started, in ticks since boot; None where there is none.  A zombie has ended."""
    try:
        # The second field is the program's name in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
