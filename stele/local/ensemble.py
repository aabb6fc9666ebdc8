"""The ZooKeepers of a local cluster: one, or several that agree by majority.

Guarantee: each server keeps its ports and data over restarts; what a server is told of its peers is on disk before the first of them
starts, so that a start that is cut short is taken up by the next one.  ``problems`` names whatever stands between the ensemble and
being whole: while it is empty, any one of three servers can go and nobody misses it.

Usage: ``ensemble = Ensemble(files, 3); ensemble.start(ensemble.names); ensemble.hosts``.  Blocking.

It does not change its size: two new servers would be a majority without what the old one holds.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Collection

from stele.local.errors import NoSuchProcess
from stele.local.processes import OnProgress, ProcessIdentity, ProcessState, ProcessStatus, tell
from stele.local.state import ClusterState, StateDirectory
from stele.local.zookeeper import ZooKeeperServer, four_letters
from stele.services.ports import free_port

SERVES_WITHIN_S = 60.0


class Ensemble:
    """As the directory remembers it at this moment: make a new one rather than keep it."""

    def __init__(self, files: StateDirectory, count: int) -> None:
        self._files = files
        self.servers = {
            name: ZooKeeperServer(files.zookeeper_path(name)) for name in (f"zk{n}" for n in range(1, count + 1))
        }
        if count > 1:
            for server in self.servers.values():
                server.peers = list(self.servers.values())

    @classmethod
    def of(cls, files: StateDirectory, state: ClusterState) -> Ensemble:
        """Those that are the cluster's own; none where somebody else runs ZooKeeper."""
        return cls(files, len(state.zookeeper_names))

    @property
    def names(self) -> list[str]:
        return list(self.servers)

    @property
    def hosts(self) -> str:
        """Of all of them, as clients are told: whoever is cut off from one goes on to the next."""
        return ",".join(server.hosts for server in self.servers.values())

    def ports(self) -> set[int]:
        """Also those on which nobody listens now: only the leader does on its quorum port."""
        return {p for s in self.servers.values() for p in (s.port, s.quorum_port, s.election_port) if p}

    # --- starting and stopping ------------------------------------------------------------------------------------

    def start(
        self, names: Collection[str], avoid: Collection[int] = (), progress: OnProgress | None = None
    ) -> list[str]:
        """Starts or wakes those of ``names`` that do not run, and waits until they serve, unless too few run for any to: what did not run.
        ``avoid``: ports of others."""
        self._choose_ports(avoid)
        started = []
        for name in names:
            server = self.servers[name]
            state = self._state(server)
            if state is not ProcessState.RUNNING:
                started.append(name)
            if state is ProcessState.PAUSED:
                server.kill(signal.SIGCONT)
            tell(progress, name, "starting")
            server.begin()
        deadline = time.monotonic() + SERVES_WITHIN_S
        for name in names if self.has_majority() else ():
            self.servers[name].start(max(0.0, deadline - time.monotonic()))
            tell(progress, name, "ready")
        return started

    def _choose_ports(self, avoid: Collection[int]) -> None:
        kinds = ("port", "quorum_port", "election_port") if len(self.servers) > 1 else ("port",)
        lacking = [(s, kind) for s in self.servers.values() for kind in kinds if not getattr(s, kind)]
        for server, kind in lacking:
            setattr(server, kind, free_port({*avoid, *self.ports()}))
        for server in {server.port: server for server, _ in lacking}.values():
            server.keep()

    def has_majority(self) -> bool:
        """Enough of them run to agree on anything."""
        running = sum(self._state(server) is ProcessState.RUNNING for server in self.servers.values())
        return running * 2 > len(self.servers)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL the process is gone when this returns.  Raises NoSuchProcess."""
        server = self.servers[name]
        if not server.is_running:
            raise NoSuchProcess(f"{name} does not run: `stele cluster start {name}` starts it")
        server.kill(number)

    def stop(self, names: Collection[str], progress: OnProgress | None = None, now: bool = False) -> None:
        """Ends them, kindly first unless ``now``: each finds its peers for as long as it has to."""
        for name in names:
            tell(progress, name, "stopping")
            if now:
                self.servers[name].kill(signal.SIGKILL)
            self.servers[name].stop()
            tell(progress, name, "stopped")

    # --- looking --------------------------------------------------------------------------------------------------

    def leader(self) -> str:
        """Its name; "" while none leads, or where there is but one."""
        return next((name for name, server in self.servers.items() if server.mode() == "leader"), "")

    def sessions(self) -> int:
        """How many clients have a session and are connected."""
        return sum(four_letters(server.hosts, "cons").count("sid=0x") for server in self.servers.values())

    def problems(self) -> list[str]:
        """Why it is not whole: who does not serve, or has not caught up with the leader."""
        modes = {name: server.mode() for name, server in self.servers.items()}
        found = [f"{name} does not serve" for name, mode in modes.items() if not mode]
        leader = next((name for name, mode in modes.items() if mode == "leader"), "")
        if found or len(modes) == 1:
            return found
        if not leader:
            return ["none of them leads"]
        answer = four_letters(self.servers[leader].hosts, "mntr")
        synced = re.search(r"^zk_synced_followers\s+(\d+)", answer, re.MULTILINE)
        if synced is None or int(synced[1]) < len(modes) - 1:
            return [f"{leader} leads, and not all of the others have what it has"]
        return []

    def status(self) -> list[ProcessStatus]:
        return [self._status(name, server) for name, server in self.servers.items()]

    def _status(self, name: str, server: ZooKeeperServer) -> ProcessStatus:
        state = self._state(server)
        mode = server.mode() if state is ProcessState.RUNNING else ""
        waits = "most of its peers" if len(self.servers) > 1 and not self.has_majority() else "itself"
        return ProcessStatus(
            name=name,
            role="zookeeper",
            state=state.value,
            ready=bool(mode),
            detail=waits if state is ProcessState.RUNNING and not mode else "",
            pid=server.pid if state is not ProcessState.DEAD else 0,
            endpoint=server.hosts,
            admin="",
            log=str(self._files.log_path(name)),
        )

    @staticmethod
    def _state(server: ZooKeeperServer) -> ProcessState:
        if not server.is_running:
            return ProcessState.DEAD
        identity = ProcessIdentity.of(server.pid) if server.pid else None
        return identity.state() if identity is not None else ProcessState.RUNNING
