"""Addresses, routes, retries, bounded memory, health: the client's other decisions."""

from __future__ import annotations

import asyncio
import random

import pytest

from stele import routing
from stele.buffer_limit import BufferLimit
from stele.errors import ClientClosed
from stele.health import judge
from stele.model import BrokerInfo, ClusterInfo, MemberInfo, PartitionInfo, ReplicaInfo, StoreInfo
from stele.producer import ProducerSettings
from stele.retry import BACKOFF, backoff_s, may_retry
from stele.routing import Route, Router, TopicRoutes, choose_address, is_inside, parse_bootstrap, read_routes
from stele.services.errors import (
    ConnectionBroken,
    Fenced,
    InvalidArgument,
    NotOwner,
    SteleError,
    TopicNotFound,
    Unreachable,
)
from stele.services.pb import common_pb2, nameserver_pb2
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


def test_bootstrap_addresses() -> None:
    assert parse_bootstrap(" a:1, b:2 ,") == ["a:1", "b:2"]
    assert parse_bootstrap(["[::1]:7"]) == ["[::1]:7"]


@pytest.mark.parametrize("bad", ["", ",", "host", "host:", ":1", "host:0", "host:70000", "host:x", []])
def test_bad_bootstrap_addresses(bad: str | list[str]) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        parse_bootstrap(bad)


def test_a_client_inside_dials_endpoints_and_one_outside_advertised_addresses() -> None:
    address = common_pb2.Address(endpoint="ns1:6600", advertised="localhost:16600")
    assert is_inside(["x:1", "ns1:6600"], [address])
    assert not is_inside(["localhost:16600"], [address])
    assert choose_address(address, inside=True) == "ns1:6600"
    assert choose_address(address, inside=False) == "localhost:16600"
    assert choose_address(common_pb2.Address(endpoint="ns1:6600"), inside=False) == "ns1:6600"


def lookup_answer(state: str = "ready", partitions: int = 2, known: int = 2) -> nameserver_pb2.LookupResponse:
    return nameserver_pb2.LookupResponse(
        topic=nameserver_pb2.TopicInfo(topic="a/b", id=7, partitions=partitions, state=state),
        partitions=[
            nameserver_pb2.PartitionRoute(
                partition=i, broker="br1", broker_address=common_pb2.Address(endpoint="br1:1"), owner_epoch=4
            )
            for i in reversed(range(known))
        ],
    )


def test_routes_of_an_answer() -> None:
    routes = read_routes(lookup_answer(), inside=True)
    assert routes == TopicRoutes("a/b", 7, (Route(0, "br1", "br1:1", 4), Route(1, "br1", "br1:1", 4)))


def test_a_topic_in_the_making_is_waited_for_and_one_being_deleted_is_gone() -> None:
    with pytest.raises(Unreachable):
        read_routes(lookup_answer("creating", known=1), inside=True)
    with pytest.raises(TopicNotFound):
        read_routes(lookup_answer("deleting"), inside=True)


async def test_lookups_of_one_topic_are_shared_and_changes_are_told() -> None:
    lookups, told = 0, []
    endpoint = "br1:1"

    async def look_up(topic: str) -> TopicRoutes:
        nonlocal lookups
        lookups += 1
        await asyncio.sleep(0)
        return TopicRoutes(topic, 1, (Route(0, "br", endpoint, 1),))

    router = Router(look_up)
    await asyncio.gather(*(router.routes("a/b") for _ in range(10)), *(router.refresh("a/b") for _ in range(10)))
    assert lookups == 1
    end = router.watch("a/b", told.append)
    await router.refresh("a/b")
    assert told == []
    endpoint = "br2:1"
    await router.refresh("a/b")
    assert [r.partitions[0].endpoint for r in told] == ["br2:1"]
    end()
    await router.close()


async def a_nameserver_lags(make: type[Router], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [7, 8, 7, 8, 7, 7]
    told = []

    async def look_up(topic: str) -> TopicRoutes:
        return TopicRoutes(topic, answers.pop(0), ())

    monkeypatch.setattr(routing, "FORMER_MAX_S", 1000.0)
    router = make(look_up)
    try:
        assert (await router.routes("a/b")).topic_id == 7
        router.watch("a/b", lambda routes: told.append(routes.topic_id))
        seen = [(await router.refresh("a/b")).topic_id for _ in range(4)]
        with promise("a nameserver that lags brings no former topic back"):
            assert (seen, told) == ([8, 8, 8, 8], [8])
        monkeypatch.setattr(routing, "FORMER_MAX_S", 0.0)
        assert (await router.refresh("a/b")).topic_id == 7, "if all say so, and for long, the cluster is another one"
    finally:
        await router.close()


async def test_p7b_a_nameserver_that_lags_brings_no_former_topic_back(monkeypatch: pytest.MonkeyPatch) -> None:
    await holds_and_mutant_fails(
        lambda make: a_nameserver_lags(make, monkeypatch), Router, "incarnations.BelievesWhoeverLags"
    )


async def test_a_failed_lookup_is_told_to_all_who_wait_and_tried_again_by_the_next() -> None:
    outcomes: list[SteleError | None] = [Unreachable("down"), None]

    async def look_up(topic: str) -> TopicRoutes:
        if (error := outcomes.pop(0)) is not None:
            raise error
        return TopicRoutes(topic, 1, ())

    router = Router(look_up)
    both = await asyncio.gather(router.routes("a/b"), router.routes("a/b"), return_exceptions=True)
    assert all(isinstance(e, Unreachable) for e in both)
    assert (await router.routes("a/b")).topic == "a/b"
    await router.close()


def test_waits_grow_to_a_cap_and_are_jittered() -> None:
    rng = random.Random(5)
    assert backoff_s(0, rng) == backoff_s(1, rng) == 0.0
    waits = [backoff_s(n, rng) for n in range(2, 40)]
    assert all(0 < w <= BACKOFF.max_s for w in waits)
    assert len({round(w, 9) for w in waits}) == len(waits)


def test_what_is_repeated() -> None:
    assert all(may_retry(e) for e in (NotOwner(""), ConnectionBroken(""), Fenced(""), SteleError("unknown")))
    assert not any(may_retry(e) for e in (InvalidArgument(""), TopicNotFound("")))


@pytest.mark.parametrize("field", ["linger_ms", "batch_bytes_max", "send_timeout_s", "buffer_bytes_max"])
def test_settings_outside_their_bounds(field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        ProducerSettings(**{field: -1})


async def test_room_is_given_in_the_order_of_asking() -> None:
    limit = BufferLimit(100)
    assert limit.try_acquire(60)
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        await limit.acquire(size)
        order.append(name)

    tasks = [asyncio.create_task(take("large", 80)), asyncio.create_task(take("small", 10))]
    await asyncio.sleep(0)
    assert not limit.try_acquire(1), "nobody overtakes who waits"
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    limit.release(60)
    await eventually(lambda: order == ["small"])
    limit.release(10)
    assert limit.used_bytes == 0
    assert limit.try_acquire(5000), "a single piece that is larger than the limit goes alone"
    waiting = asyncio.create_task(limit.acquire(1))
    await asyncio.sleep(0)
    limit.refuse_all(ClientClosed("closed"))
    with pytest.raises(ClientClosed):
        await waiting


async def test_whoever_flushes_waits_until_everything_is_released() -> None:
    limit = BufferLimit(100)
    await asyncio.wait_for(limit.unused(), 1)
    await limit.acquire(100)
    waiting = asyncio.create_task(limit.acquire(50))
    flushing = asyncio.create_task(limit.unused())
    await asyncio.sleep(0)
    limit.release(100)
    await waiting
    await asyncio.sleep(0)
    assert not flushing.done(), "who waited has its share now"
    limit.release(50)
    await asyncio.wait_for(flushing, 1)


# --- health -------------------------------------------------------------------------------------------------------


def cluster(leader: str = "ns1", connected: bool = True) -> ClusterInfo:
    return ClusterInfo("c", "id", "ns1", leader, 3, connected, ())


def store(name: str = "dn1", live: bool = True, status: str = "ready", state: str = "up") -> StoreInfo:
    member = MemberInfo(name, "e:1", "e:1", status, "", 0)
    return StoreInfo(1, name, state, live, member if live else None, status)


def partition(leader: int = 1, broker: str = "br1", states: tuple[str, ...] = ("leader", "follower")) -> PartitionInfo:
    replicas = tuple(ReplicaInfo(i, f"e:{i}" if s else "", s) for i, s in enumerate(states, 1))
    return PartitionInfo("a/b", 0, 1, "a/0-f", broker, "", 1, leader, replicas)


def failed(*args: object) -> dict[str, str]:
    return {c.name: c.detail for c in judge(*args) if not c.ok}  # type: ignore[arg-type]


BROKER = BrokerInfo("br1", True, None, ("a/0-f",))


def test_a_cluster_in_order_is_healthy() -> None:
    assert failed(cluster(), [store(), store("dn9", live=False, state="tombstone")], [BROKER], [partition()]) == {}


def test_what_is_missing_is_named() -> None:
    assert "none leads" in failed(cluster(leader=""), [store()], [BROKER], [])["nameservers"]
    assert "ns1" in failed(cluster(connected=False), [store()], [BROKER], [])["coordination"]
    assert failed(cluster(), [store(live=False)], [BROKER], [])["stores"] == "dn1 is gone"
    assert "loading" in failed(cluster(), [store(status="loading")], [BROKER], [])["stores"]
    assert "no store" in failed(cluster(), [], [BROKER], [])["stores"]
    assert "owns 1 bundle;" in failed(cluster(), [store()], [BrokerInfo("br1", False, None, ("x",))], [])["brokers"]
    assert "no leader" in failed(cluster(), [store()], [BROKER], [partition(leader=0)])["partitions"]
    assert "no broker" in failed(cluster(), [store()], [BROKER], [partition(broker="")])["partitions"]
    gone = failed(cluster(), [store()], [BROKER], [partition(states=("leader", ""))])
    assert gone["partitions"] == "a/b-0 has 1 of 2 replicas"


def test_many_problems_are_counted() -> None:
    many = failed(cluster(), [store()], [BROKER], [partition(leader=0)] * 9)
    assert many["partitions"].endswith("and 4 more")
