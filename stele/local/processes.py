"""One process of the local cluster: started apart from its starter, recognised again, signalled.

Guarantee: a signal reaches only the process that was started: it is recognised by its pid *and* its start time, so a pid that the
system gave to somebody else is never hit.  A started process survives the terminal and the process that started it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.02
# The time at which the system began is told to the second.  No pid comes round again within this of its start.
START_TOLERANCE_S = 1.5
_PAUSED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


OnProgress = Callable[[str, str], None]  # name of a process, what it does now


class ProcessState(enum.StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process as it is now."""

    name: str
    role: str
    state: str  # running, paused, dead
    ready: bool
    detail: str
    pid: int
    endpoint: str
    admin: str
    log: str

    @property
    def healthy(self) -> bool:
        return self.state == ProcessState.RUNNING and self.ready


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Who a process is; a later process with the same pid has another start time."""

    pid: int
    started: str  # seconds after the system began: a clock that is set changes nothing

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a process that runs now; None when there is none (a zombie counts as none)."""
        seen = _inspect(pid)
        return cls(pid, f"{seen[0]:.2f}") if seen is not None else None

    def state(self) -> ProcessState:
        reap(self.pid)
        seen = _inspect(self.pid)
        if seen is None or not self._started_at(seen[0]):
            return ProcessState.DEAD
        return ProcessState.PAUSED if seen[1] in _PAUSED else ProcessState.RUNNING

    def _started_at(self, seen_s: float) -> bool:
        try:
            return abs(float(self.started) - seen_s) <= START_TOLERANCE_S
        except ValueError:
            return False

    def send(self, number: int) -> bool:
        """Sends a signal; False when the process is gone."""
        if self.state() is ProcessState.DEAD:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def wait_gone(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.state() is not ProcessState.DEAD:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def end(self, number: int, within_s: float) -> bool:
        """Ends it with a signal, with KILL when it has not gone by the deadline; False when KILL was needed."""
        if number != signal.SIGKILL:
            self.send(signal.SIGCONT)  # a paused process takes no other signal
        self.send(number)
        if self.wait_gone(within_s):
            return True
        self.send(signal.SIGKILL)
        self.wait_gone(within_s)
        return False


def _inspect(pid: int) -> tuple[float, str] | None:
    """When a live process started, and its status."""
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            status, created_s = process.status(), process.create_time()
    except psutil.Error:
        return None
    return None if status in _ENDED else (created_s - psutil.boot_time(), status)


def launch(command: Sequence[str], log_path: Path, env: Mapping[str, str], directory: Path) -> ProcessIdentity:
    """Starts a process in a session of its own with both outputs appended to ``log_path``."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=dict(env),
            start_new_session=True,  # a closed terminal or a Ctrl-C of its starter does not end it
        )
    child.returncode = 0  # this object is dropped; the process is watched through its identity
    return ProcessIdentity.of(child.pid) or ProcessIdentity(child.pid, "")


def last_line(log_path: Path, since_bytes: int) -> str:
    """The line in which a process said why it ended; "" when it said nothing."""
    try:
        with log_path.open("rb") as log:
            log.seek(since_bytes)
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("{")]
    return next((line for line in reversed(lines) if line.startswith("stele-")), lines[-1] if lines else "")


def reap(pid: int) -> None:
    """A dead child of this very process stays a zombie until it is asked for."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def tell(progress: OnProgress | None, name: str, doing: str) -> None:
    if progress is not None:
        progress(name, doing)
