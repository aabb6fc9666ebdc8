"""A cluster in use on an ensemble of three ZooKeepers, which die, come back and are restarted, and end the sessions of processes that live.

All the while a message goes to each partition every 10 ms and one consumer reads them (rolling.py); the client's own record is judged.
Counted, for each scene: sends that failed, the longest time in which a partition acknowledged nothing, how long a change took that was
asked for as ZooKeepers died (where most of them were dead: from when they were started again), processes that got a new session, how
long one of them took from its new session until it was registered, and ZooKeeper's transactions in the busiest 100 ms.

Usage: ``make zookeepers``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

import stele
from stele.lab.checker import judge, longest_gap_s
from stele.lab.history import History
from stele.lab.load import Load
from stele.local.rolling import RollingRestart
from stele.local.zookeeper import four_letters
from stele.services.coordination.claim import Seen as Kept
from stele.services.coordination.members import Membership
from stele.services.coordination.records import MemberRecord
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.sync import connect
from tests.fault.loaded import new_topic
from tests.fault.rolling import EVERY_S, PARTITIONS, SIZE_BYTES, SteadySender
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster
from tests.support.eventually import eventually
from tests.support.zookeeper import Proxy, end_by_credentials, password_of, proxy_to

SAMPLE_S = 0.1
AROUND_S = 0.5  # before a scene, and after it
OUTAGE_S = 6.0  # longer than a session of 4 s lives unheard
SETTLED_WITHIN_S = 30.0
FLEET_SESSION_S = 4.0
KINDS = ("nameservers", "datanodes", "brokers")


@dataclass
class Seen:
    """Of one scene."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the verdict
    pause_s: float = 0.0
    registered_s: dict[str, float] = field(
        default_factory=dict
    )  # processes with a new session: until it was registered
    writes_max: int = 0  # in 100 ms
    changed_s: float = -1.0

    def row(self) -> str:
        """For people."""
        slowest = f"{max(self.registered_s.values()) * 1000:.0f} ms" if self.registered_s else "-"
        changed = _ms(self.changed_s) if self.changed_s >= 0 else "-"
        counts = f"{self.sent:>7}{len(self.failed):>8}{_ms(self.pause_s):>10}{changed:>10}{len(self.registered_s):>6}"
        return f"{counts}{slowest:>12}{self.writes_max:>8}  {'; '.join(self.problems)}".rstrip()


HEAD = f"{'':<44}{'sent':>7}{'failed':>8}{'pause':>10}{'change':>10}{'new':>6}{'registered':>12}{'writes':>8}"


class Scenes:
    """Of one cluster with three ZooKeepers.  Each returns with everything running and registered."""

    def __init__(self, cluster: ClusterUnderTest, client: stele.Client, zookeeper: Session) -> None:
        self._cluster, self._client, self._zookeeper = cluster, client, zookeeper
        self._hosts = cluster.local.zookeeper_hosts
        self._written = 0
        self.changed_s = (
            -1.0
        )  # how long a change took that was asked for when ZooKeepers died, or waited for them; -1: there was none

    # --- what happens ---------------------------------------------------------------------------------------------

    async def kill_leader(self, for_s: float = OUTAGE_S) -> None:
        """Nothing happens: what takes ZooKeeper goes on by the other two."""
        leader = await asyncio.to_thread(self._cluster.local.ensemble.leader)
        await self._cluster.kill(leader)
        began_s = time.monotonic()
        await self._write(self._client)
        self.changed_s = time.monotonic() - began_s
        await asyncio.sleep(for_s)
        await self._cluster.start(leader)

    async def kill_two(self, for_s: float = OUTAGE_S) -> None:
        """What takes ZooKeeper waits, and is done once they are back."""
        for name in ("zk1", "zk3"):
            await self._cluster.kill(name)
        waiting = asyncio.create_task(self._write(self._client))
        try:
            await asyncio.sleep(for_s)
            assert not waiting.done(), "a namespace was made without a majority of ZooKeepers"
            began_s, ended_s = time.monotonic(), []
            waiting.add_done_callback(lambda _: ended_s.append(time.monotonic()))
            await self._cluster.up()
            await waiting
            self.changed_s = ended_s[0] - began_s
        finally:
            waiting.cancel()

    async def _write(self, client: stele.Client) -> None:
        """What the leading nameserver does by ZooKeeper alone."""
        self._written += 1
        await client.admin.create_namespace(f"scene{self._written}")

    async def restart_one_by_one(self) -> None:
        def restart() -> None:
            with connect(self._cluster.bootstrap) as client:
                RollingRestart(self._cluster.local, client, lambda line: None).restart_zookeepers()

        await asyncio.to_thread(restart)

    async def expire(self, *names: str) -> None:
        """The sessions of living processes end, all at the same moment."""
        sessions = await self.sessions()
        ids = [sessions[name] for name in names or sessions]

        async def back() -> bool:
            now = await self.sessions()
            living = set(ids) & set(now.values())  # also of who came back to it just before it was closed
            await asyncio.gather(*(end_by_credentials(self._hosts, (sid, password_of(sid))) for sid in living))
            return not living and now.keys() == sessions.keys()

        await eventually(back, SETTLED_WITHIN_S, 0.05, self._cluster.describe)

    async def one_of_each_role(self) -> list[str]:
        """Those that matter most: the leading nameserver, a broker that owns a partition, a datanode that leads one."""
        partition = next(p for p in await self._client.admin.list_partitions() if p.leader_store_id and p.broker)
        stores = {s.store_id: s.name for s in await self._client.admin.list_stores()}
        return [(await self._client.admin.cluster()).leader, stores[partition.leader_store_id], partition.broker]

    async def sessions(self) -> dict[str, int]:
        """Of the registered processes, by their names."""
        found = {}
        for kind in KINDS:
            for name in await self._zookeeper.children(f"members/{kind}") or []:
                stat = await self._zookeeper.exists(f"members/{kind}/{name}")
                found |= {name: stat.ephemeral_owner} if stat is not None else {}
        return found

    # --- what is seen of it ---------------------------------------------------------------------------------------

    async def play(self, scene: Callable[[], Awaitable[None]], every_s: float = EVERY_S) -> Seen:
        """While a message goes to each partition that often."""
        self.changed_s = -1.0
        topic, history, seen = await new_topic(self._client), History(), Seen()
        load = Load(self._client, topic, history, 0, SIZE_BYTES, 1.0, PARTITIONS)
        sender = SteadySender(self._client, topic, history, every_s)
        consuming, sending = asyncio.create_task(load.consume("s", "c1")), asyncio.create_task(sender.run())
        logs = {name: self._cluster.local.log_path(name).stat().st_size for name in await self.sessions()}
        watching = asyncio.create_task(self.watch_writes(seen))
        try:
            await asyncio.sleep(AROUND_S)
            began_s = time.monotonic()
            await scene()
            ended_s = time.monotonic()
            await asyncio.sleep(AROUND_S)
            watching.cancel()
            sender.stop()
            await sending
            if not await load.all_delivered(lambda n: None):
                seen.problems.append("not all delivered")
            await load.read_back(lambda n: None)
        finally:
            for task in (consuming, sending, watching):
                task.cancel()
            await asyncio.gather(consuming, sending, watching, return_exceptions=True)
        seen.sent, seen.failed = len(history.sent), list(history.failed.values())
        seen.changed_s = self.changed_s
        seen.problems += judge(history).problems
        seen.pause_s = longest_gap_s(history.ack_times, began_s, ended_s)
        for name, size in logs.items():
            took_s = registered_after_s(
                self._cluster.local.log_path(name).read_bytes()[size:].decode("utf-8", "replace")
            )
            seen.registered_s |= {name: took_s} if took_s is not None else {}
        return seen

    async def watch_writes(self, seen: Seen) -> None:
        """Each transaction has the next number; an ensemble counts anew under a new leader."""
        last_zxid, last_s = 0, time.monotonic()
        while True:
            zxid = await asyncio.to_thread(newest_zxid, self._hosts)
            now_s = time.monotonic()
            if zxid and zxid >> 32 == last_zxid >> 32:
                samples = max(1.0, (now_s - last_s) / SAMPLE_S)
                seen.writes_max = max(seen.writes_max, round((zxid - last_zxid) / samples))
            last_zxid, last_s = zxid or last_zxid, now_s
            await asyncio.sleep(SAMPLE_S)


class Fleet:
    """Many more processes with the same ZooKeepers, of which there is no more than the session and the registration."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = proxies
        self._sessions: list[Session] = []
        self._members: list[Membership] = []
        self.connected_s: dict[str, float] = {}
        self.registered_s: dict[str, float] = {}

    async def join(self, number: int) -> None:
        name = f"m{number}"
        session = Session(",".join(p.hosts for p in self._proxies), "fleet", FLEET_SESSION_S)
        self._sessions.append(session)
        await session.start(30)
        fleet = self

        class Timed(Membership):
            def kept(self, seen: Kept[MemberRecord]) -> None:
                super().kept(seen)
                fleet.registered_s.setdefault(name, time.monotonic())

        def follow(event: SessionEvent) -> None:
            if event.state is SessionState.CONNECTED and event.new_session:
                self.connected_s[name] = time.monotonic()

        member = Timed(session, "datanodes", name, MemberRecord(endpoint=f"{name}:1"))
        await member.register()
        self._members.append(member)
        session.subscribe(follow)

    async def cut_off(self) -> None:
        """Until ZooKeeper has ended every session; then all find that out, and register again."""
        for proxy in self._proxies:
            proxy.cut()
        await asyncio.sleep(FLEET_SESSION_S + 2.0)
        self.connected_s.clear()
        self.registered_s.clear()
        for proxy in self._proxies:
            proxy.restore()
        await eventually(lambda: len(self.connected_s) == len(self._members), SETTLED_WITHIN_S)
        self.registered_s = {n: at for n, at in self.registered_s.items() if at >= self.connected_s[n]}
        await eventually(lambda: len(self.registered_s) == len(self._members), SETTLED_WITHIN_S)

    def lines(self) -> list[str]:
        took = [self.registered_s[name] - at for name, at in self.connected_s.items()]
        ends = sorted(self.registered_s.values())
        return [
            f"{len(took)} more processes, cut off until their sessions had ended:",
            f"  each registered, of its new session   p50 {_ms(sorted(took)[len(took) // 2])}, max {_ms(max(took))}",
            f"  from the first of them to the last    {_ms(ends[-1] - ends[0])}",
        ]

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions))


async def fleet_cut_off(hosts: str, size: int, watch: Callable[[Seen], Awaitable[None]]) -> list[str]:
    async with contextlib.AsyncExitStack() as stack:
        fleet = Fleet([await stack.enter_async_context(proxy_to(host)) for host in hosts.split(",")])
        stack.push_async_callback(fleet.close)
        for number in range(size):
            await fleet.join(number)
        seen = Seen()
        watching = asyncio.ensure_future(watch(seen))
        try:
            await fleet.cut_off()
        finally:
            watching.cancel()
        return [*fleet.lines(), f"  ZooKeeper's transactions              {seen.writes_max} in the busiest 100 ms"]


def newest_zxid(hosts: str) -> int:
    """0 while nobody serves."""
    said = (re.search(r"^Zxid: 0x([0-9a-f]+)", four_letters(host, "srvr"), re.MULTILINE) for host in hosts.split(","))
    return max((int(found[1], 16) for found in said if found is not None), default=0)


def registered_after_s(log: str) -> float | None:
    """From a process's last new session until it was registered; None: it had none."""
    connected: datetime | None = None
    registered: datetime | None = None
    for line in log.splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "coordination_session" and event["new_session"]:
            connected, registered = datetime.fromisoformat(event["time"]), None
        elif event.get("event") == "member_registered" and registered is None:
            registered = datetime.fromisoformat(event["time"])
    if connected is None:
        return None
    return (registered - connected).total_seconds() if registered is not None else float("inf")


@contextlib.asynccontextmanager
async def scenes_of(cluster: ClusterUnderTest) -> AsyncIterator[Scenes]:
    """With a session of their own, by which they look."""
    zookeeper = Session(cluster.local.zookeeper_hosts, cluster.local.files.load().cluster, 30.0)
    await zookeeper.start(20, prepares=False)
    try:
        async with cluster.connect(timeout_s=30) as client:
            yield Scenes(cluster, client, zookeeper)
    finally:
        await zookeeper.close()


async def run(fleet: int) -> int:
    cluster = await asyncio.to_thread(start_cluster, 3, 3, 2, zookeepers=3)
    well = True
    try:
        async with scenes_of(cluster) as scenes:
            await scenes.play(lambda: asyncio.sleep(1.0))  # for there to be partitions
            plays: list[tuple[str, Callable[[], Awaitable[None]]]] = [
                (f"the leader killed with -9, back after {OUTAGE_S:g} s", scenes.kill_leader),
                (f"two killed, back after {OUTAGE_S:g} s", scenes.kill_two),
                ("restarted one by one", scenes.restart_one_by_one),
            ]
            for name in await scenes.one_of_each_role():
                plays.append((f"the session of {name} expired", lambda name=name: scenes.expire(name)))
            plays.append(("the sessions of all expired at once", scenes.expire))
            print(HEAD)
            for title, scene in plays:
                seen = await scenes.play(scene)
                print(f"{title:<44}{seen.row()}", flush=True)
                well = well and not seen.failed and not seen.problems
            if fleet:
                lines = await fleet_cut_off(cluster.local.zookeeper_hosts, fleet, scenes.watch_writes)
                print(*lines, sep="\n", flush=True)
        return 0 if well else 1
    finally:
        await asyncio.to_thread(remove_cluster, cluster)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="zookeepers", description="Kill and restart the ZooKeepers of a cluster in use."
    )
    parser.add_argument(
        "--fleet", type=int, default=60, help="processes that are cut off at the end (default %(default)s)"
    )
    options = parser.parse_args(argv)
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(run(options.fleet))


if __name__ == "__main__":
    raise SystemExit(main())
