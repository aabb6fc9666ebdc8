"""A whole cluster as real processes on this machine: ZooKeeper, one or an ensemble, nameservers, datanodes, brokers.

Guarantee: ``up`` can be called at any time and any number of times: it starts what does not run and returns when everything is ready.
Processes keep their ports and data over restarts, survive the terminal that started them, and are found again through the directory
alone.  A signal never reaches a process that is not this cluster's.

Usage: ``cluster = LocalCluster(Path(".stele")); cluster.up(ClusterSpec()); cluster.kill("dn2"); cluster.start("dn2")``.
Blocking; tests and the demonstration call it in a thread.

It does not watch: a process that dies stays dead until ``start`` or ``up``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from stele.local.ensemble import Ensemble
from stele.local.errors import ClusterBusy, NoCluster, NoSuchProcess, ProcessFailed
from stele.local.processes import (
    POLL_S,
    OnProgress,
    ProcessIdentity,
    ProcessState,
    ProcessStatus,
    last_line,
    launch,
    tell,
)
from stele.local.state import ROLES, ClusterSpec, ClusterState, ProcessRecord, StateDirectory
from stele.local.zookeeper import ZooKeeperServer
from stele.services.directory_lock import DirectoryLock
from stele.services.errors import DirectoryBusy, InvalidArgument
from stele.services.json_files import read_json
from stele.services.ports import free_port

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0  # a role drains for up to 10 s and stops within 5
LOCK_TIMEOUT_S = 120.0
START_ATTEMPTS_MAX = 3  # a port can be taken between choosing and binding it
STOP_ORDER = ("br", "dn", "ns")
_ACCESS = ("CREDENTIALS", "CREDENTIALS_FILE", "ACL", "TLS_CA", "TLS_CERT", "TLS_KEY")
_KEPT_VARIABLES = ("STELE_LOG_LEVEL", "STELE_LOG_FORMAT", *(f"STELE_ZOOKEEPER_{name}" for name in _ACCESS))


class LocalCluster:
    """The cluster in one directory."""

    def __init__(self, directory: Path | str = ".stele", env: Mapping[str, str] = os.environ) -> None:
        self.files = StateDirectory(Path(directory))
        self._env = env

    @property
    def directory(self) -> Path:
        return self.files.path

    @property
    def exists(self) -> bool:
        return self.files.exists

    @property
    def bootstrap(self) -> str:
        """Addresses of the nameservers, as ``stele.connect`` takes them."""
        return self.files.load().bootstrap

    @property
    def zookeeper(self) -> ZooKeeperServer:
        """The first of the cluster's own ZooKeepers, running or not."""
        return self.ensemble.servers["zk1"]

    @property
    def ensemble(self) -> Ensemble:
        """The cluster's own ZooKeepers as they are at this moment."""
        return Ensemble.of(self.files, self.files.load())

    @property
    def zookeeper_hosts(self) -> str:
        state = self.files.load()
        return state.zookeeper or Ensemble.of(self.files, state).hosts

    def names(self) -> list[str]:
        """Every process, ZooKeeper first."""
        return self.files.load().names

    # --- starting -------------------------------------------------------------------------------------------------

    def up(self, spec: ClusterSpec | None = None, progress: OnProgress | None = None) -> list[str]:
        """Starts everything that does not run and returns, when all of it is ready, what that was: nothing if it was up.  ``spec``
        shapes a new cluster or adds to an existing one; taking processes away needs ``destroy``.  Raises ProcessFailed."""
        with lock_cluster(self.files.path):
            state = self.files.load() if self.exists else ClusterState(f"stele-{secrets.token_hex(3)}")
            if not state.processes:
                state.zookeeper = self._env.get("STELE_ZOOKEEPER", "")
            self._extend(state, spec or (ClusterSpec() if not state.processes else None))
            self.files.save(state)
            zookeepers = Ensemble.of(self.files, state)
            started = zookeepers.start(zookeepers.names, state.ports(), progress)
            return started + self._start(state, list(state.processes), progress)

    def start(self, name: str, wait: bool = True, progress: OnProgress | None = None) -> bool:
        """Starts one process unless it runs; False: it is a ZooKeeper, and too few others run for it to serve.  Raises NoSuchProcess,
        ProcessFailed."""
        with lock_cluster(self.files.path):
            state = self.files.load()
            if self._known(state, name) is not None:
                self._start(state, [name], progress, wait=wait)
                return True
            zookeepers = Ensemble.of(self.files, state)
            zookeepers.start([name], state.ports(), progress)
            return zookeepers.has_majority()

    def _extend(self, state: ClusterState, spec: ClusterSpec | None) -> None:
        if spec is None:
            return
        wanted = spec.names()
        extra = [name for name in state.processes if name not in wanted]
        if extra:
            raise InvalidArgument(
                f"the cluster in {self.directory} has {', '.join(extra)} already: processes can be added, not taken away; "
                f"`stele cluster destroy` removes the whole cluster"
            )
        if state.processes and spec.zookeepers != state.zookeepers:
            raise InvalidArgument(
                f"the number of ZooKeepers of the cluster in {self.directory} stays {state.zookeepers}: new ones would be a majority that "
                f"knows nothing of what it holds"
            )
        if state.zookeeper and spec.zookeepers > 1:
            raise InvalidArgument(f"STELE_ZOOKEEPER names the ZooKeeper to use, {state.zookeeper}: none is started")
        state.zookeepers = spec.zookeepers
        for name in wanted:
            state.processes.setdefault(name, ProcessRecord(name))
        state.processes = {name: state.processes[name] for name in wanted}
        for role, settings in spec.settings.items():
            state.settings.setdefault(role, {}).update(settings)

    def _start(
        self, state: ClusterState, names: list[str], progress: OnProgress | None, wait: bool = True
    ) -> list[str]:
        """Those of ``names`` that did not run and were started or woken."""
        log_starts: dict[str, int] = {}
        started: list[str] = []
        for name in names:
            record = state.processes[name]
            identity = _identity_of(record)
            running = identity.state() if identity else ProcessState.DEAD
            if running is not ProcessState.RUNNING:
                started.append(name)
            if identity is not None and running is ProcessState.PAUSED:
                identity.send(signal.SIGCONT)
            if running is ProcessState.DEAD:
                log_starts[name] = self._launch(state, record)
                tell(progress, name, "starting")
        if not wait:
            return started
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting, attempts = list(names), dict.fromkeys(names, 1)
        while waiting:
            for name in list(waiting):
                record = state.processes[name]
                if self._is_ready(record):
                    waiting.remove(name)
                    tell(progress, name, "ready")
                elif (identity := _identity_of(record)) is None or identity.state() is ProcessState.DEAD:
                    last = last_line(self.files.log_path(name), log_starts.get(name, 0))
                    if "is in use by another process" not in last or attempts[name] >= START_ATTEMPTS_MAX:
                        raise ProcessFailed(
                            f"{name} ended while starting: {last or 'it said nothing'} (log: {self.files.log_path(name)})"
                        )
                    attempts[name] += 1
                    record.port = record.raft_port = record.admin_port = 0
                    log_starts[name] = self._launch(state, record)
                elif time.monotonic() > deadline:
                    raise ProcessFailed(
                        f"{name} was not ready within {READY_TIMEOUT_S:g} s: {self._readiness(record)[1] or 'no answer'} "
                        f"(log: {self.files.log_path(name)})"
                    )
            time.sleep(POLL_S)
        return started

    def _launch(self, state: ClusterState, record: ProcessRecord) -> int:
        """Starts a process on its ports; the size of its log before that."""
        zookeepers = Ensemble.of(self.files, state)
        for port in ("port", "admin_port", *(("raft_port",) if record.role == "datanode" else ())):
            if not getattr(record, port):
                setattr(record, port, free_port(state.ports() | zookeepers.ports()))
        name, log_path, run_path = record.name, self.files.log_path(record.name), self.files.run_path(record.name)
        run_path.parent.mkdir(parents=True, exist_ok=True)
        run_path.unlink(missing_ok=True)
        settings = {
            "name": name,
            "cluster": state.cluster,
            "zookeeper": state.zookeeper or zookeepers.hosts,
            "port": str(record.port),
            "admin_port": str(record.admin_port),
        }
        if record.role == "datanode":
            settings["raft_port"] = str(record.raft_port)
            settings["data_dir"] = str(self.files.data_path(name))
        settings.update(state.settings.get(record.role, {}))
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)]
        env = {k: v for k, v in self._env.items() if not k.startswith("STELE_") or k in _KEPT_VARIABLES}
        env |= {"STELE_RUN_FILE": str(run_path), "PYTHONUNBUFFERED": "1"}
        log_bytes = log_path.stat().st_size if log_path.exists() else 0
        identity = launch([sys.executable, "-m", f"stele.{record.role}", *flags], log_path, env, self.directory)
        record.pid, record.started = identity.pid, identity.started
        self.files.save(state)
        return log_bytes

    def _is_ready(self, record: ProcessRecord) -> bool:
        run = read_json(self.files.run_path(record.name))
        return run is not None and run.get("pid") == record.pid and bool(run.get("ready"))

    # --- faults ---------------------------------------------------------------------------------------------------

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL the process is gone when this returns."""
        record = self._known(self.files.load(), name)
        if record is None:
            self.ensemble.kill(name, number)
        elif (identity := _identity_of(record)) is None or not identity.send(number):
            raise NoSuchProcess(f"{name} does not run: `stele cluster start {name}` starts it")
        elif number == signal.SIGKILL:
            identity.wait_gone(STOP_TIMEOUT_S)

    def pause(self, name: str) -> None:
        """SIGSTOP: the process keeps its connections and answers nobody."""
        self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.kill(name, signal.SIGCONT)

    # --- stopping -------------------------------------------------------------------------------------------------

    def stop(self, name: str, progress: OnProgress | None = None) -> None:
        """Ends one process, which hands over first what it has; it is gone when this returns.  Raises NoSuchProcess."""
        with lock_cluster(self.files.path):
            record = self._known(self.files.load(), name)
            if record is None:
                self.ensemble.stop([name], progress)
            else:
                self._end([record], signal.SIGTERM, progress)

    def down(self, progress: OnProgress | None = None, now: bool = False) -> None:
        """Ends every process: brokers, datanodes, nameservers, ZooKeeper; those of one role together, kindly first unless ``now``."""
        with lock_cluster(self.files.path):
            state = self.files.load()
            for prefix in STOP_ORDER:
                ending = [r for r in state.processes.values() if r.name.startswith(prefix)]
                self._end(ending, signal.SIGKILL if now else signal.SIGTERM, progress)
            zookeepers = Ensemble.of(self.files, state)
            zookeepers.stop(zookeepers.names, progress, now)

    def _end(self, records: Iterable[ProcessRecord], number: int, progress: OnProgress | None) -> None:
        ending = [(r.name, identity) for r in records if (identity := _identity_of(r)) is not None]
        for name, identity in ending:
            identity.send(signal.SIGCONT)  # a paused process takes no other signal
            if identity.send(number):
                tell(progress, name, "stopping")
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name, identity in ending:
            if not identity.wait_gone(max(0.0, deadline - time.monotonic())):
                tell(progress, name, "killing")
                identity.end(signal.SIGKILL, STOP_TIMEOUT_S)
            tell(progress, name, "stopped")

    def destroy(self, progress: OnProgress | None = None) -> None:
        """Ends every process and removes the directory with all data."""
        if not self.exists:
            raise NoCluster(f"no cluster in {self.directory}: nothing to remove")
        self.down(progress, now=True)
        shutil.rmtree(self.directory)

    # --- looking --------------------------------------------------------------------------------------------------

    def status(self) -> list[ProcessStatus]:
        """Every process, ZooKeeper first."""
        state = self.files.load()
        return Ensemble.of(self.files, state).status() + [self._status(record) for record in state.processes.values()]

    def _status(self, record: ProcessRecord) -> ProcessStatus:
        identity = _identity_of(record)
        running = identity.state() if identity else ProcessState.DEAD
        ready, detail = self._readiness(record) if running is ProcessState.RUNNING else (False, "")
        return ProcessStatus(
            name=record.name,
            role=record.role,
            state=running.value,
            ready=ready,
            detail=detail,
            pid=record.pid if running is not ProcessState.DEAD else 0,
            endpoint=f"127.0.0.1:{record.port}",
            admin=f"127.0.0.1:{record.admin_port}",
            log=str(self.files.log_path(record.name)),
        )

    def _readiness(self, record: ProcessRecord) -> tuple[bool, str]:
        """Whether a process says that it is ready, and what it still waits for."""
        url = f"http://127.0.0.1:{record.admin_port}/readyz?verbose"
        try:
            with urllib.request.urlopen(url, timeout=1.0):
                return True, ""
        except urllib.error.HTTPError as e:
            lines = e.read().decode("utf-8", "replace").splitlines()
            return False, "; ".join(line.strip() for line in lines if line.startswith("[-]")) or "not ready"
        except OSError:
            return False, "no answer"

    def log_path(self, name: str) -> Path:
        """Raises NoSuchProcess."""
        self._known(self.files.load(), name)
        return self.files.log_path(name)

    def _known(self, state: ClusterState, name: str) -> ProcessRecord | None:
        """The record of a process; None for a ZooKeeper of the cluster's own."""
        if name in state.zookeeper_names:
            return None
        record = state.processes.get(name)
        if record is None:
            raise NoSuchProcess(
                f"the cluster in {self.directory} has no process {name!r}; it has {', '.join(state.names)}"
            )
        return record


def lock_cluster(directory: Path, within_s: float = LOCK_TIMEOUT_S) -> DirectoryLock:
    """One command at a time changes what runs; the next waits, up to a deadline (ClusterBusy)."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return DirectoryLock(directory, within_s=within_s)
    except DirectoryBusy as e:
        raise ClusterBusy(
            f"another command (pid {e.facts.get('owner') or 'unknown'}) is starting or stopping the cluster in "
            f"{directory}: wait until it is done"
        ) from None


def _identity_of(record: ProcessRecord) -> ProcessIdentity | None:
    """Who the process was when it was started; None if it never was."""
    return ProcessIdentity(record.pid, record.started) if record.pid else None


__all__ = ["ROLES", "ClusterSpec", "LocalCluster", "ProcessStatus"]
