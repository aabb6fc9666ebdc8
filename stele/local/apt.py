"""Installing Debian packages, while other programs may be doing the same.

Guarantee: a lock that somebody else holds (unattended upgrades on a machine that was just started) is waited for, up to
``LOCK_TIMEOUT_S``, and the wait is reported; a failure is apt's own last line about it.

    python3 stele/local/apt.py [--no-install-recommends] PACKAGE…

It runs before anything is installed, as a program too: it imports nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence

LOCK_TIMEOUT_S = 600
POLL_S = 2.0
_HOLDER = re.compile(r"held by process (?P<pid>\d+)(?: \((?P<name>[^)]*)\))?")


def install(packages: Sequence[str], options: Sequence[str] = (), as_root: Sequence[str] = ()) -> str:
    """Installs ``packages``; "" when they are there, else why not.  ``as_root``: the command that makes the next one root's."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    # A list that cannot be refreshed may still name the package: only the installation decides.
    stale = _apt_get(["update"], as_root, deadline)
    failed = _apt_get(["install", "-y", *options, *packages], as_root, deadline)
    return f"{failed} (and apt-get update: {stale})" if failed and stale else failed


def _apt_get(arguments: Sequence[str], as_root: Sequence[str], deadline: float) -> str:
    """Runs apt-get to its end; "" or what it said last when it failed."""
    reported = False
    _report("+ " + " ".join([*as_root, "apt-get", *arguments]))
    while True:
        left_s = max(1, round(deadline - time.monotonic()))
        command = ["apt-get", "-q", "-o", f"DPkg::Lock::Timeout={left_s}", *arguments]
        lines: list[str] = []
        with subprocess.Popen(
            [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running:
            for line in running.stdout or ():
                lines = [*lines[-50:], line.strip()]
                if "Waiting for cache lock" in line and not reported:
                    reported = _report_lock(line)
        if running.returncode == 0:
            return ""
        # The lock of the lists is none of those that the option waits for.
        locked = next((line for line in lines if "Could not get lock" in line), "")
        if not locked or time.monotonic() + POLL_S > deadline:
            errors = [line for line in lines if line.startswith("E:")] or [line for line in lines if line]
            return locked or errors[-1] if errors else f"apt-get ended with status {running.returncode}"
        reported = reported or _report_lock(locked)
        time.sleep(POLL_S)


def _report_lock(line: str) -> bool:
    holder = _HOLDER.search(line)
    by = f", which process {holder['pid']} ({holder['name'] or 'unknown'}) holds" if holder else ""
    _report(f"waiting for the package manager's lock{by}; for up to {LOCK_TIMEOUT_S} s")
    return True


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    if why := install(
        [name for name in sys.argv[1:] if name not in flags], flags, [] if os.geteuid() == 0 else ["sudo", "-n"]
    ):
        _report(f"error: {why}")
        sys.exit(1)
