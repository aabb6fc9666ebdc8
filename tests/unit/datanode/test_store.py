"""A store and its replicas: what cannot be read is not absent, what fails is tried again, what is deleted stays so."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog

from stele.datanode import directory, reopening
from stele.datanode.directory import DataDirectory, GroupSpec
from stele.datanode.disk import Disk
from stele.datanode.folder_watch import FolderWatch
from stele.datanode.log import TermFile
from stele.datanode.reopening import Reopening
from stele.datanode.storage import opener
from stele.datanode.store import Mandate, Store
from stele.datanode.watch import status_of
from stele.nameserver.catalog import Catalog, TopicEntry, TopicState
from stele.nameserver.effects import DeleteReplica
from stele.nameserver.reconcile import plan
from stele.nameserver.reports import merge
from stele.nameserver.strays import set_apart
from stele.services.backoff import Backoff
from stele.services.errors import GroupNotFound, InvalidArgument, LogDamaged, SteleError, StorageFailed, TopicMismatch
from stele.services.files import File, OsFileSystem
from stele.services.intervals import IntervalSet
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.registry import Registry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch
from tests.unit.raft.lone import FAST, NoLinks

SPEC = GroupSpec(7, "a/b", 0, (1,), topic_id=3)
OTHER = GroupSpec(8, "a/b", 1, (1,), topic_id=3)
MANDATE = Mandate("c", 1, 1)


class Descriptors(OsFileSystem):
    """Files can be opened, but for ``missing`` segments."""

    missing = 0

    def open(self, path: Path) -> File:
        if self.missing and path.suffix == ".seg":
            self.missing -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return super().open(path)

    def create(self, path: Path) -> File:
        if self.missing and ".seg" in path.suffixes:
            self.missing -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return super().create(path)


@asynccontextmanager
async def running(
    path: Path,
    kind: type[Store] = Store,
    files: Descriptors | None = None,
    segment_bytes: int = 1 << 20,
    directory_kind: type[DataDirectory] = DataDirectory,
) -> AsyncIterator[Store]:
    """A store that has loaded what ``path`` holds."""
    opened = directory_kind(path)
    if not opened.identity.store_id:
        opened.record_registration(1, "c")
    disk = Disk(opened, 0)
    await disk.look()
    opens = opener(segment_bytes, 0, files)
    registry = Registry(
        1, opened.groups_path, NoLinks(), opens, observed_ms=lambda: 0, rng=random.Random(1), timing=FAST
    )
    store = kind(opened, registry, disk, 1 << 16)
    try:
        await store.load(4)
        registry.may_lead = True
        store.enter("ready")
        yield store
    finally:
        await store.close()
        opened.close()


async def leads(store: Store, group: int = 7) -> None:
    await eventually(lambda: (r := store.replicas.get(group)) is not None and r.state == "leader")


async def written(path: Path, *specs: GroupSpec) -> None:
    """A store on which each group holds one acknowledged message."""
    async with running(path) as store:
        for spec in specs or (SPEC,):
            assert await store.create(spec, MANDATE)
            await leads(store, spec.group)
            await store.replicas[spec.group].append(1, [make_batch()])


async def holds_its_message(store: Store, group: int = 7) -> None:
    await leads(store, group)
    replica = store.replicas[group]
    await eventually(lambda: replica.group is not None and replica.group.applied_index == replica.group.last_index)
    assert replica.partition.high_watermark == 1


def make_unreadable(path: Path) -> None:
    """Reading it is an error that is no absence."""
    path.rename(path.with_name("aside"))
    path.mkdir()


def make_readable(path: Path) -> None:
    path.rmdir()
    path.with_name("aside").rename(path)


# --- what cannot be read --------------------------------------------------------------------------------------------


async def test_p1_an_order_to_create_destroys_no_replica_that_could_not_be_read(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await written(path)
        make_unreadable(path / "groups" / "7" / "group.json")
        files = Descriptors()
        async with running(path, kind, files) as store:
            make_readable(path / "groups" / "7" / "group.json")
            files.missing = 1
            for _ in range(2):  # as the leading nameserver repeats it
                with suppress(SteleError):
                    await store.create(SPEC, MANDATE)
        async with running(path, kind) as store:
            with promise("what a replica holds outlives trouble in reading it"):
                await holds_its_message(store)

    await holds_and_mutant_fails(scenario, Store, "store.ForgetsWhatItCannotRead")


async def test_p1_what_cannot_be_read_is_reported_as_failed(tmp_path: Path) -> None:
    await written(tmp_path, SPEC, OTHER)
    make_unreadable(tmp_path / "groups" / "7" / "group.json")
    async with running(tmp_path) as store:
        await holds_its_message(store, 8)
        failed, other = status_of(store).replicas
        assert (failed.group, failed.state, other.state) == (7, "failed", "leader")
        assert "group.json" in failed.problem
        with pytest.raises(StorageFailed, match=r"is here and failed.*group\.json"):
            await store.create(SPEC, MANDATE)
        with pytest.raises(StorageFailed):
            store.replica(7).running()


async def test_p1_a_folder_of_groups_that_cannot_be_listed_is_no_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(tmp_path)
    real = os.listdir

    def failing(path: Path) -> list[str]:
        if Path(path) == tmp_path / "groups":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(StorageFailed):
        async with running(tmp_path):
            pass


async def test_p1_a_folder_that_cannot_be_listed_is_not_taken_for_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(tmp_path)
    folder, real = tmp_path / "groups" / "7", os.listdir
    (folder / "group.json").rename(tmp_path / "group.json")

    def failing(path: Path) -> list[str]:
        if Path(path) == folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing)
        async with running(tmp_path) as store:
            assert store.replicas[7].state == "failed"
    (tmp_path / "group.json").rename(folder / "group.json")
    async with running(tmp_path) as store:
        await holds_its_message(store)


async def test_p1_a_create_that_fails_removes_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    files = Descriptors()
    async with running(tmp_path, files=files) as store:
        files.missing = 1
        with pytest.raises(StorageFailed):
            await store.create(SPEC, MANDATE)
        assert store.replicas == {}
        assert list((tmp_path / "groups").iterdir()) == []
        assert list((tmp_path / "trash").iterdir()) == []
        assert await store.create(SPEC, MANDATE)
        assert not await store.create(SPEC, MANDATE)


async def test_p2_a_create_that_cannot_be_taken_back_is_no_replica(tmp_path: Path) -> None:
    """What is reported once counts as lost when it is gone, and of this nothing may be left after a restart."""
    files = Descriptors()
    async with running(tmp_path, files=files) as store:
        make_unreadable(tmp_path / "trash")
        (tmp_path / "trash").rmdir()
        (tmp_path / "trash").touch()  # no folder: nothing can be moved into it
        files.missing = 1
        with pytest.raises(StorageFailed):
            await store.create(SPEC, MANDATE)
        assert (tmp_path / "groups" / "7").exists()
        assert not status_of(store).replicas
        (tmp_path / "trash").unlink()
        (tmp_path / "aside").rename(tmp_path / "trash")
        with suppress(StorageFailed):  # it may say that it has cleared away first
            await store.create(SPEC, MANDATE)
        await store.create(SPEC, MANDATE)
        await leads(store)


async def test_p2_a_replica_that_is_being_created_is_none_yet(tmp_path: Path) -> None:
    listed: list[int] = []

    class Watched(Descriptors):
        def create(self, path: Path) -> File:
            listed.extend(store.replicas)
            return super().create(path)

    async with running(tmp_path, files=Watched()) as store:
        await store.create(SPEC, MANDATE)
        assert (listed, list(store.replicas)) == ([], [7])


async def test_p1_a_folder_that_appears_is_opened_not_created_over(tmp_path: Path) -> None:
    await written(tmp_path)
    (tmp_path / "groups" / "7").rename(tmp_path / "away")
    async with running(tmp_path) as store:
        (tmp_path / "away").rename(tmp_path / "groups" / "7")
        assert not await store.create(SPEC, MANDATE)
        await holds_its_message(store)
        with pytest.raises(InvalidArgument, match="a/b-0"):
            await store.create(GroupSpec(7, "a/c", 0, (1,)), MANDATE)


async def test_p1_a_replica_of_which_only_the_name_is_left_promised_nothing(tmp_path: Path) -> None:
    """Neither log nor term: it is as absent as one whose folder is gone, and whoever creates it decides how it begins."""
    await written(tmp_path)
    for path in (tmp_path / "groups" / "7").iterdir():
        if path.name != "group.json":
            path.unlink()
    async with running(tmp_path) as store:
        assert not status_of(store).replicas


async def test_p1_a_log_that_is_gone_while_its_term_is_there_is_damage(tmp_path: Path) -> None:
    await written(tmp_path)
    for path in (tmp_path / "groups" / "7").glob("*.seg"):
        path.unlink()
    async with running(tmp_path) as store:
        [status] = status_of(store).replicas
        assert (status.state, "the log is gone" in status.problem) == ("quarantined", True)
        with pytest.raises(LogDamaged):
            await store.create(SPEC, MANDATE)


async def test_p1_too_few_descriptors_are_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(tmp_path, SPEC, OTHER)
    monkeypatch.setattr("stele.datanode.held.file_limit", lambda: 259)
    with structlog.testing.capture_logs() as said:
        async with running(tmp_path):
            pass
    [line] = [line for line in said if line["event"] == "too_few_file_descriptors"]
    assert (line["limit"], line["needed"], line["groups"]) == (259, 260, 2)


# --- what is tried again ----------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopening, "CHECK_S", 0.02)
    monkeypatch.setattr(reopening, "BACKOFF", Backoff(first_s=0.02, max_s=0.1))


@asynccontextmanager
async def looked_after(store: Store) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(Reopening(store, random.Random(1)).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("soon")
async def test_p26_a_replica_that_found_no_descriptor_runs_once_there_are_some(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path, files = tmp_path / kind.__name__, Descriptors()
        await written(path)
        files.missing = 3
        async with running(path, kind, files) as store:
            assert store.replicas[7].state == "failed"
            async with looked_after(store) as task:
                with promise("a replica that failed in passing trouble runs again"):
                    await eventually(lambda: task.done() or store.replicas[7].state == "leader")
                    await holds_its_message(store)

    await holds_and_mutant_fails(scenario, Store, "store.NeverTriesAgain")


@pytest.mark.usefixtures("soon")
async def test_p26_a_running_replica_that_finds_no_descriptor_runs_again(tmp_path: Path) -> None:
    """It needs one for its next segment; what was acknowledged before is there, and nothing twice."""
    files = Descriptors()
    async with running(tmp_path, files=files, segment_bytes=4096) as store:
        await store.create(SPEC, MANDATE)
        await leads(store)
        stored = 0
        async with looked_after(store):
            await store.replicas[7].append(1, [make_batch()])
            files.missing = 2
            while files.missing:
                await leads(store)
                with suppress(SteleError):
                    await store.replicas[7].append(1, [make_batch(1, producer_id=7, sequence=stored)])
                    stored += 1
            await leads(store)
            [again] = (await store.replicas[7].append(1, [make_batch(1, producer_id=7, sequence=stored - 1)])).results
            assert again.duplicate
            await eventually(lambda: store.replicas[7].partition.high_watermark == stored + 1)


@pytest.mark.usefixtures("soon")
async def test_p26_a_replica_whose_folder_vanishes_is_absent_until_it_is_back(tmp_path: Path) -> None:
    await written(tmp_path, SPEC, OTHER)
    async with running(tmp_path) as store, looked_after(store):
        await holds_its_message(store)
        (tmp_path / "groups" / "7").rename(tmp_path / "away")
        await eventually(lambda: [r.group for r in status_of(store).replicas] == [8], 10)
        with pytest.raises(GroupNotFound):
            store.replica(7)
        (tmp_path / "away").rename(tmp_path / "groups" / "7")
        await holds_its_message(store)


# --- what stands in the place of a folder -----------------------------------------------------------------------------


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("replaced", [".", "groups"])
async def test_a_folder_that_is_put_over_the_stores_is_taken_for_nothing(tmp_path: Path, replaced: str) -> None:
    async def scenario(kind: type[DataDirectory]) -> None:
        path = tmp_path / kind.__name__ / replaced.strip(".") / "store"
        await written(path)
        folder, away = path / replaced, tmp_path / f"{kind.__name__}-away"
        async with running(path, directory_kind=kind) as store, looked_after(store):
            await holds_its_message(store)
            watch = FolderWatch(store)
            folder.rename(away)
            (path / "groups").mkdir(parents=True)
            await watch.look()
            with promise("what stands in the place of a store's folder is taken for nothing"):
                for _ in range(20):  # it is tried again meanwhile
                    await asyncio.sleep(0.02)
                    [status] = status_of(store).replicas
                    assert (status.state, "not the folder any more" in status.problem) == ("failed", True)
                for members in ((1,), ()):
                    for group in (7, 8):
                        with pytest.raises(StorageFailed):
                            await store.create(dataclasses.replace(SPEC, group=group, members=members), MANDATE)
                with pytest.raises(StorageFailed):
                    await store.delete(7, 3, MANDATE)
                assert not list((path / "groups").iterdir())
        if (path / "groups") != folder:
            (path / "groups").rmdir()
        folder.rmdir()
        away.rename(folder)

    await holds_and_mutant_fails(scenario, DataDirectory, "store.BelievesAnyFolder")


@pytest.mark.usefixtures("soon")
async def test_a_store_goes_on_once_its_folder_is_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await written(path)
    async with running(path) as store, looked_after(store):
        await holds_its_message(store)
        watch = FolderWatch(store)
        with structlog.testing.capture_logs() as said:
            (path / "groups").rename(tmp_path / "away")
            (path / "groups").mkdir()
            for _ in range(3):
                await watch.look()
            (path / "groups").rmdir()
            (tmp_path / "away").rename(path / "groups")
            await watch.look()
            await holds_its_message(store)
        assert [line["event"] for line in said if line["event"].startswith("store_folder")] == [
            "store_folder_replaced",
            "store_folder_back",
        ]


@pytest.mark.usefixtures("soon")
async def test_a_replica_is_not_opened_in_a_copy_of_its_folder(tmp_path: Path) -> None:
    """Which may be older than what it has promised since."""
    path = tmp_path / "store"
    await written(path)
    async with running(path) as store, looked_after(store):
        await holds_its_message(store)
        shutil.copytree(path / "groups" / "7", tmp_path / "copy")
        (path / "groups" / "7").rename(tmp_path / "away")
        (tmp_path / "copy").rename(path / "groups" / "7")
        with pytest.raises(SteleError):
            await store.replicas[7].append(1, [make_batch()])
        await eventually(lambda: "is another folder" in store.replicas[7].problem)
        shutil.rmtree(path / "groups" / "7")
        (tmp_path / "away").rename(path / "groups" / "7")
        await leads(store)


# --- what cannot be deleted -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("soon")
async def test_a_replica_that_cannot_be_moved_into_the_trash_is_listed_until_it_is(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await written(path, SPEC, OTHER)
        async with running(path, kind) as store, looked_after(store):
            await holds_its_message(store)
            await holds_its_message(store, 8)
            make_unreadable(path / "trash")
            (path / "trash").rmdir()
            (path / "trash").touch()  # no folder: nothing can be moved into it
            with pytest.raises(StorageFailed, match="trash"):
                await store.delete(7, 3, MANDATE)
            with promise("what could not be deleted is known until it is"):
                assert [(r.group, r.state) for r in status_of(store).replicas] == [(7, "failed"), (8, "leader")]
            assert "to be deleted" in status_of(store).replicas[0].problem
            with pytest.raises(StorageFailed, match="to be deleted"):
                store.replica(7).read(0, 1)
            with pytest.raises(StorageFailed, match="to be deleted"):
                await store.create(SPEC, MANDATE)
            await store.reopen(7)  # it is deleted, never opened
            assert store.replicas[7].state == "failed"
            with pytest.raises(StorageFailed, match="trash"):  # as the leading nameserver repeats it
                await store.delete(7, 3, MANDATE)
            (path / "trash").unlink()
            (path / "aside").rename(path / "trash")
            await eventually(lambda: [r.group for r in status_of(store).replicas] == [8])
            assert not (path / "groups" / "7").exists()
            assert [p.name.split("-")[0] for p in (path / "trash").iterdir()] == ["7"]
            await holds_its_message(store, 8)

    await holds_and_mutant_fails(scenario, Store, "store.ForgetsWhatItCannotDelete")


async def test_a_replica_that_was_to_be_deleted_is_an_orphan_once_its_store_has_forgotten_and_its_records_are_gone(
    tmp_path: Path,
) -> None:
    """It is counted nowhere and kept, until the topic's id, which is recorded as deleted, says that it goes."""
    path = tmp_path / "store"
    await written(path)
    async with running(path) as store:
        await holds_its_message(store)
        (path / "trash").rename(path / "aside")
        (path / "trash").touch()
        with pytest.raises(StorageFailed):
            await store.delete(7, 3, MANDATE)
    (path / "trash").unlink()
    async with running(path) as store:
        await holds_its_message(store)  # which an operator may still want
        reports = {1: merge(None, status_of(store))}
        gone = Catalog(topics={"x/y": TopicEntry("x/y", 9, 1, 1, TopicState.READY)})
        [stray] = set_apart(gone, reports)[1].strays.values()
        assert (stray.kind, stray.replica.topic, stray.replica.topic_id) == ("orphan", "a/b", 3)
        assert plan(gone, set_apart(gone, reports), {}) == []
        told = dataclasses.replace(gone, deleted_topics=IntervalSet.of([(3, 3)]))
        assert plan(told, set_apart(told, reports), {}) == [DeleteReplica(1, 7, 3)]
        assert await store.delete(7, 3, MANDATE)
        assert not status_of(store).replicas


async def test_p3_what_was_deleted_here_is_not_begun_anew_by_an_older_record(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await written(path)
        async with running(path, kind) as store:
            assert await store.delete(7, 3, MANDATE)
        async with running(path, kind) as store:
            with promise("a group that was deleted here does not begin anew"), pytest.raises(StorageFailed) as refused:
                await store.create(SPEC, MANDATE)
            assert "delete its topic and create that anew" in refused.value.message
            assert [(r.group, r.state) for r in status_of(store).replicas] == [(7, "failed")], "it was here once"
            await store.reopen(7)
            assert not status_of(store).replicas
            assert await store.create(OTHER, MANDATE)
            assert await store.create(JOINING, MANDATE), "it promises nothing before it knows what the others do"
            assert await store.delete(7, 3, MANDATE)

    await holds_and_mutant_fails(scenario, Store, "store.ForgetsWhatItDeleted")


async def test_a_full_disk_stops_no_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(tmp_path, SPEC, OTHER)

    def full(path: Path, body: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    async with running(tmp_path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(directory, "write_json", full)
            assert await store.delete(7, 3, MANDATE)
        with pytest.raises(StorageFailed, match="deleted here"):
            await store.create(SPEC, MANDATE)
        assert await store.delete(8, 3, MANDATE)
    async with running(tmp_path) as store:
        for spec in (SPEC, OTHER):
            with pytest.raises(StorageFailed, match="deleted here"):
                await store.create(spec, MANDATE)


# --- what was lost ----------------------------------------------------------------------------------------------------

JOINING = dataclasses.replace(SPEC, members=())


async def test_p2_one_that_joins_is_silent_and_promises_nothing(tmp_path: Path) -> None:
    for _ in range(2):  # also after a restart
        async with running(tmp_path) as store:
            await store.create(JOINING, MANDATE)
            [status] = status_of(store).replicas
            assert (status.state, list(status.voters)) == ("recovering", [])
            assert store.settled() == 1
            group = store.registry.get(7)
            assert group is not None
            group.receive(
                2, pb.RaftMessage(group=7, term=5, request_vote=pb.RequestVote(last_log_index=9, last_log_term=4))
            )
            await asyncio.sleep(3 * FAST.election_max_s)
            assert (group.state, group.journal.voted_for) == ("recovering", 0)


async def test_p2_what_ran_here_is_not_begun_anew_by_a_late_order(tmp_path: Path) -> None:
    await written(tmp_path)
    async with running(tmp_path) as store:
        await holds_its_message(store)
        (tmp_path / "groups" / "7").rename(tmp_path / "away")
        await eventually(lambda: store.replicas[7].state == "failed")
        await store.reopen(7)
        with pytest.raises(StorageFailed, match="can only join again"):
            await store.create(SPEC, MANDATE)
        assert await store.create(JOINING, MANDATE)
        assert store.replicas[7].state == "recovering"


async def test_p2_a_join_that_was_interrupted_leaves_nothing(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    (tmp_path / "groups" / "7").mkdir()
    (tmp_path / "groups" / "7" / "recovering").touch()
    async with running(tmp_path) as store:
        assert not status_of(store).replicas


# --- what is set aside ------------------------------------------------------------------------------------------------


async def damaged(path: Path, *specs: GroupSpec) -> None:
    """Group 7 has a damaged log, a term file that is whole, and peers."""
    await written(path, *specs)
    [segment] = (path / "groups" / "7").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[3] ^= 1
    segment.write_bytes(content)


async def test_a_replica_whose_vote_cannot_be_read_is_set_aside_until_its_group_has_let_it_go(tmp_path: Path) -> None:
    """It may have promised what it does not know any more: it votes no more, and comes back as one that joins."""

    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await written(path)
        (path / "groups" / "7" / "term").write_bytes(b"what is this")
        async with running(path, kind) as store:
            with promise("a replica that forgot its vote is not begun anew"):
                [status] = status_of(store).replicas
                assert (status.state, status.topic_id) == ("quarantined", 3)
                for members in ((1,), (1, 2, 3)):
                    with pytest.raises(LogDamaged):
                        await store.create(dataclasses.replace(SPEC, members=members), MANDATE)
                with pytest.raises(TopicMismatch):
                    await store.create(dataclasses.replace(SPEC, members=(), topic_id=4), MANDATE)
                assert [r.state for r in status_of(store).replicas] == ["quarantined"]
            joins = dataclasses.replace(SPEC, members=())
            assert await store.create(joins, MANDATE)
            assert not await store.create(joins, MANDATE)
            assert store.replicas[7].state == "recovering"
            assert not store.quarantined
        async with running(path, kind) as store:
            assert [r.state for r in status_of(store).replicas] == ["recovering"]
        assert any(p.name == "7-1.given-up" for p in (path / "quarantine").iterdir()), "nothing damaged is deleted"

    await holds_and_mutant_fails(scenario, Store, "store.BeginsOverWhatItSetAside")


async def test_p28_a_group_that_was_rebuilt_and_deleted_does_not_come_back(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await damaged(path)
        body = path / "groups" / "7" / "group.json"
        body.write_text(body.read_text().replace("1\n  ]", "1, 2, 3\n  ]"))
        async with running(path, kind) as store:
            assert store.replicas[7].state == "recovering"
            assert await store.delete(7, 3, MANDATE)
        async with running(path, kind) as store:
            with promise("a deleted group does not come back"):
                assert not status_of(store).replicas

    await holds_and_mutant_fails(scenario, Store, "store.KeepsTheQuarantined")


async def test_p28_a_rebuilt_replica_that_is_lost_is_not_rebuilt_from_what_it_had_voted_before(tmp_path: Path) -> None:
    """The term file in quarantine is older than what the rebuilt replica promised."""
    await damaged(tmp_path)
    body = tmp_path / "groups" / "7" / "group.json"
    body.write_text(body.read_text().replace("1\n  ]", "1, 2, 3\n  ]"))
    async with running(tmp_path) as store:
        assert store.replicas[7].state == "recovering"
    TermFile(tmp_path / "groups" / "7").store(99, 3)
    shutil.rmtree(tmp_path / "groups" / "7")
    async with running(tmp_path) as store:
        assert not status_of(store).replicas
    assert any(p.name.startswith("7-1") for p in (tmp_path / "quarantine").iterdir()), "nothing damaged is deleted"


async def test_p29_a_damaged_replica_that_cannot_be_moved_costs_no_other(tmp_path: Path) -> None:
    async def scenario(kind: type[Store]) -> None:
        path = tmp_path / kind.__name__
        await damaged(path, SPEC, OTHER)
        with promise("one damaged replica costs no other"):
            try:
                async with running(path, _without_quarantine(kind)) as store:
                    await holds_its_message(store, 8)
                    failed, _ = status_of(store).replicas
                    assert (failed.group, failed.state) == (7, "failed")
                    assert "could not be set aside" in failed.problem
            except ExceptionGroup as e:
                raise e.exceptions[0] from None

    await holds_and_mutant_fails(scenario, Store, "store.StopsAtWhatCannotBeMoved")


def _without_quarantine(kind: type[Store]) -> type[Store]:
    """Nothing can be moved into its folder, which is gone once the store is open."""

    class Broken(kind):  # type: ignore[misc,valid-type]
        async def load(self, *arguments: object) -> None:
            self.directory.quarantine_path = self.directory.path / "no" / "such" / "folder"
            self.directory.quarantined = list  # type: ignore[method-assign]
            await super().load(*arguments)

    return Broken
