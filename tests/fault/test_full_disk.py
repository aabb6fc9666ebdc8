"""Datanodes without room: producers are told, readers are served, nothing acknowledged is lost, and space that returns is enough.

The disks are file systems of their own, a few MiB each, where this process may mount one; besides, and everywhere, datanodes are told
to keep more free than there is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

import stele
from stele.errors import SendTimedOut
from stele.local.cluster import LocalCluster
from stele.local.state import ClusterSpec
from stele.services.errors import DiskFull, SteleError, Timeout
from stele.services.pb import nameserver_pb2
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from tests.support.cluster import ClusterUnderTest, remove_cluster
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

MIB = 1 << 20
DISK_BYTES = 24 * MIB
RESERVE_BYTES = 4 * MIB  # appends are refused below it; terms, votes and cursors below its half
LEFT_BYTES = 3 * MIB
PARTITIONS = 2
MESSAGES = 40
DATANODES = ("dn1", "dn2", "dn3")
SMALL = {
    "segment_bytes": "2MiB",
    "election_timeout_min_s": "0.5",
    "election_timeout_max_s": "1",
    "trash_retention_s": "0.1",  # what an earlier test deleted is no room that a full disk still has
}


class Disks(Protocol):
    """How the disks of a cluster become full, and empty again."""

    cluster: ClusterUnderTest

    async def fill(self, *names: str) -> None:
        """Below the reserve, above its half."""
        ...

    async def free(self, *names: str) -> None: ...


class SmallFileSystems:
    """A tmpfs for each datanode; a file beside the store takes its room."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = ClusterUnderTest(LocalCluster(directory, _environment()))
        self._mounted: list[Path] = []

    def mount(self) -> None:
        for name in DATANODES:
            place = self.directory / "data" / name
            place.mkdir(parents=True)
            options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
            subprocess.run(["mount", *options], check=True, capture_output=True)
            self._mounted.append(place)

    def unmount(self) -> None:
        if self.cluster.local.exists:
            self.cluster.local.down(now=True)
        for place in self._mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)

    async def fill(self, *names: str) -> None:
        for name in names:
            place = self.directory / "data" / name
            free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
            with (place / "ballast").open("ab", buffering=0) as ballast:
                ballast.write(b"\0" * max(0, free - LEFT_BYTES))

    async def fill_to_the_brim(self, *names: str) -> None:
        """Nothing at all can be written."""
        for name in names:
            with (self.directory / "data" / name / "ballast").open("ab", buffering=0) as ballast:
                for size in (MIB, 4096):
                    try:
                        while True:
                            ballast.write(b"\0" * size)
                    except OSError:
                        continue

    async def free(self, *names: str) -> None:
        for name in names:
            (self.directory / "data" / name / "ballast").unlink(missing_ok=True)


class Reserves:
    """Datanodes that must keep more free than the disk has: told so by a restart, and told otherwise by the next."""

    def __init__(self, directory: Path) -> None:
        self.cluster = ClusterUnderTest(LocalCluster(directory, _environment()))

    async def fill(self, *names: str) -> None:
        free = shutil.disk_usage(self.cluster.local.directory).free
        await self._restart(free + free // 2, names)

    async def free(self, *names: str) -> None:
        await self._restart(RESERVE_BYTES, names)

    async def _restart(self, reserve_bytes: int, names: tuple[str, ...]) -> None:
        files = self.cluster.local.files
        state = files.load()
        state.settings["datanode"]["disk_reserve_bytes"] = str(reserve_bytes)
        files.save(state)
        for name in names:
            await self.cluster.kill(name)
            await self.cluster.start(name)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "STELE_ZOOKEEPER"}


def may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    place = tempfile.mkdtemp(prefix="stele-mount-")
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode == 0
    )
    if mounted:
        subprocess.run(["umount", "-l", place], check=True)
    os.rmdir(place)
    return mounted


KINDS = ["file systems", "reserves"] if may_mount() else ["reserves"]
every_kind = pytest.mark.parametrize("disks", KINDS, indirect=True, scope="module")
one_kind = pytest.mark.parametrize("disks", KINDS[:1], indirect=True, scope="module")


@pytest.fixture(scope="module")
def disks(request: pytest.FixtureRequest) -> Iterator[Disks]:
    directory = Path(tempfile.mkdtemp(prefix="stele-", dir=os.environ.get("STELE_TEST_DIR") or None))
    failed_before = request.session.testsfailed
    made: SmallFileSystems | Reserves
    made = SmallFileSystems(directory) if request.param == "file systems" else Reserves(directory)
    try:
        if isinstance(made, SmallFileSystems):
            made.mount()
        made.cluster.local.up(ClusterSpec(1, 3, 1, {"datanode": {**SMALL, "disk_reserve_bytes": str(RESERVE_BYTES)}}))
        yield made
    finally:
        if request.session.testsfailed > failed_before:
            print(made.cluster.describe(), file=sys.stderr)
        if isinstance(made, SmallFileSystems):
            made.unmount()
        remove_cluster(made.cluster)


@pytest.fixture
async def client(disks: Disks) -> AsyncIterator[stele.Client]:
    async with disks.cluster.connect() as connected:
        yield connected


@pytest.fixture
async def ledger(client: stele.Client, disks: Disks, request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    """Acknowledged messages, read back once there is room again."""
    topic = f"full/{request.function.__name__}"
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
    written = Ledger(client, topic, PARTITIONS)
    await written.must_send(MESSAGES)
    yield written
    await disks.free(*DATANODES)
    disks.cluster.local.up()
    await sends(written)
    await written.check()
    await client.admin.delete_topic(topic)


async def sends(ledger: Ledger) -> None:
    """Messages are taken again."""

    async def taken() -> bool:
        errors = await ledger.send(MESSAGES, send_timeout_s=2)
        assert all(isinstance(e, SendTimedOut | Timeout) for e in errors), errors
        return not errors

    await eventually(taken, within_s=30)


async def is_full(ledger: Ledger) -> SteleError:
    """Messages are refused, each with the reason, and for certain; the last refusal."""
    refusals: list[SteleError] = []

    async def told() -> bool:
        errors = await ledger.send(4, send_timeout_s=1)
        refusals.extend(errors)
        return len(errors) == 4 and all(
            type(e) is SendTimedOut and e.facts.get("last") == DiskFull.reason for e in errors
        )

    await eventually(told, within_s=30, describe=lambda: refusals[-5:])
    return refusals[-1]


@every_kind
async def test_every_disk_is_full(disks: Disks, client: stele.Client, ledger: Ledger) -> None:
    await client.admin.create_subscription(ledger.topic, "reader")
    await disks.fill(*DATANODES)
    error = await is_full(ledger)
    assert error.definite
    assert error.retryable
    assert "no writes until space returns" in error.message or "no room" in error.message

    # The command says it in one line.
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stele.cli.main", "produce", ledger.topic, "--count", "1", "--timeout", "1"),
        *("--server", disks.cluster.bootstrap),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(ran.communicate(), 60)
    [line] = err.decode().splitlines()
    assert (ran.returncode, out) == (1, b"")
    assert line.startswith("error: not stored before the send timeout: "), line

    # Readers are served: everything that was acknowledged, each message once.
    seen: list[tuple[int, int]] = []
    async with client.consumer(ledger.topic, "reader", type="exclusive") as consumer:
        while len(seen) < ledger.count:
            message = await consumer.receive(20)
            assert message is not None, f"{len(seen)} of {ledger.count}"
            assert ledger.stored[message.partition][message.offset] == message.value
            seen.append((message.partition, message.offset))
            consumer.ack_nowait(message)
        assert await consumer.receive(1.0) is None
        assert len(set(seen)) == len(seen)

        # A producer that waits long enough needs no one's help, and acknowledgements are made good.
        waiting = asyncio.create_task(ledger.send(MESSAGES, send_timeout_s=60))
        await disks.free(*DATANODES)
        assert await asyncio.wait_for(waiting, 70) == []
        await asyncio.wait_for(consumer.flush(), 20)

    await eventually(lambda: _acknowledged(client, ledger, len(seen)), within_s=10)


@one_kind
async def test_one_full_disk_stops_nobody(disks: Disks, client: stele.Client, ledger: Ledger) -> None:
    for name in DATANODES:
        await disks.fill(name)

        async def leads_nothing(full: str = name) -> bool:
            [store] = [s for s in await client.admin.list_stores() if s.name == full]
            return store.leaders == 0 and store.disk_free_bytes < RESERVE_BYTES

        await eventually(leads_nothing, within_s=15, describe=disks.cluster.describe)
        await sends(ledger)
        await ledger.must_send(MESSAGES, size=10_000)
        await ledger.check()
        await disks.free(name)
        await sends(ledger)


@one_kind
async def test_datanodes_start_on_full_disks_and_serve_readers(
    disks: Disks, client: stele.Client, ledger: Ledger
) -> None:
    await client.admin.create_subscription(ledger.topic, "reader")
    await disks.fill(*DATANODES)
    await is_full(ledger)
    for name in DATANODES:
        await disks.cluster.kill(name)
    for name in DATANODES:
        await disks.cluster.start(name)
    seen: set[tuple[int, int]] = set()
    async with client.consumer(ledger.topic, "reader", type="exclusive") as consumer:
        while len(seen) < ledger.count:
            message = await consumer.receive(20)
            assert message is not None, f"{len(seen)} of {ledger.count}"
            assert ledger.stored[message.partition][message.offset] == message.value
            seen.add((message.partition, message.offset))


@one_kind
async def test_disks_that_are_full_to_the_brim(disks: Disks, client: stele.Client, ledger: Ledger) -> None:
    """Not even a term or an acknowledgement can be written; where no file system is ours to fill, the reserve has to do."""
    await client.admin.create_subscription(ledger.topic, "reader")
    fill = disks.fill_to_the_brim if isinstance(disks, SmallFileSystems) else disks.fill
    await fill(*DATANODES)
    await is_full(ledger)
    joined = disks.cluster.local.log_path("br1").read_text().count('"consumer_joined"')
    async with client.consumer(ledger.topic, "reader", type="exclusive") as consumer:
        messages = [await consumer.receive(20) for _ in range(ledger.count)]
        for message in messages:
            assert message is not None
            assert ledger.stored[message.partition][message.offset] == message.value
            consumer.ack_nowait(message)
        assert await consumer.receive(2.0) is None
        log = disks.cluster.local.log_path("br1").read_text()
        assert log.count('"consumer_joined"') - joined == PARTITIONS, (
            "an acknowledgement that waits for space closes nobody"
        )

        # A topic cannot be created, and one is told so; what was begun is finished later.
        channels = Channels()
        nameservers = NameserverClient(channels, [disks.cluster.bootstrap])
        request = nameserver_pb2.CreateTopicRequest(topic="full/late", partitions=1, replication=3)
        if isinstance(disks, SmallFileSystems):
            with pytest.raises(Timeout) as refused:
                await nameservers.call("CreateTopic", request, 4)
            assert refused.value.facts["cause"] == "DISK_FULL", "it says why, and not that nothing has happened"
        await channels.close()

        # A process that ends and starts again there loads what it has.
        for name in DATANODES[:2]:
            await disks.cluster.kill(name)
        for name in DATANODES[:2]:
            await disks.cluster.start(name)
        await disks.free(*DATANODES)
        await sends(ledger)
        await asyncio.wait_for(consumer.flush(), 20)

    await eventually(lambda: _acknowledged(client, ledger, len(messages)), within_s=10)
    if isinstance(disks, SmallFileSystems):

        async def created() -> bool:
            return (await client.admin.describe_topic("full/late")).state == "ready"

        await eventually(created, within_s=30)
        late = Ledger(client, "full/late", 1)
        await late.must_send(10)
        await late.check()
        await client.admin.delete_topic("full/late")


async def _acknowledged(client: stele.Client, ledger: Ledger, count: int) -> bool:
    found = await client.admin.list_subscriptions(ledger.topic)
    backlog = sum(s.backlog for s in found if s.subscription == "reader")
    stored = sum(p.high_watermark for p in await client.admin.list_partitions(ledger.topic))
    assert ledger.count <= stored <= ledger.count + len(ledger.unknown), found  # what timed out may be stored
    assert backlog == stored - count, found
    return True


@one_kind
async def test_a_new_datanode_on_a_full_disk_says_so(disks: Disks, ledger: Ledger) -> None:
    if isinstance(disks, Reserves):  # it has room to begin with; the reserve is for what comes later
        return
    assert isinstance(disks, SmallFileSystems)
    await disks.fill_to_the_brim("dn1")
    cluster = disks.cluster.local
    place = cluster.files.data_path("dn1") / "new"
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stele.datanode", "--name", "dn9", "--data-dir", str(place)),
        *("--cluster", cluster.files.load().cluster, "--zookeeper", cluster.zookeeper_hosts, "--log-format", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(ran.communicate(), 60)
    [line] = [line for line in err.decode().splitlines() if not line.startswith("{")]
    assert (ran.returncode, out) == (1, b""), err.decode()
    assert line.startswith(f"stele-datanode: {place}")
    assert line.endswith("No space left on device; free some space, then start it again")
    shutil.rmtree(place, ignore_errors=True)
