"""Values that make no sense, through the client and the command: one typed error, one line."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

import stele
from stele.services.errors import (
    InvalidArgument,
    MessageTooLarge,
    NamespaceNotFound,
    NotEnoughStores,
    PartitionNotFound,
    SubscriptionNotFound,
    TopicExists,
    TopicNotFound,
    Unreachable,
)
from tests.support.bad_input import PARTITIONS, refused
from tests.support.cluster import ClusterUnderTest, cluster_fixture
from tests.support.ledger import Ledger

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)


# --- the client ---------------------------------------------------------------------------------------------------


async def test_the_client_refuses_what_no_topic_is(client: stele.Client, ledger: Ledger) -> None:
    admin, topic = client.admin, ledger.topic
    absent = "bad/absent"
    for name in (
        "",
        "plain",
        "a/b/c",
        "/t",
        "n/",
        "a b/c",
        "a/ü",
        "../x",
        "n/" + "x" * 129,
        "n/.hidden",
        "n/a\nb",
        "n/\0",
    ):
        await refused(admin.create_topic(name), InvalidArgument)
        with pytest.raises(InvalidArgument):
            client.producer(name)
        with pytest.raises(InvalidArgument):
            client.consumer(name, "s")
    await refused(admin.create_topic("alloc/t"), InvalidArgument)
    await refused(admin.create_topic(topic, partitions=PARTITIONS + 1), TopicExists, topic=topic, partitions=PARTITIONS)
    await refused(admin.create_topic("bad/wide", replication=4), NotEnoughStores, up=3, wanted=4)
    await refused(admin.create_topic("bad/wide", partitions=100_000), InvalidArgument, partitions=100_000)
    await refused(admin.create_topic("bad/wide", partitions=0), InvalidArgument)
    await refused(admin.create_topic("bad/wide", replication=-1), InvalidArgument)
    await refused(admin.create_namespace("n", bundles=1 << 20), InvalidArgument)
    assert "bad/wide" not in {t.topic for t in await admin.list_topics()}
    for work in (
        admin.describe_topic(absent),
        admin.delete_topic(absent),
        admin.list_subscriptions(absent),
        admin.list_partitions(absent),
        admin.create_subscription(absent, "s"),
        client.producer(absent).send(b"x"),
        client.consumer(absent, "s").receive(),
    ):
        await refused(work, TopicNotFound, topic=absent)
    await refused(admin.list_topics("absent"), NamespaceNotFound, namespace="absent")
    error = await refused(
        client.producer(topic).send(b"x", partition=PARTITIONS), PartitionNotFound, partition=PARTITIONS
    )
    assert error.definite
    with pytest.raises(InvalidArgument, match="partition -1"):
        client.producer(topic).send(b"x", partition=-1)


async def test_the_client_refuses_places_that_are_none(client: stele.Client, ledger: Ledger) -> None:
    admin, topic = client.admin, ledger.topic
    for name in ("", "a/b", "s s", "x" * 129, "ü"):
        with pytest.raises(InvalidArgument):
            client.consumer(topic, name)
        await refused(admin.create_subscription(topic, name), InvalidArgument)
    starts: list[Any] = [-1, 1 << 63, "soon", 1.5, None, True]
    for start in starts:
        with pytest.raises(InvalidArgument):
            client.consumer(topic, "s", start=start)
        await refused(admin.create_subscription(topic, "s", start=start), InvalidArgument)
        if start is not None:
            await refused(admin.seek_subscription(topic, "s", start), InvalidArgument)
    with pytest.raises(InvalidArgument):
        client.consumer(topic, "s", type="weird")
    await refused(admin.seek_subscription(topic, "absent", "earliest"), SubscriptionNotFound, subscription="absent")
    await refused(admin.seek_subscription(topic, "absent", timestamp_ms=-1), InvalidArgument)
    await refused(admin.delete_subscription(topic, "absent"), SubscriptionNotFound)
    assert await admin.list_subscriptions(topic) == []
    async with client.consumer(topic, "far", start=1 << 40) as far:  # beyond the end: what comes next
        await ledger.must_send(2)
        got = [await far.receive(10), await far.receive(10)]
        assert all(m is not None and ledger.stored[m.partition][m.offset] == m.value for m in got)


async def test_an_oversized_message_is_refused_and_the_producer_goes_on(client: stele.Client, ledger: Ledger) -> None:
    async with client.producer(ledger.topic) as producer:
        before = [await producer.enqueue(b"before-%d" % i, partition=0) for i in range(5)]
        with pytest.raises(MessageTooLarge) as refusal:
            producer.send(b"x" * (1 << 20), partition=0)
        assert refusal.value.facts["bytes_max"] == "1047498"
        assert refusal.value.definite
        assert not refusal.value.retryable
        with pytest.raises(MessageTooLarge):
            producer.send(b"", headers={"h": b"x" * (2 << 20)})
        with pytest.raises(MessageTooLarge):
            producer.send_nowait(b"x" * (64 << 20))
        largest = b"y" * 1_047_498
        ledger.note(await producer.send(largest, partition=0), largest)
        for i, promise in enumerate(before):
            ledger.note(await promise, b"before-%d" % i)


async def test_addresses_of_no_nameserver(cluster: ClusterUnderTest, client: stele.Client, ledger: Ledger) -> None:
    for address in ("", "nowhere", "host:", ":1", "host:0", "host:70000", "host:port", [], ["a:1"] * 101):
        with pytest.raises(InvalidArgument):
            stele.connect(address)
    [broker] = await client.admin.list_brokers()
    assert broker.member is not None
    with pytest.raises(InvalidArgument, match=f"{broker.member.endpoint} is no nameserver"):
        async with stele.connect(broker.member.endpoint):
            pass
    for endpoint in ("127.0.0.1:1", cluster.local.zookeeper_hosts, "name.invalid:7000"):
        with pytest.raises(Unreachable, match=endpoint):
            async with stele.connect(endpoint, timeout_s=0.5):
                pass


# --- the command --------------------------------------------------------------------------------------------------

USAGE, FAILED = 2, 1
COMMANDS: list[tuple[str, int, str, str]] = [
    # command line, status, what was wrong, the way out
    ("topic create {topic}", FAILED, "there is a topic {topic} already", "--if-absent"),
    ("topic create plain", USAGE, "topic 'plain'", "write it as namespace/topic"),
    ("topic create ../x", USAGE, "'..'", "a-z A-Z 0-9"),
    ("topic create bad/x --partitions 100000", USAGE, "100000", "1 to 1024"),
    ("topic create bad/x --replication 4", FAILED, "needs 4 stores", "--replication"),
    ("topic info bad/absent", FAILED, "no topic bad/absent", "stele topic ls"),
    ("topic rm bad/absent --yes", FAILED, "no topic bad/absent", "stele topic ls"),
    ("topic ls absent", FAILED, "no namespace absent", "stele namespace ls"),
    ("produce bad/absent --count 3", FAILED, "no topic bad/absent", "stele topic create"),
    ("produce {topic} --count 1 --size 2000000", FAILED, "2000000 bytes", "smaller"),
    ("produce {topic} --count 1 --partition 7", FAILED, "0 to 1, not 7", ""),
    ("consume bad/absent -S s --count 1", FAILED, "no topic bad/absent", "stele topic create"),
    ("consume {topic} -S bad/name --count 1", USAGE, "'bad/name'", "a-z A-Z 0-9"),
    ("consume {topic} -S s --from -5 --count 1", USAGE, "'-5'", "an offset from 0 on"),
    ("consume {topic} -S s --type weird", USAGE, "weird", "exclusive, failover, shared"),
    ("subscription seek {topic} absent --to earliest", FAILED, "'absent'", "stele subscription ls"),
    ("partition info {topic} 7", FAILED, "0 to 1, not 7", ""),
    ("topic ls --server 127.0.0.1:1", FAILED, "127.0.0.1:1", "stele cluster status"),
    ("topic ls --server nonsense", USAGE, "'nonsense'", "host:port"),
    ("topic ls --server {broker}", USAGE, "{broker} is no nameserver", ""),
    ("cluster up --datanodes 1", USAGE, "dn2", "stele cluster destroy"),
]


async def test_a_command_ends_with_one_line(cluster: ClusterUnderTest, client: stele.Client, ledger: Ledger) -> None:
    [broker] = await client.admin.list_brokers()
    assert broker.member is not None
    names = {"topic": ledger.topic, "broker": broker.member.endpoint}
    env = {k: v for k, v in os.environ.items() if not k.startswith("STELE_")}
    env["STELE_DIR"] = str(cluster.local.directory)
    places = asyncio.Semaphore(3)

    async def run(line: str, status: int, wrong: str, way_out: str) -> None:
        async with places:
            ran = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stele.cli.main", *line.format(**names).split()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
            )
            out, err = await asyncio.wait_for(ran.communicate(), 60)
        assert (ran.returncode, out) == (status, b""), f"{line}: {ran.returncode} {out!r} {err!r}"
        [said] = err.decode().splitlines()
        assert said.startswith("error: "), f"{line}: {said}"
        assert wrong.format(**names) in said, f"{line}: {said}"
        assert way_out in said, f"{line}: {said}"

    await asyncio.gather(*(run(*case) for case in COMMANDS))
