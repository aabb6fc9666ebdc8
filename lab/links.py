"""Links between the processes of a local cluster, cut and healed one by one with the system's packet filter.

Guarantee: a cut drops what one process and a port of another say to each other over connections that the first one dialled, and
nobody else's packets.  Whatever was cut is whole again once ``close`` returns.  Needs root, ``iptables`` and a mounted cgroup v2:
:func:`obstacle` says what is missing.

A process is recognised by its control group, which its sockets inherit when they are made: it has to be put there before it opens any
(:meth:`Links.follow`).

Usage: ``links = ProcessLinks("chaos-1"); links.follow("dn1", pid); links.cut("dn1", [4711], both_ways=True); links.heal(); links.close()``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

COMMAND_TIMEOUT_S = 10.0
PORTS_MAX = 15  # of one multiport match


def obstacle() -> str:
    """Why links cannot be cut here; "" if they can."""
    if os.geteuid() != 0:
        return "links are cut by root alone"
    if shutil.which("iptables") is None:
        return "links are cut with iptables, which is not installed"
    if _cgroup_mount() is None:
        return "links are cut by control group, and no cgroup v2 is mounted"
    try:
        _iptables("-m", "cgroup", "--help")
    except (OSError, subprocess.SubprocessError) as e:
        return f"links are cut with iptables' match of control groups, which does not work: {e}"
    return ""


class ProcessLinks:
    """The links of the processes that are followed.  ``name`` tells this run's rules and groups from others'.  Blocks."""

    def __init__(self, name: str) -> None:
        mount = _cgroup_mount()
        if mount is None:
            raise OSError("no cgroup v2 is mounted")
        self._root = mount / f"stele-{name}"
        self._chain = f"STELE-{name}"[:26]
        self._root.mkdir()
        for hook in ("OUTPUT", "INPUT"):
            _iptables("-N", f"{self._chain}-{hook[0]}")
            _iptables("-I", hook, "-j", f"{self._chain}-{hook[0]}")

    def follow(self, process: str, pid: int) -> None:
        """From now on the sockets that ``pid`` makes are ``process``'s."""
        group = self._root / process
        group.mkdir(exist_ok=True)
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))

    def cut(self, process: str, ports: Sequence[int], *, both_ways: bool = True) -> None:
        """What ``process`` sends to ``ports`` of this machine is dropped; ``both_ways``: what comes back, too."""
        path = f"{self._root.name}/{process}"
        numbers = ",".join(map(str, ports[:PORTS_MAX]))
        of = ("-m", "cgroup", "--path", path)
        _iptables("-A", f"{self._chain}-O", "-p", "tcp", "-m", "multiport", "--dports", numbers, *of, "-j", "DROP")
        if both_ways:
            _iptables("-A", f"{self._chain}-I", "-p", "tcp", "-m", "multiport", "--sports", numbers, *of, "-j", "DROP")

    def heal(self) -> None:
        """Every link is whole."""
        for hook in ("O", "I"):
            _iptables("-F", f"{self._chain}-{hook}")

    def close(self) -> None:
        """Nothing of this is left, except groups of processes that still run."""
        self.heal()
        for hook in ("OUTPUT", "INPUT"):
            _iptables("-D", hook, "-j", f"{self._chain}-{hook[0]}")
            _iptables("-X", f"{self._chain}-{hook[0]}")
        mount = self._root.parent
        for group in (*self._root.iterdir(), self._root):
            if group.is_dir():
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(OSError):
                        (mount / "cgroup.procs").write_text(pid)
                with contextlib.suppress(OSError):
                    group.rmdir()


def _cgroup_mount() -> Path | None:
    found = next((p.mountpoint for p in psutil.disk_partitions(all=True) if p.fstype == "cgroup2"), None)
    return Path(found) if found else None


def _iptables(*arguments: str) -> None:
    subprocess.run(
        ["iptables", "-w", "5", *arguments], check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, text=True
    )
