"""F3: one group, one replica; deleted for good."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from pathlib import Path

import pytest
import structlog

from stele.services.errors import GroupDirectoryBusy, GroupStopped, ProposalLost, SteleError, StorageFailed
from stele.services.raft import registry as registry_module
from stele.services.raft.registry import Registry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.raft.lone import FAST, Commands, Opener, open_files_below, registry


async def test_r3_1_concurrent_creates_give_one_instance_and_open_once(tmp_path: Path) -> None:
    async def scenario(kind: type[Registry]) -> None:
        opened = Opener()
        groups = registry(kind, tmp_path / kind.__name__, opened)
        try:
            made = await asyncio.gather(*(groups.create(1, [1], Commands()) for _ in range(20)), return_exceptions=True)
            with promise("one group on a store has one replica"):
                assert all(m is made[0] for m in made)
                assert len(opened.opened) == 1
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.Ungated")


async def test_r3_1_locks_of_different_groups_do_not_wait_for_one_another(tmp_path: Path) -> None:
    groups = registry(Registry, tmp_path)
    try:
        async with groups._locks.hold(1):
            await asyncio.wait_for(groups.create(2, [1], Commands()), 5)
        assert len(groups._locks) == 0
    finally:
        await groups.close()


async def test_r3_2_stopping_one_instance_does_not_unregister_its_successor(tmp_path: Path) -> None:
    async def scenario(kind: type[Registry]) -> None:
        groups = registry(kind, tmp_path / kind.__name__)
        try:
            await groups.create(1, [1], Commands())
            stopping = asyncio.create_task(groups.stop_group(1))
            await eventually(lambda: groups.get(1) is None or 1 in groups._locks)
            successor = None
            while successor is None:
                with contextlib.suppress(GroupDirectoryBusy):
                    successor = await groups.create(1, [1], Commands())
            await stopping
            with promise("a late stop does not take its successor out"):
                assert groups.get(1) is successor
            await eventually(lambda: successor.is_leader)
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.UnregistersByName")


async def test_r3_3_delete_during_create_waits_and_deletes_what_was_created(tmp_path: Path) -> None:
    async def scenario(kind: type[Registry]) -> None:
        may_return = threading.Event()
        opened = Opener(may_return, looks=False)
        groups = registry(kind, tmp_path / kind.__name__, opened)
        try:
            creating = asyncio.create_task(groups.create(1, [1], Commands()))
            await eventually(lambda: opened.open)
            deleting = asyncio.create_task(groups.delete(1))
            await asyncio.wait({deleting}, timeout=2)  # by then it waits for the creation, or, if it does not, is over
            may_return.set()
            await deleting
            with contextlib.suppress(SteleError):
                await creating
            with promise("one group on a store has one replica"):
                assert groups.get(1) is None
                assert not groups.path(1).exists()
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.Ungated")


async def test_r3_3_create_during_delete_waits_and_creates_anew(tmp_path: Path) -> None:
    async def scenario(kind: type[Registry]) -> None:
        groups = registry(kind, tmp_path / kind.__name__)
        try:
            first = await groups.create(1, [1], Commands())
            await eventually(lambda: first.is_leader)
            await first.propose(b"old")
            deleting = asyncio.create_task(groups.delete(1))
            await asyncio.sleep(0)
            with promise("one group on a store has one replica"):
                anew = Commands()
                second = await groups.create(1, [1], anew)
                await deleting
                assert groups.get(1) is second
                assert second is not first
                await eventually(lambda: second.is_leader)
                await second.propose(b"new")
                assert anew.applied == [b"new"]
                assert groups.path(1).is_dir()
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.Ungated")


async def test_r3_4_nothing_of_a_deleted_group_is_left(tmp_path: Path) -> None:
    async def scenario(kind: type[Registry]) -> None:
        groups = registry(kind, tmp_path / kind.__name__, Opener(looks=False))
        try:
            group = await groups.create(1, [1], Commands())
            await eventually(lambda: group.is_leader)
            proposals = [group.propose(b"x" * 1000) for _ in range(200)]
            await groups.delete(1)
            ended = await asyncio.gather(*proposals, return_exceptions=True)
            assert all(isinstance(e, int | ProposalLost) for e in ended)
            assert not groups.path(1).exists()
            with promise("nothing of a group is left once it is deleted"):
                assert open_files_below(groups.root.parent) == []
                assert groups.trash.is_dir()
                [kept] = groups.trash.iterdir()
                assert any(kept.iterdir()), "whole, for whoever wants it back"
                with pytest.raises(GroupStopped):
                    await group.propose(b"late")
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.RemovesFirst")


async def test_r3_7_a_group_whose_directory_vanished_stops_itself_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "DIRECTORY_CHECK_S", 0.05)

    async def scenario(kind: type[Registry]) -> None:
        groups = registry(kind, tmp_path / kind.__name__)
        try:
            group = await groups.create(1, [1], Commands())
            await eventually(lambda: group.is_leader)
            await group.propose(b"writes go on into the file that was moved away")
            groups.path(1).rename(tmp_path / f"elsewhere-{kind.__name__}")
            with structlog.testing.capture_logs() as logged:
                with promise("a group whose directory vanished stops itself"):
                    await eventually(lambda: group.state == "failed", within_s=3)
                await asyncio.sleep(0.2)
            assert [e["event"] for e in logged].count("group_directory_vanished") == 1
            assert groups._vanished._value.get() == 1
            with pytest.raises(GroupStopped):
                await group.propose(b"x")
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, "groups.NeverLooks")


@pytest.mark.parametrize("mutant", ["groups.RemovesFirst", "groups.Ungated"])
async def test_r3_9_a_storm_of_creates_and_deletes_leaves_only_the_survivors(tmp_path: Path, mutant: str) -> None:
    """1,000 groups, 32 callers, traffic; afterwards no task, directory, open file or log line beyond the survivors'."""

    async def scenario(kind: type[Registry]) -> None:
        rng = random.Random(5)
        groups = registry(kind, tmp_path / kind.__name__)
        before = asyncio.all_tasks()
        todo = list(range(1, 1001))
        survivors = {i for i in todo if i % 100 == 0}
        machines = {i: Commands() for i in todo}

        async def caller() -> None:
            while todo:
                number = todo.pop()
                rivals = [groups.create(number, [1], machines[number]) for _ in range(2)]
                with promise("one group on a store has one replica"):
                    group, same = await asyncio.gather(*rivals)
                    assert group is same
                with contextlib.suppress(SteleError):
                    await group.propose(b"traffic")
                if number not in survivors:
                    if rng.random() < 0.5:
                        await asyncio.gather(groups.delete(number), groups.delete(number))
                    else:
                        await groups.delete(number)

        try:
            with structlog.testing.capture_logs() as meanwhile:
                await asyncio.gather(*(caller() for _ in range(32)))
            with promise("nothing of a group is left once it is deleted"):
                assert [e for e in meanwhile if e["event"] == "group_directory_vanished"] == [], (
                    "something ran on above it"
                )
            with structlog.testing.capture_logs() as logged:
                await asyncio.sleep(3 * FAST.election_max_s)
            assert {g.group_id for g in groups.groups()} == survivors
            with promise("nothing of a group is left once it is deleted"):
                assert {int(p.name) for p in groups.root.iterdir()} == survivors
                assert [e for e in logged if e.get("group") not in survivors] == []
                assert {Path(f).parent.name for f in open_files_below(groups.root)} <= {str(s) for s in survivors}
                assert len(asyncio.all_tasks() - before) <= 1, "the watcher of directories alone"
        finally:
            await groups.close()

    await holds_and_mutant_fails(scenario, Registry, mutant)


async def test_a_directory_that_cannot_be_moved_into_the_trash_is_a_typed_error_and_stays(tmp_path: Path) -> None:
    groups = registry(Registry, tmp_path / "groups")
    try:
        await groups.create(1, [1], Commands())
        groups.trash = tmp_path / "trash"
        groups.trash.touch()  # no folder, and none can be made there
        with pytest.raises(StorageFailed):
            await groups.delete(1)
        assert groups.path(1).is_dir()
        groups.trash.unlink()
        assert await groups.delete(1)
        assert not groups.path(1).exists()
    finally:
        await groups.close()
