"""Credentials, ACLs and TLS, with a real ZooKeeper: who gets in, who does not, and how that ends."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from stele.services.config import AccessSettings
from stele.services.coordination.access import VARIABLE, ZooKeeperAccess
from stele.services.coordination.founding import prepare
from stele.services.coordination.kazoo_client import LeaseClient
from stele.services.coordination.members import Membership
from stele.services.coordination.names import register_name
from stele.services.coordination.records import CounterRecord, MemberRecord, encode
from stele.services.coordination.session import Session
from stele.services.errors import CoordinationRefused, CoordinationUnreachable
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.secure_zookeeper import Certificates, SecureZooKeeper, secure_server
from tests.support.zookeeper import SESSION_TIMEOUT_S, unique_cluster_name

OURS, THEIRS = {VARIABLE: "stele:s3cret"}, {VARIABLE: "stele:guessed"}


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[SecureZooKeeper, Certificates]]:
    with secure_server() as made:
        yield made


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_session(
    opened: AsyncExitStack, hosts: str, cluster: str, access: ZooKeeperAccess, within_s: float = 20
) -> Session:
    session = Session(hosts, cluster, SESSION_TIMEOUT_S, connect=functools.partial(LeaseClient, access=access))
    await session.start(within_s)
    opened.push_async_callback(session.close)
    return session


def with_files(certificates: Certificates, name: str = "client") -> AccessSettings:
    certificate, key = certificates.sign(name)
    return AccessSettings(
        zookeeper_tls_ca=str(certificates.ca), zookeeper_tls_cert=str(certificate), zookeeper_tls_key=str(key)
    )


# --- credentials and ACLs -----------------------------------------------------------------------------------------------


async def test_what_is_made_with_credentials_is_nobody_elses(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack
) -> None:
    hosts = secured[0].hosts

    async def scenario(kind: type[ZooKeeperAccess]) -> None:
        cluster = unique_cluster_name()
        ours = await open_session(opened, hosts, cluster, kind.of(AccessSettings(), OURS))
        await register_name(ours, "br1", "127.0.0.1:1")
        await Membership(ours, "brokers", "br1", MemberRecord(endpoint="127.0.0.1:1")).register()
        await ours.create("topics/alloc", encode(CounterRecord(next=1)))
        beside = await open_session(opened, hosts, cluster, kind.of(AccessSettings(), OURS))
        assert await beside.children("members/brokers") == ["br1"], "whoever has them goes on with it"
        with promise("what is made with credentials is nobody else's"):
            for env in ({}, THEIRS):
                with pytest.raises(CoordinationRefused, match="get cluster: ZooKeeper's ACL there does not allow it"):
                    await open_session(opened, hosts, cluster, kind.of(AccessSettings(), env))
            assert await asyncio.to_thread(open_to_others, hosts, ours.root) == []

    await holds_and_mutant_fails(scenario, ZooKeeperAccess, "access.LeavesItToAll")


def open_to_others(hosts: str, root: str) -> list[str]:
    """Paths of the nodes that somebody without credentials may do something with."""
    client = KazooClient(hosts=hosts, auth_data=[("digest", OURS[VARIABLE])])
    client.start(10)
    try:
        found, left = [], [root]
        while left:
            path = left.pop()
            acls, _ = client.get_acls(path)
            found += [path] if any(acl.id.scheme == "world" for acl in acls) else []
            left += [f"{path}/{name}" for name in client.get_children(path)]
        return found
    finally:
        client.stop()
        client.close()


async def test_others_may_read_where_that_is_said(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack
) -> None:
    hosts, cluster = secured[0].hosts, unique_cluster_name()
    await open_session(opened, hosts, cluster, ZooKeeperAccess.of(AccessSettings(zookeeper_acl="read"), OURS))
    reader = await open_session(opened, hosts, cluster, ZooKeeperAccess())
    assert await reader.get("epoch") is not None
    for refused in (reader.set("epoch", b"{}"), reader.create("topics/alloc", b""), reader.delete("epoch")):
        with pytest.raises(CoordinationRefused):
            await refused


async def test_clusters_with_other_credentials_lie_beside_one_another(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack
) -> None:
    hosts = secured[0].hosts
    for env in (OURS, THEIRS, {}):
        session = await open_session(opened, hosts, unique_cluster_name(), ZooKeeperAccess.of(AccessSettings(), env))
        assert await prepare(session) == session.cluster_id


# --- TLS ----------------------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_to_a_server_that_the_ca_does_not_know(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack, tmp_path: Path
) -> None:
    server, certificates = secured
    known = with_files(certificates)
    elsewhere = replace(known, zookeeper_tls_ca=str(Certificates(tmp_path / "other").ca))

    async def scenario(kind: type[ZooKeeperAccess]) -> None:
        session = await open_session(opened, server.secure_hosts, unique_cluster_name(), kind.of(known, OURS))
        assert await session.get("epoch") is not None
        with promise("nothing is sent to a server that the CA does not know"):
            for settings, hosts, says in (
                (elsewhere, server.secure_hosts, "self-signed certificate|unable to get local issuer"),
                (known, f"localhost:{server.secure_port}", "not valid for 'localhost'"),
            ):
                began = time.monotonic()
                with pytest.raises(CoordinationRefused, match=says):
                    await open_session(opened, hosts, unique_cluster_name(), kind.of(settings, OURS))
                assert time.monotonic() - began < 10, "at once, and not when time is up"

    await holds_and_mutant_fails(scenario, ZooKeeperAccess, "access.TrustsAnyServer")


async def test_a_server_that_wants_a_certificate_refuses_who_has_none(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack, tmp_path: Path
) -> None:
    server, certificates = secured
    bare = AccessSettings(zookeeper_tls_ca=str(certificates.ca))
    foreign = replace(with_files(Certificates(tmp_path / "other")), zookeeper_tls_ca=str(certificates.ca))
    for settings in (bare, foreign):
        with pytest.raises(CoordinationRefused, match="do not trust one another"):
            await open_session(opened, server.secure_hosts, unique_cluster_name(), ZooKeeperAccess.of(settings, {}))


async def test_a_session_without_tls_at_the_encrypted_port_ends_in_time(
    secured: tuple[SecureZooKeeper, Certificates], opened: AsyncExitStack
) -> None:
    with pytest.raises(CoordinationUnreachable, match="within 2 s"):
        await open_session(opened, secured[0].secure_hosts, unique_cluster_name(), ZooKeeperAccess(), within_s=2)
