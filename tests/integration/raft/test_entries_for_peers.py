"""Entries for a peer whose copy of them is damaged, over real gRPC and real files."""

from __future__ import annotations

from pathlib import Path

from stele.services.errors import GroupNotFound, NotReady
from stele.services.raft.registry import Registry
from tests.integration.raft.stores import Stores
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


async def test_p39_a_peer_is_given_committed_entries_alone(tmp_path: Path) -> None:
    folders = iter((tmp_path / "1", tmp_path / "2"))

    async def scenario(kind: type[Registry]) -> None:
        async with Stores(next(folders)) as stores:
            await stores.group(1)
            leader = await stores.leader(1)
            await leader.propose(b"committed")
            committed = leader.last_index
            others = [s for s in stores.stores.values() if s.store_id != leader.store_id]
            registry = stores.stores[leader.store_id].registry
            [given] = await others[0].transport.fetch_entries(leader.store_id, 1, committed, committed)
            assert given.payload == b"committed"
            for other in others:
                await other.stop()
            pending = leader.propose(b"not committed")
            pending.add_done_callback(lambda done: done.cancelled() or done.exception())
            await eventually(lambda: leader.journal.synced_index > committed)
            with promise("only committed entries take the place of damaged ones"):
                found = await kind.read_entries(registry, 1, committed, committed + 1)
                assert [entry.index for entry in found] == [committed]
                try:
                    found = await kind.read_entries(registry, 1, committed + 1, committed + 1)
                except NotReady:
                    found = []
                assert found == []
            try:
                await registry.read_entries(2, 1, 1)
            except GroupNotFound:
                return
            raise AssertionError("there is no group 2")

    await holds_and_mutant_fails(scenario, Registry, "groups.GivesWhatIsNotCommitted")
