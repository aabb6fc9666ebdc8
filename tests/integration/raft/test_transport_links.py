"""Streams between stores: who dials, which stream stays, and what silence is."""

from __future__ import annotations

import asyncio
import signal
from itertools import pairwise

import grpc
import pytest

from stele.services.errors import StoreUnknown
from stele.services.pb import raft_pb2 as pb
from stele.services.pb import raft_pb2_grpc
from stele.services.raft import transport as transport_module
from stele.services.raft.transport import RaftTransport
from stele.services.rpc.status import from_rpc_error
from tests.integration.raft.transport_peer import TIMING, Child, Peer, peers
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


async def test_messages_arrive_in_order_and_once() -> None:
    async with peers(1, 2) as (one, two):
        one.transport.use(2)
        two.transport.use(1)
        await eventually(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
        for group in range(1000):
            one.say(2, group)
        await eventually(lambda: len(two.listener.received) == 1000)
        assert [m.group for m in two.listener.received] == list(range(1000))
        assert one.listener.events == [("connected", 2)]
        assert two.listener.events == [("connected", 1)]


async def test_an_idle_link_carries_empty_frames_and_nobody_falls_silent() -> None:
    async with peers(1, 2) as (one, two):
        one.transport.use(2)
        two.transport.use(1)
        await eventually(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
        heard: set[tuple[float, float]] = set()

        def long_enough() -> bool:
            heard.add((one.transport.last_active(2), two.transport.last_active(1)))
            return min(len({a for a, _ in heard}), len({b for _, b in heard})) >= 30

        await eventually(long_enough, every_s=0.005)
        assert one.listener.count("silent") == two.listener.count("silent") == 0
        assert one.listener.received == two.listener.received == []


async def test_a_stopped_process_is_silent_once_and_heard_once_while_its_connection_stands() -> None:
    async with peers(1) as (one,):
        child = Child(2)
        await child.start(one.addresses)
        try:
            one.transport.use(2)
            await eventually(lambda: one.transport.is_connected(2))
            one.say(2, 1)
            await eventually(lambda: len(one.listener.received) == 1)
            for turn in (1, 2):
                child.process.send_signal(signal.SIGSTOP)
                await eventually(lambda n=turn: one.listener.count("silent") == n)
                silent_since = one.transport.last_active(2)
                child.process.send_signal(signal.SIGCONT)
                await eventually(lambda n=turn: one.listener.count("heard") == n)
                assert one.transport.last_active(2) - silent_since >= TIMING.election_min_s
            assert one.listener.events == [("connected", 2), *[("silent", 2), ("heard", 2)] * 2]
            assert "silent 1" not in child.told  # it was stopped itself: what we sent meanwhile was waiting
        finally:
            await child.stop()


async def test_a_message_after_a_pause_comes_after_the_peer_is_heard() -> None:
    async with peers(1) as (one,):
        child = Child(2)
        await child.start(one.addresses)
        try:
            one.transport.use(2)
            await eventually(lambda: one.transport.is_connected(2))
            order: list[str] = []
            one.listener.told = lambda what, store: order.append(what)
            one.listener.on_message = lambda sender, message: order.append("message")
            child.process.send_signal(signal.SIGSTOP)
            await eventually(lambda: "silent" in order)
            one.say(2, 1)
            child.process.send_signal(signal.SIGCONT)
            await eventually(lambda: "message" in order)
            assert order == ["silent", "heard", "message"]
        finally:
            await child.stop()


async def test_a_killed_process_is_disconnected_and_gone_and_not_silent() -> None:
    async with peers(1) as (one,):
        child = Child(2)
        await child.start(one.addresses)
        one.transport.use(2)
        await eventually(lambda: one.transport.is_connected(2))
        await child.stop()
        await eventually(lambda: one.listener.count("gone") >= 1)
        await asyncio.sleep(1.0)  # it is dialled on, refused each time, and said once
        assert one.listener.events == [("connected", 2), ("disconnected", 2), ("gone", 2)]


async def test_the_higher_store_dials_where_the_lower_one_does_not_know_that_it_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_module, "DIAL_ANYWAY_S", 0.3)
    async with peers(1, 2) as (one, two):
        two.transport.use(1)
        await eventually(lambda: one.transport.is_connected(2))
        one.say(2, 5)
        await eventually(lambda: len(two.listener.received) == 1)
        one.transport.use(2)  # now the lower one knows: it finds a stream and leaves it alone
        two.say(1, 6)
        await eventually(lambda: len(one.listener.received) == 1)
        await asyncio.sleep(0.5)
        assert one.listener.events == [("connected", 2)]
        assert two.listener.events == [("connected", 1)]


async def test_the_higher_store_leaves_the_dialling_to_the_lower_one() -> None:
    async with peers(1, 2) as (one, two):
        two.transport.use(1)
        one.transport.use(2)
        await eventually(lambda: two.transport.is_connected(1))
        link = two.transport._links[1]
        assert link.stream is not None
        assert link.stream.by_lower


@pytest.mark.parametrize("seed", range(8))
async def test_when_both_dial_at_once_the_lower_ones_stream_stays(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "DIAL_ANYWAY_S", 0.0)
    async with peers(1, 2) as (one, two):
        for first, second in [((one, 2), (two, 1))] if seed % 2 else [((two, 1), (one, 2))]:
            first[0].transport.use(first[1])
            await asyncio.sleep(0.0005 * (seed // 2))
            second[0].transport.use(second[1])

        async def settled() -> bool:
            events = len(one.listener.events), len(two.listener.events)
            await asyncio.sleep(0.4)
            connected = one.transport.is_connected(2) and two.transport.is_connected(1)
            return connected and events == (len(one.listener.events), len(two.listener.events))

        await eventually(settled)
        for peer in (one, two):
            assert peer.listener.count("disconnected") <= 1, peer.listener.events
        ends = one.transport._links[2].stream, two.transport._links[1].stream
        assert ends[0] is not None
        assert ends[1] is not None
        assert ends[0].by_lower == ends[1].by_lower  # both ends hold the same one
        one.say(2, 1)
        two.say(1, 2)
        await eventually(lambda: len(one.listener.received) == len(two.listener.received) == 1)


async def test_the_higher_ones_stream_takes_the_place_of_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store 2 has ended without its connection breaking and another process in its place dials: it is not kept waiting."""
    monkeypatch.setattr(transport_module, "DIAL_ANYWAY_S", 0.2)
    async with peers(1) as (one,):
        frozen = Child(2)
        await frozen.start(one.addresses)
        one.transport.use(2)
        await eventually(lambda: one.transport.is_connected(2))
        frozen.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: one.listener.count("silent") == 1)
        successor = await Peer(2, dict(one.addresses)).start()
        try:
            successor.transport.use(1)
            await eventually(lambda: successor.transport.is_connected(1), within_s=3)
            assert one.listener.events == [("connected", 2), ("silent", 2), ("disconnected", 2), ("connected", 2)]
        finally:
            await successor.stop()
            await frozen.stop()


async def test_a_break_ends_silence_without_a_word() -> None:
    async with peers(1) as (one,):
        child = Child(2)
        await child.start(one.addresses)
        one.transport.use(2)
        await eventually(lambda: one.transport.is_connected(2))
        child.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: one.listener.count("silent") == 1)
        await child.stop()
        await eventually(lambda: one.listener.count("gone") >= 1)
        whats = [what for what, _ in one.listener.events]
        assert whats[:4] == ["connected", "silent", "disconnected", "gone"]
        assert all(a != "disconnected" or b != "heard" for a, b in pairwise(whats))


async def claim(peer: Peer, store_id: int) -> grpc.aio.StreamStreamCall[pb.RaftFrame, pb.RaftFrame]:
    """A stream of somebody who says that it is that store; raises what the peer answers."""
    stub = raft_pb2_grpc.RaftStub(peer.channels.get(peer.addresses[peer.store_id]))  # type: ignore[no-untyped-call]
    call = stub.Exchange()
    hello = pb.RaftHello(cluster_id="cluster", from_store_id=store_id, to_store_id=peer.store_id)
    await call.write(pb.RaftFrame(hello=hello))
    answer = await call.read()
    assert answer is not grpc.aio.EOF, "the stream ended without an answer"  # type: ignore[attr-defined]
    assert answer.hello.from_store_id == peer.store_id
    return call


async def test_p31_a_store_that_nobody_knows_gets_no_link() -> None:
    async with peers(1) as (one,):
        for claimed in range(1000, 1020):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await claim(one, claimed)
            assert isinstance(from_rpc_error(refused.value), StoreUnknown)
        assert one.transport._links == {}


async def test_p31_a_link_that_no_group_uses_goes_with_its_stream() -> None:
    async with peers(1, 2) as (one, _):
        one.addresses |= {claimed: "127.0.0.1:1" for claimed in range(1000, 1020)}
        calls = [await claim(one, claimed) for claimed in range(1000, 1020)]
        assert len(one.transport._links) == 20
        one.transport.use(2)
        for call in calls:
            call.cancel()
        await eventually(lambda: set(one.transport._links) == {2})
        one.transport.release(2)
        await eventually(lambda: one.transport._links == {})
        one.transport.use(2)
        await eventually(lambda: one.transport.is_connected(2))


async def a_store_that_was_removed_is_gone_for_good(transport: type[RaftTransport]) -> None:
    """Its link stands when it is removed; then it goes, and comes back although it is not to."""
    async with peers(1, transport=transport) as (one,):
        two = await Peer(2, one.addresses).start()
        one.transport.use(2)
        await eventually(lambda: one.transport.is_connected(2))
        link = one.transport._links[2]
        one.removed.add(2)
        one.resolver.invalidate(2)
        await two.stop()
        await eventually(lambda: link.tombstone)
        one.say(2, 1)
        assert link.lanes.take() == [], "nothing waits for it"
        with promise("a store that was removed is not dialled again"):
            await eventually(lambda: link.dialling is not None and link.dialling.done(), within_s=3)
        with promise("a store that was removed is not let in again"), pytest.raises(AssertionError, match="without an"):
            await claim(one, 2)
        assert not one.transport.is_connected(2)
        one.transport.release(2)
        one.transport.use(2)  # another group that still names it asks nobody either
        with promise("a store that was removed is not let in again"), pytest.raises(AssertionError, match="without an"):
            await claim(one, 2)


@pytest.mark.parametrize("mutant", ["links.DialsTheRemoved", "links.TakesBackTheRemoved"])
async def test_r2_3_a_store_that_was_removed_is_gone_for_good(mutant: str) -> None:
    await holds_and_mutant_fails(a_store_that_was_removed_is_gone_for_good, RaftTransport, mutant)
