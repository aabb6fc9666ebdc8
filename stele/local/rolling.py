"""Restarts the processes of a local cluster one after the other, while its clients go on.

Guarantee: a process is stopped only once the leading nameserver, asked at that moment, calls it safe (nameserver/stop_safety.py), and hands
over first what it has; the next one is touched only once that one is whole again, by the same question.  Whatever ends it, each process
that it has stopped runs again, and no broker stays drained by it, unless its own process is killed in between.

A ZooKeeper is stopped only while the whole ensemble serves, all of it has what its leader has, and every process has a session there.

Not promised: that it comes to its end.  A process that is not safe to stop in time ends it, with the reasons.

Blocking, as LocalCluster is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from stele.local.cluster import LocalCluster
from stele.local.processes import ProcessState
from stele.local.state import ROLES
from stele.services.errors import InvalidArgument, SteleError, Timeout
from stele.services.wording import counted
from stele.sync import Client

WAIT_S = 300.0
TOUCH_POLL_S = 0.1


class Interrupted(Exception):
    """It was asked to end; everything runs."""


class RollingRestart:
    """``tell`` is given a line for each step; once ``interrupted`` says so it ends as soon as nothing is stopped."""

    def __init__(
        self,
        cluster: LocalCluster,
        client: Client,
        tell: Callable[[str], None],
        wait_s: float = WAIT_S,
        interrupted: Callable[[], bool] = lambda: False,
        with_zookeeper: bool = False,
    ) -> None:
        self._cluster, self._admin, self._tell = cluster, client.admin, tell
        self._wait_s, self._interrupted, self._with_zookeeper = wait_s, interrupted, with_zookeeper
        self.restarted: list[str] = []

    def run(self) -> None:
        """Raises Interrupted, Timeout for what is not safe to stop, or not whole, within ``wait_s``, ProcessFailed."""
        if self._with_zookeeper:
            self.restart_zookeepers()
        for prefix in ROLES:
            left = {name for name in self._cluster.files.load().processes if name.startswith(prefix)}
            while left:
                name = next_one(left, self._admin.cluster().leader)
                left.remove(name)
                self._restart(name)
                self.restarted.append(name)

    def restart_zookeepers(self) -> None:
        """One by one, the leader last.  Raises what ``run`` does."""
        left = set(self._cluster.ensemble.names)
        while left:
            self._until_touched("ZooKeeper", "waits")
            name = next_one(left, self._cluster.ensemble.leader())
            left.remove(name)
            began_s = time.monotonic()
            try:
                self._cluster.stop(name)
            finally:
                self._cluster.start(name)
            self._until_touched(name, "is back, the ensemble not whole yet")
            self._tell(f"{name}: restarted, whole after {time.monotonic() - began_s:.1f} s")
            self.restarted.append(name)

    def _until_touched(self, name: str, doing: str) -> None:
        """Until the ensemble is whole, and every process that runs has its session with it."""
        deadline, told = time.monotonic() + self._wait_s, ""
        while problems := self._untouched():
            if self._interrupted():
                raise Interrupted
            if time.monotonic() > deadline:
                raise Timeout(f"ZooKeeper is not whole after {self._wait_s:g} s: {problems[0]}")
            line = f"{name}: {doing}: {problems[0]}"
            if line != told:
                self._tell(line)
            told = line
            time.sleep(TOUCH_POLL_S)

    def _untouched(self) -> list[str]:
        ensemble = self._cluster.ensemble
        if problems := ensemble.problems():
            return problems
        running = sum(p.state == ProcessState.RUNNING for p in self._cluster.status() if p.role != "zookeeper")
        connected = ensemble.sessions()
        return [f"{connected} of {running} processes have a session"] if connected < running else []

    def _restart(self, name: str) -> None:
        self._until_safe(name, "waits")
        began_s = time.monotonic()
        match name[:2]:
            case "dn":
                self._datanode(name)
            case "br":
                self._broker(name)
            case _:
                self._stop_and_start(name)
        self._tell(f"{name}: restarted, whole after {time.monotonic() - began_s:.1f} s")

    def _stop_and_start(self, name: str) -> None:
        """Returns once it is whole again."""
        try:
            self._cluster.stop(name)
        finally:
            self._cluster.start(name)
        self._until_safe(name, "is back, not whole yet")

    def _datanode(self, name: str) -> None:
        """What it leads is led by others before it ends, and by it again afterwards."""
        store_id = next(s.store_id for s in self._admin.list_stores() if s.name == name)
        led = [p.group for p in self._admin.list_partitions() if p.leader_store_id == store_id]
        self._transfer(name, led, 0, "led by others")
        self._stop_and_start(name)
        self._transfer(name, led, store_id, "led by it again")

    def _transfer(self, datanode: str, groups: list[int], to: int, done: str) -> None:
        """A lead that cannot be transferred now is handed over by the process itself when it ends, and evened out later."""
        failed: list[SteleError] = []
        for group in groups:
            try:
                self._admin.transfer_leader(group, to)
            except SteleError as e:
                failed.append(e)
        if groups:
            why = f"; {len(failed)} not: {failed[0].message}" if failed else ""
            self._tell(f"{datanode}: {counted(len(groups) - len(failed), 'partition')} {done}{why}")

    def _broker(self, name: str) -> None:
        """Its bundles go before it does, and others come once it is whole again; where an operator has drained it, it stays so."""
        if any(b.drained for b in self._admin.list_brokers() if b.name == name):
            self._stop_and_start(name)
            return
        try:
            self._admin.drain_broker(name)
            for left in self._admin.draining(name, self._wait_s):
                if self._interrupted():
                    raise Interrupted
                self._tell(f"{name}: {counted(left, 'bundle')} to hand over")
            self._stop_and_start(name)
        finally:
            self._admin.undrain_broker(name)

    def _until_safe(self, name: str, doing: str) -> None:
        told = ""
        for found in self._admin.until_safe_to_stop(name, self._wait_s):
            if self._interrupted():
                raise Interrupted
            line = f"{name}: {doing}: {found.reasons[0]}" if found.reasons else ""
            if line and line != told:
                self._tell(line)
            told = line


def check_ensemble(cluster: LocalCluster) -> None:
    """Raises InvalidArgument where there is no other ZooKeeper that could take over from one."""
    if len(cluster.ensemble.names) < 2:
        raise InvalidArgument(
            "--with-zookeeper takes an ensemble of the cluster's own (`stele cluster up --zookeepers 3`): one that is alone, "
            "or somebody else's, is not restarted"
        )


def next_one(left: Collection[str], leader: str) -> str:
    """The nameserver, or ZooKeeper, that leads comes last: whoever leads next is not restarted again."""
    return min(left, key=lambda name: (name == leader, int(name[2:])))
