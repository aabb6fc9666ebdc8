"""Snapshots between two transports over loopback (H16)."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest

from stele.services.errors import (
    ClusterMismatch,
    InvalidArgument,
    LogDamaged,
    NotReady,
    Overloaded,
    SnapshotNotFound,
    SteleError,
    StoreMismatch,
    Timeout,
)
from stele.services.raft import snapshot_transfer
from stele.services.raft.build_pace import BURST_S, BuildPace
from stele.services.raft.snapshot_transfer import CHUNK_BYTES_MAX
from tests.integration.raft.transport_peer import Child, Peer, Source, content, peers
from tests.support.eventually import eventually

MIB = 1 << 20


async def received(peer: Peer, store_id: int, index: int = 10, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in peer.transport.fetch_snapshot(store_id, 1, index, offset)])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 5 * MIB])
async def test_a_snapshot_arrives_whole(size: int) -> None:
    async with peers(1, 2) as (one, two):
        source = one.listener.snapshots[1, 10] = Source(content(size))
        assert await received(two, 1) == source.state
        await eventually(lambda: source.closed == 1)
        assert all(length <= CHUNK_BYTES_MAX for _, length in source.reads)


async def test_a_snapshot_is_sent_no_faster_than_the_bound() -> None:
    async with peers(1, 2) as (one, two):
        one.transport._served._pace = BuildPace(4 * MIB)
        source = one.listener.snapshots[1, 10] = Source(content(6 * MIB))
        began = time.monotonic()
        assert await received(two, 1) == source.state
        took_s = time.monotonic() - began
        assert took_s >= 6 / 4 - BURST_S - CHUNK_BYTES_MAX / (4 * MIB), "all but what may come at once, and the last"


async def test_a_transfer_goes_on_where_it_stopped() -> None:
    async with peers(1, 2) as (one, two):
        state = content(3 * MIB)
        first = one.listener.snapshots[1, 10] = Source(state)
        got = b""
        async with aclosing(two.transport.fetch_snapshot(1, 1, 10, 0)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                got += chunk
                if len(got) >= MIB:
                    break
        await eventually(lambda: first.closed == 1)
        assert len(first.reads) < 12  # it stopped with its reader
        second = one.listener.snapshots[1, 10] = Source(state)
        assert got + await received(two, 1, offset=len(got)) == state
        assert second.reads[0][0] == len(got)


async def test_an_offset_at_the_end_is_nothing_and_one_behind_it_is_refused() -> None:
    async with peers(1, 2) as (one, two):
        one.listener.snapshots[1, 10] = Source(content(100))
        assert await received(two, 1, offset=100) == b""
        one.listener.snapshots[1, 10] = refused = Source(content(100))
        with pytest.raises(InvalidArgument):
            await received(two, 1, offset=101)
        await eventually(lambda: refused.closed == 1)


async def test_a_snapshot_dropped_in_the_middle_is_read_to_its_end() -> None:
    async with peers(1, 2) as (one, two):
        source = one.listener.snapshots[1, 10] = Source(content(4 * MIB))
        got = b""
        async for chunk in two.transport.fetch_snapshot(1, 1, 10, 0):
            one.listener.snapshots.clear()
            got += chunk
        assert got == source.state
        with pytest.raises(SnapshotNotFound):
            await received(two, 1)


async def test_a_snapshot_that_is_gone_and_one_that_ends_early_are_typed() -> None:
    async with peers(1, 2) as (one, two):
        with pytest.raises(SnapshotNotFound) as gone:
            await received(two, 1, index=11)
        assert gone.value.facts == {"group": "1", "index": "11"}
        short = one.listener.snapshots[1, 10] = Source(content(100))
        short.snapshot = replace(short.snapshot, size=200)
        with pytest.raises(LogDamaged):
            await received(two, 1)
        await eventually(lambda: short.closed == 1)


async def test_a_reader_of_another_store_or_cluster_is_refused() -> None:
    async with peers(1, 2, 3) as (one, two, three):
        one.listener.snapshots[1, 10] = Source(content(100))
        right = one.addresses[1]
        one.addresses[1] = one.addresses[3]  # another store has the address now
        with pytest.raises(StoreMismatch):
            await received(two, 1)
        one.addresses[1] = right
        assert await received(two, 1) == content(100)  # resolved again
        three.transport._fetches._cluster_id = "another"
        with pytest.raises(ClusterMismatch):
            await received(three, 1)
        assert len(one.listener.opened) == 1


async def test_a_store_that_listens_to_nobody_yet_is_not_ready() -> None:
    async with peers(1, 2) as (one, two):
        one.transport._listener = None
        with pytest.raises(NotReady):
            await received(two, 1)


async def test_a_peer_killed_in_the_middle_is_an_error_of_the_tree() -> None:
    async with peers(2) as (two,):
        child = Child(1)
        await child.start(two.addresses, snapshot_bytes=64 * MIB)
        got = 0

        async def read_and_kill() -> None:
            nonlocal got
            async for chunk in two.transport.fetch_snapshot(1, 1, 10, 0):
                got += len(chunk)
                if child.process.returncode is None:
                    child.process.kill()
                    await child.process.wait()

        with pytest.raises(SteleError):
            await read_and_kill()
        assert 0 < got < 64 * MIB
        await child.stop()
        with pytest.raises(SteleError):
            await received(two, 1)


async def test_a_peer_that_stalls_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "STALL_TIMEOUT_S", 0.5)
    async with peers(2) as (two,):
        child = Child(1)
        await child.start(two.addresses, snapshot_bytes=64 * MIB)

        async def read_and_stop() -> None:
            async for _ in two.transport.fetch_snapshot(1, 1, 10, 0):
                child.process.send_signal(signal.SIGSTOP)

        try:
            with pytest.raises(Timeout):
                await read_and_stop()
        finally:
            await child.stop()


async def test_a_slow_reader_holds_the_sender_back_and_gets_everything() -> None:
    async with peers(1, 2) as (one, two):
        source = one.listener.snapshots[1, 10] = Source(content(24 * MIB))
        got, ahead = 0, []
        async for chunk in two.transport.fetch_snapshot(1, 1, 10, 0):
            got += len(chunk)
            if got <= 2 * MIB:
                await asyncio.sleep(0.05)
            ahead.append(len(source.reads) * CHUNK_BYTES_MAX - got)
        assert got == len(source.state)
        assert max(ahead) <= 4 * MIB, max(ahead)


async def test_a_reader_that_takes_nothing_is_given_up_and_the_source_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "READER_TIMEOUT_S", 0.3)
    async with peers(1, 2) as (one, two):
        source = one.listener.snapshots[1, 10] = Source(content(24 * MIB))
        chunks = two.transport.fetch_snapshot(1, 1, 10, 0)
        await anext(chunks)
        await eventually(lambda: source.closed == 1)
        with pytest.raises(SteleError):
            [chunk async for chunk in chunks]


async def test_a_cancelled_transfer_closes_its_source_behind_the_read_under_way() -> None:
    async with peers(1, 2) as (one, two):
        source = one.listener.snapshots[1, 10] = Source(content(MIB), slow_s=0.3)
        task = asyncio.create_task(received(two, 1))
        await eventually(lambda: one.listener.opened)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: source.closed == 1)  # Source itself asserts that nothing reads after close
        assert len(source.reads) <= 2


async def test_transfers_from_a_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "SERVED_MAX", 2)
    async with peers(1, 2) as (one, two):
        for index in (10, 11, 12):
            one.listener.snapshots[1, index] = Source(content(MIB), slow_s=0.2)
        results = await asyncio.gather(*(received(two, 1, index) for index in (10, 11, 12)), return_exceptions=True)
        assert sorted(type(r).__name__ for r in results) == ["Overloaded", "bytes", "bytes"]
        assert Overloaded.retryable
        one.listener.snapshots[1, 12] = Source(content(MIB))
        assert await received(two, 1, 12) == content(MIB)


async def test_transfers_to_a_store_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peers(1, 2) as (one, two):
        sources = [Source(content(MIB), slow_s=0.02) for _ in range(12)]
        for index, source in enumerate(sources):
            one.listener.snapshots[1, index] = source
        most = 0

        async def count() -> None:
            nonlocal most
            while True:
                most = max(most, sum(bool(s.reads) and not s.closed for s in sources))
                await asyncio.sleep(0.005)

        counting = asyncio.create_task(count())
        assert await asyncio.gather(*(received(two, 1, i) for i in range(12))) == [content(MIB)] * 12
        counting.cancel()
        assert 1 < most <= snapshot_transfer.FETCHED_MAX + 1, most


async def test_h16_heartbeats_flow_during_a_large_transfer() -> None:
    """Both ends are in a long transfer and in nothing else: neither is silent to the other, and messages go through."""
    size = 200 * MIB
    async with peers(2) as (two,):
        child = Child(1)
        await child.start(two.addresses, snapshot_bytes=size)
        try:
            two.transport.use(1)
            await eventually(lambda: two.transport.is_connected(1))
            answered: list[float] = []
            two.listener.on_message = lambda sender, message: answered.append(time.monotonic())

            async def ask() -> None:
                while True:
                    two.say(1, 1)
                    await asyncio.sleep(0.05)

            asking = asyncio.create_task(ask())
            began, got = time.monotonic(), 0
            async for chunk in two.transport.fetch_snapshot(1, 1, 10, 0):
                got += len(chunk)
            took = time.monotonic() - began
            asking.cancel()
            assert got == size
            during = [began, *(at for at in answered if began <= at <= began + took), began + took]
            print(
                f"{size >> 20} MiB in {took:.2f} s, {len(during) - 2} answers, longest gap {max(b - a for a, b in pairwise(during)):.3f} s"
            )
            assert len(during) - 2 >= took / 0.05 / 4
            assert two.listener.count("silent") == 0
            assert "silent 2" not in child.told
            assert [e for e, _ in two.listener.events] == ["connected"]
        finally:
            await child.stop()
