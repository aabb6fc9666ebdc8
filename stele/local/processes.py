"""One process of the local cluster: started apart from its starter, recognised again, signalled.

Guarantee: a signal reaches only the process that was started: it is recognised by its pid *and* its start time, so a pid that the
system gave to somebody else is never hit.  A started process survives the terminal and the process that started it.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORT_FIRST = 20_000
PORT_ATTEMPTS_MAX = 200
POLL_S = 0.02


class ProcessState(enum.StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is; a later process with the same pid has another start time."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of a process that runs now; None when there is none (a zombie counts as none)."""
        seen = _inspect(pid)
        return cls(pid, seen[0]) if seen is not None else None

    def state(self) -> ProcessState:
        _reap(self.pid)
        seen = _inspect(self.pid)
        if seen is None or seen[0] != self.started:
            return ProcessState.DEAD
        return ProcessState.PAUSED if seen[1] in "Tt" else ProcessState.RUNNING

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


def launch(command: Sequence[str], log_path: Path, env: Mapping[str, str], directory: Path) -> Identity:
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
    return Identity.of(child.pid) or Identity(child.pid, "")


def free_port(avoid: set[int], host: str = "127.0.0.1") -> int:
    """A port that nobody uses and that the system does not hand to outgoing connections, so that it is still free when a killed
    process comes back to it."""
    last = _ephemeral_first() - 1
    for _ in range(PORT_ATTEMPTS_MAX):
        port = random.randint(PORT_FIRST, last) if last > PORT_FIRST + 1000 else 0
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind((host, port))
                port = int(s.getsockname()[1])
                if port not in avoid:
                    return port
    raise OSError(f"no free port found in {PORT_ATTEMPTS_MAX} attempts")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None when it is absent or not (yet) whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: object) -> None:
    """A reader sees the old file or the new one, never a part."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, path)


def last_words(log_path: Path, since_bytes: int) -> str:
    """The line in which a process said why it ended; "" when it said nothing."""
    try:
        with log_path.open("rb") as log:
            log.seek(since_bytes)
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    spoken = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("{")]
    return next((line for line in reversed(spoken) if line.startswith("stele-")), spoken[-1] if spoken else "")


def _inspect(pid: int) -> tuple[str, str] | None:
    """Start time and state letter of a live process."""
    if pid <= 0:
        return None
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else (fields[19], fields[0])
    shown = subprocess.run(["ps", "-p", str(pid), "-o", "state=,lstart="], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return (started.strip(), state[0]) if started and state[0] != "Z" else None


def _reap(pid: int) -> None:
    """A dead child of this very process stays a zombie until it is asked for."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def _ephemeral_first() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
