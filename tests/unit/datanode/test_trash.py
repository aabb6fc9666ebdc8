"""What was deleted is kept for as long as was promised, by the time that the store has seen pass (fault P3)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from pathlib import Path

from stele.datanode.trash import AGES_NAME, Trash
from tests.simulation.cluster.disk import Volume
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually


class Room:
    """A disk of which ``needed`` folders have to go before it has room again."""

    needed = 0

    def is_short(self) -> bool:
        return self.needed > 0

    async def look(self) -> None:
        self.needed -= 1


def folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir())


def fill(path: Path, *names: str) -> None:
    for name in names:
        (path / name).mkdir(parents=True)
        (path / name / "group.json").write_text("{}")


async def test_p3_a_folder_is_kept_for_the_time_that_was_promised(tmp_path: Path) -> None:
    async def scenario(kind: type[Trash]) -> None:
        path = tmp_path / kind.__name__
        fill(path, "7-a")
        trash = kind(path, 100.0, lambda: False, Room().look)
        await trash.turn(1_000.0)  # the first look: however long ago the last one was, this one is new
        with promise("what was deleted is kept for a while"):
            assert folders(path) == ["7-a"]
            await trash.turn(60.0)
            fill(path, "8-b")
            await trash.turn(39.0)
            assert folders(path) == ["7-a", "8-b"]
        await trash.turn(1.0)
        assert folders(path) == ["8-b"]
        await trash.turn(99.0)
        assert folders(path) == []

    await holds_and_mutant_fails(scenario, Trash, "groups.EmptiesItsTrash")


async def test_p3_a_short_disk_gets_room_from_the_oldest_first(tmp_path: Path) -> None:
    room = Room()
    trash = Trash(tmp_path, 100.0, room.is_short, room.look)
    for name in ("1-a", "3-b", "2-c"):
        fill(tmp_path, name)
        await trash.turn(1.0)
    room.needed = 2
    await trash.turn(1.0)
    assert folders(tmp_path) == ["2-c"]
    room.needed = 5
    await trash.turn(1.0)
    assert folders(tmp_path) == []


async def test_what_is_kept_is_listed_the_oldest_first(tmp_path: Path) -> None:
    trash = Trash(tmp_path, 100.0, lambda: False, Room().look)
    fill(tmp_path, "7-a")
    await trash.turn(1.0)
    await trash.turn(2.5)
    body = {"group": 8, "topic": "a/b", "topic_id": 3, "partition": 1}
    fill(tmp_path, "8-b", "9-c")
    (tmp_path / "8-b" / "group.json").write_text(json.dumps(body))
    (tmp_path / "8-b" / "segment").write_bytes(bytes(1000))
    (tmp_path / "9-c" / "group.json").unlink()
    unread, whole, empty = await trash.listed()
    assert (unread.folder, unread.group, unread.topic, unread.age_ms, unread.retention_ms) == (
        "7-a",
        7,
        "",
        2500,
        100_000,
    )
    assert (whole.folder, whole.group, whole.topic, whole.topic_id, whole.partition) == ("8-b", 8, "a/b", 3, 1)
    assert whole.size_bytes == 1000 + len(json.dumps(body))
    assert (empty.folder, empty.size_bytes, empty.age_ms) == ("9-c", 0, 0)


async def test_p3_ages_outlive_a_restart(tmp_path: Path) -> None:
    fill(tmp_path, "7-a", "8-b")
    (tmp_path / AGES_NAME).write_text(json.dumps({"7-a": 99.9, "9-gone": 3.0, "8-b": "nonsense"}))
    trash = Trash(tmp_path, 100.0, lambda: False, Room().look)
    running = asyncio.create_task(trash.run())
    await eventually(lambda: folders(tmp_path) == ["8-b"])
    await eventually(lambda: json.loads((tmp_path / AGES_NAME).read_text()).keys() == {"8-b"})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_p3_unreadable_ages_make_everything_new(tmp_path: Path) -> None:
    fill(tmp_path, "7-a")
    (tmp_path / AGES_NAME).write_text("not json")
    trash = Trash(tmp_path, 0.4, lambda: False, Room().look)
    running = asyncio.create_task(trash.run())
    await eventually(lambda: folders(tmp_path) == [])
    await eventually(lambda: json.loads((tmp_path / AGES_NAME).read_text()) == {})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_trash_that_cannot_be_listed_for_a_moment_ends_nothing() -> None:
    """The datanode ended by it, and with it all that it served."""
    for operation in ("listdir", "stat"):
        volume = Volume()
        fill(volume.path, "7-a")
        running = asyncio.ensure_future(Trash(volume.path, 0.02, lambda: False, Room().look).run())
        await eventually(lambda volume=volume: not volume.has_folder(volume.path / "7-a"), within_s=10)  # it runs
        volume.fail(operation, errno.EIO, times=3)  # type: ignore[arg-type]
        fill(volume.path, "8-b")
        await eventually(lambda volume=volume: not volume.has_folder(volume.path / "8-b"), within_s=10)
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
