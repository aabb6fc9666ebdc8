"""The ready gate, each rule of F4 both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stele.datanode.gate import Gate
from stele.datanode.role import Datanode, Parts
from stele.datanode.store import Store
from stele.services.coordination.members import live
from stele.services.errors import LogDamaged, NotReady
from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import ELECTION_MAX_S, Cluster, Node, cluster
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import unique_cluster_name
from tests.unit.datanode.entries import make_batch

Opener = Callable[[], contextlib.AbstractAsyncContextManager[Cluster]]


@pytest.fixture
def fresh(tmp_path: Path, zk_hosts: str) -> Opener:
    """Opens a cluster of its own, each time it is called."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Cluster]:
        name = unique_cluster_name()
        async with cluster(tmp_path / name, zk_hosts, name) as made:
            yield made

    return opened


class Hold:
    """Keeps groups from being opened until they are let go."""

    def __init__(self, store_type: type[Store] = Store, *held: int) -> None:
        self.held = set(held)
        self.opening: set[int] = set()
        self.most_at_once = 0
        self._store_type = store_type
        self._let_go = asyncio.Event()

    def let_go(self) -> None:
        self.held.clear()
        self._let_go.set()

    def store(self, directory: Any, registry: Any, disk: Any, entry_bytes_max: int) -> Store:
        create = registry.create

        async def held_create(group_id: int, members: Any, machine: Any) -> Any:
            self.opening.add(group_id)
            self.most_at_once = max(self.most_at_once, len(self.opening))
            try:
                if group_id in self.held:
                    await self._let_go.wait()
                return await create(group_id, members, machine)
            finally:
                self.opening.discard(group_id)

        registry.create = held_create
        return self._store_type(directory, registry, disk, entry_bytes_max)


async def is_listening(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


@contextlib.contextmanager
def sampled(sample: Callable[[], Any]) -> Iterator[None]:
    """Calls ``sample`` over and over; what it raises is raised at the end."""

    async def run() -> None:
        while True:
            outcome = sample()
            if asyncio.iscoroutine(outcome):
                await outcome
            await asyncio.sleep(0.005)

    task = asyncio.ensure_future(run())
    try:
        yield
    finally:
        failed = task.done() and not task.cancelled() and task.exception()
        task.cancel()
        if failed:
            raise failed


async def three_with_groups(made: Cluster, groups: int = 2) -> list[Node]:
    nodes = await made.start(3)
    for group in range(1, groups + 1):
        await made.create(group, partition=group - 1)
        await made.appended(group, make_batch(2))
        await made.replicated(group, 2)
    return nodes


async def stop_all(nodes: list[Node]) -> None:
    await asyncio.gather(*(node.stop() for node in nodes))


# --- R4.1 -------------------------------------------------------------------------------------------------------------


async def test_r4_1_port_is_closed_until_the_last_group_is_loaded(fresh: Opener) -> None:
    async def scenario(gate: type[Gate]) -> None:
        async with fresh() as made:
            [_, _, dn3] = await three_with_groups(made)
            await dn3.stop()
            hold = Hold(Store, 2)
            await dn3.start(Parts(gate=gate, store=hold.store), ready=False)
            await eventually(lambda: dn3.store.loaded == 1 and 2 in hold.opening)
            for _ in range(20):
                with promise("the client port is closed while groups load"):
                    assert not await is_listening(dn3.endpoint), "clients can reach a node that is still loading"
                await asyncio.sleep(0.01)
            hold.let_go()
            await dn3.ready()
            assert await is_listening(dn3.endpoint)
            assert len((await dn3.fetch(2, 0)).batches) == 1

    await holds_and_mutant_fails(scenario, Gate, "gate.OpensPortFirst")


async def test_r4_1_port_is_closed_until_every_group_has_caught_up(fresh: Opener) -> None:
    async def scenario(gate: type[Gate]) -> None:
        async with fresh() as made:
            [_, _, dn3] = await three_with_groups(made, groups=1)
            await dn3.stop()
            for _ in range(20):
                await made.appended(1, make_batch(5))
            await dn3.start(Parts(gate=gate), ready=False)
            at_opening: list[int] = []

            def note(_: object) -> None:
                if dn3.runtime.ready.holds("port") and not at_opening:
                    at_opening.append(dn3.store.replicas[1].partition.high_watermark)

            dn3.runtime.ready.subscribe(note)
            await dn3.ready()
            with promise("the client port is closed until every group has caught up"):
                assert at_opening == [102], "the port opened on a replica that lacks what was committed before"

    await holds_and_mutant_fails(scenario, Gate, "gate.SkipsCatchingUp")


# --- R4.2 -------------------------------------------------------------------------------------------------------------


async def test_r4_2_nobody_leads_behind_a_closed_port(fresh: Opener) -> None:
    async def scenario(gate: type[Gate]) -> None:
        async with fresh() as made:
            nodes = await three_with_groups(made)
            await stop_all(nodes)
            hold = Hold(Store, 2)

            def nobody_leads_unreachably() -> None:
                for node in nodes:
                    if hasattr(node.role, "store") and not node.runtime.ready.holds("port"):
                        led = [g.group_id for g in node.store.registry.groups() if g.is_leader]
                        with promise("nobody leads behind a closed port"):
                            assert not led, f"{node.name} leads {led} and refuses every connection"

            with sampled(nobody_leads_unreachably):
                for node in nodes:
                    await node.start(Parts(gate=gate, store=hold.store), ready=False)
                await eventually(lambda: all(n.store.registry.get(1) is not None for n in nodes))
                await asyncio.sleep(4 * ELECTION_MAX_S)
                hold.let_go()
                for node in nodes:
                    await node.ready()
                await made.leader(1)
                await made.leader(2)

    await holds_and_mutant_fails(scenario, Gate, "gate.CampaignsWhileLoading")


async def test_r4_2_a_loading_node_does_not_take_leadership_over(fresh: Opener) -> None:
    async def scenario(gate: type[Gate]) -> None:
        async with fresh() as made:
            [_, _, dn3] = await three_with_groups(made)
            await dn3.stop()
            hold = Hold(Store, 2)
            await dn3.start(Parts(gate=gate, store=hold.store), ready=False)
            leader = await made.leader(1)
            await eventually(lambda: (g := dn3.store.registry.get(1)) is not None and g.applied_index > 1)
            for _ in range(20):
                leader.store.registry.get(1).engine.transfer_leadership(to=dn3.store_id)
                leader.store.registry._ticker.wake(leader.store.registry.get(1))
                await asyncio.sleep(0.02)
                with promise("nobody leads behind a closed port"):
                    assert not dn3.store.registry.get(1).is_leader, "a node that is loading took the leadership over"
            hold.let_go()
            await dn3.ready()

    await holds_and_mutant_fails(scenario, Gate, "gate.CampaignsWhileLoading")


# --- R4.3 -------------------------------------------------------------------------------------------------------------


async def test_r4_3_a_whole_cluster_starts_cold(fresh: Opener) -> None:
    async def scenario(gate: type[Gate]) -> None:
        async with fresh() as made:
            nodes = await three_with_groups(made)
            await stop_all(nodes)
            await asyncio.gather(*(node.start(Parts(gate=gate), ready=False) for node in nodes))
            with promise("a whole cluster starts cold"):
                await asyncio.gather(*(node.ready(within_s=6) for node in nodes))
            [stored] = await made.appended(1, make_batch())
            assert stored.base_offset == 2

    await holds_and_mutant_fails(scenario, Gate, "gate.WaitsForALeader")


async def test_r4_3_one_node_alone_opens_its_gate(fresh: Opener) -> None:
    """Its peers are down: nothing can be committed anywhere, so there is nothing to catch up with."""
    async with fresh() as made:
        nodes = await three_with_groups(made)
        await stop_all(nodes)
        await nodes[0].start(within_s=10)
        assert len((await nodes[0].fetch(1, 0)).batches) == 0
        await nodes[1].start(within_s=10)
        [stored] = await made.appended(1, make_batch())
        assert stored.base_offset == 2


# --- R4.4 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", ["gate.LoadsAllAtOnce", "gate.LoadsOneByOne"])
async def test_r4_4_groups_load_in_parallel_within_the_bound(fresh: Opener, mutant: str) -> None:
    async def scenario(store: type[Store]) -> None:
        async with fresh() as made:
            [node] = await made.start(1, load_parallelism=3)
            for group in range(1, 9):
                await made.create(group, partition=group - 1)
            await node.stop()
            hold = Hold(store, *range(1, 9))
            await node.start(Parts(store=hold.store), ready=False)
            with promise("groups load in parallel"):
                await eventually(lambda: len(hold.opening) >= 3, within_s=3)
            await asyncio.sleep(0.1)
            hold.let_go()
            await node.ready()
            with promise("no more groups load at once than the bound allows"):
                assert hold.most_at_once == 3

    await holds_and_mutant_fails(scenario, Store, mutant)


async def test_r4_4_progress_is_shown(fresh: Opener) -> None:
    async with fresh() as made:
        [node] = await made.start(1)
        for group in range(1, 6):
            await made.create(group, partition=group - 1)
        await node.stop()
        hold = Hold(Store, 2, 4)
        await node.start(Parts(store=hold.store), ready=False)
        await eventually(lambda: ("loaded", False, "3/5") in node.runtime.ready.verbose())

        async def member_says(*wanted: object) -> bool:
            record = (await live(made.session, "datanodes"))["dn1"]
            return (record.state, record.loaded, record.total) == wanted

        await eventually(lambda: member_says("loading", 3, 5))
        metrics = node.runtime.registry
        assert metrics.get_sample_value("stele_groups_loaded") == 3
        assert metrics.get_sample_value("stele_groups_to_load") == 5
        hold.let_go()
        await node.ready()
        assert ("loaded", True, "5/5") in node.runtime.ready.verbose()
        await eventually(lambda: member_says("ready", 5, 5))


# --- R4.5 -------------------------------------------------------------------------------------------------------------


def damage_log(node: Node, group: int) -> None:
    """Changes a byte in the middle of what the group has stored."""
    [segment] = (Path(node.config.data_dir) / "groups" / str(group)).glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)


@pytest.mark.parametrize("mutant", ["gate.StopsAtDamage", "gate.DeletesDamage"])
async def test_r4_5_a_damaged_group_is_set_aside_and_the_node_serves(fresh: Opener, mutant: str) -> None:
    async def scenario(store: type[Store]) -> None:
        async with fresh() as made:
            [_, _, dn3] = await three_with_groups(made)
            for _ in range(10):
                await made.appended(1, make_batch(size=500))
            await made.replicated(1, 12)
            await dn3.stop()
            before = (Path(dn3.config.data_dir) / "groups" / "1").glob("*.seg")
            damage_log(dn3, 1)
            (Path(dn3.config.data_dir) / "groups" / "1" / "term").write_bytes(b"and its vote is not readable either")
            damaged = {path.name: path.read_bytes() for path in before}
            with promise("one damaged group does not hold the node"):
                await dn3.start(Parts(store=store))
                assert (await dn3.fetch(2, 0)).high_watermark == 2
            aside = Path(dn3.config.data_dir) / "quarantine" / "1-1"
            kept = {path.name: path.read_bytes() for path in aside.glob("*.seg")}
            with promise("a damaged group is set aside, never deleted"):
                assert kept == damaged
            with pytest.raises(LogDamaged):
                await dn3.fetch(1, 0)
            with pytest.raises(LogDamaged):  # an empty voter in its place would have forgotten its votes
                await dn3.call("CreateReplica", made.create_request(1, list(made.nodes.values()), dn3.store_id))
            await said_quarantined(dn3)
            await dn3.stop()
            await dn3.start(Parts(store=store))
            await said_quarantined(dn3)
            await made.appended(1, make_batch())

    async def said_quarantined(node: Node) -> None:
        async for status in node.stub.WatchStore(pb.WatchStoreRequest()):
            [replica] = [r for r in status.replicas if r.group == 1]
            assert (replica.state, replica.topic) == ("quarantined", "test/orders")
            assert "1" in replica.problem
            break

    await holds_and_mutant_fails(scenario, Store, mutant)


async def test_r4_5_a_damaged_group_gets_its_log_back_from_its_peers(fresh: Opener) -> None:
    async with fresh() as made:
        [dn1, _, dn3] = await three_with_groups(made)
        for _ in range(10):
            await made.appended(1, make_batch(size=500))
        await made.replicated(1, 12)
        await dn3.stop()
        damage_log(dn3, 1)
        await dn3.start(Parts())

        async def whole() -> bool:
            assert (await dn3.fetch(1, 0)).high_watermark == 12
            return state_of(dn3, 1) == "follower"

        await eventually(whole)
        assert (Path(dn3.config.data_dir) / "quarantine" / "1-1.rebuilt").is_dir()
        await dn3.stop()
        await dn3.start(Parts())
        await eventually(lambda: state_of(dn3, 1) in ("follower", "leader"))
        await dn1.stop()  # and it counts again: two of three go on
        await made.appended(1, make_batch())


def state_of(node: Node, group: int) -> str:
    return str(node.store.replicas[group].state)


# --- R4.6 -------------------------------------------------------------------------------------------------------------


async def test_r4_6_a_loading_node_is_alive_to_the_control_plane(fresh: Opener) -> None:
    async def scenario(role: type[Datanode]) -> None:
        async with fresh() as made:
            [_, _, dn3] = await three_with_groups(made)
            await dn3.stop()
            hold = Hold(Store, 2)
            dn3.role_type = role
            await dn3.start(Parts(store=hold.store), ready=False)
            await eventually(lambda: dn3.store.loaded == 1)
            record = (await live(made.session, "datanodes")).get("dn3")
            with promise("a loading node shows itself as alive"):
                assert record is not None, "a node that loads is not among the living"
            assert (record.state, record.endpoint, record.store_id) == ("loading", dn3.endpoint, dn3.store_id)
            hold.let_go()
            await dn3.ready()

            async def says_ready() -> bool:
                after = (await live(made.session, "datanodes"))["dn3"]
                assert after.endpoint == record.endpoint
                return after.state == "ready"

            await eventually(says_ready)

    await holds_and_mutant_fails(scenario, Datanode, "gate.RegistersWhenReady")


# --- R4.7 -------------------------------------------------------------------------------------------------------------


async def test_r4_7_an_unready_replica_says_so(fresh: Opener) -> None:
    async def scenario(store: type[Store]) -> None:
        async with fresh() as made:
            hold = Hold(store, 1)
            node = made.node("dn1")
            await node.start(Parts(store=hold.store))
            creating = asyncio.create_task(made.create(1))
            await eventually(lambda: 1 in hold.opening)
            for attempt in (
                lambda: node.append(1, make_batch()),
                lambda: node.fetch(1, 0),
                lambda: node.fetch(1, 0, max_wait_ms=5_000),
                lambda: node.call("Fence", pb.FenceRequest(group=1, owner_epoch=1)),
                lambda: node.call("ListCursors", pb.ListCursorsRequest(group=1)),
            ):
                answer = (await asyncio.gather(asyncio.wait_for(attempt(), 2), return_exceptions=True))[0]
                with promise("an unready replica says so"):
                    assert isinstance(answer, NotReady), f"a replica that is not loaded answered: {answer!r}"
                assert int(answer.facts["retry_after_ms"]) > 0
            hold.let_go()
            await creating
            assert (await made.appended(1, make_batch()))[0].base_offset == 0

    await holds_and_mutant_fails(scenario, Store, "gate.AnswersWhileLoading")


# --- R4.8 -------------------------------------------------------------------------------------------------------------


async def test_r4_8_draining_hands_over_then_leaves_then_closes(fresh: Opener) -> None:
    async def scenario(role: type[Datanode]) -> None:
        async with fresh() as made:
            nodes = await three_with_groups(made, groups=3)
            leader = await made.leader(1)
            await leader.stop()
            leader.role_type = role
            await leader.start()
            groups = [leader.store.registry.get(g) for g in (1, 2, 3)]

            def ask_for_leadership() -> bool:
                for node in nodes:
                    for group in node.store.registry.groups():
                        if group.is_leader and node is not leader:
                            group.engine.transfer_leadership(to=leader.store_id)
                            node.store.registry._ticker.wake(group)
                return all(g.is_leader for g in groups)

            await eventually(ask_for_leadership)
            endpoint = leader.endpoint

            async def in_order() -> None:
                listening = await is_listening(endpoint)
                registered = await made.session.get(f"members/datanodes/{leader.name}") is not None
                leads = any(g.is_leader for g in groups)
                with promise("a node that drains hands leadership over before its port closes"):
                    assert registered or not leads, "it has left the cluster and still leads"
                    assert listening or not leads, "its port is closed and it still leads"

            # At the moment it hands over, and all the while: a handover is short.
            hand_over = leader.store.registry.transfer_all

            async def looked_at(deadline_s: float) -> int:
                await in_order()
                return await hand_over(deadline_s)

            leader.store.registry.transfer_all = looked_at  # type: ignore[method-assign]
            with sampled(in_order):
                assert leader.role is not None
                await leader.role.drain()
            assert not any(g.is_leader for g in groups)
            assert leader.name not in await live(made.session, "datanodes")
            assert not await is_listening(endpoint)
            await leader.stop()
            await made.appended(1, make_batch())

    await holds_and_mutant_fails(scenario, Datanode, "gate.ClosesPortFirst")
