"""The term file (H7): atomic, durable, and never believed when damaged."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.log import TermFile, check_term
from stele.datanode.log.terms import decode, encode
from stele.services.errors import DiskFull, LogDamaged, StorageFailed
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import PowerLost, SimulatedDisk
from tests.unit.log.logs import FOLDER

PATH = FOLDER / "term"
u64 = st.integers(0, 2**64 - 1)


def test_absent_is_never_voted() -> None:
    assert TermFile(FOLDER, SimulatedDisk()).load() == (0, 0)


@given(u64, u64)
def test_what_is_stored_is_loaded(term: int, vote: int) -> None:
    disk = SimulatedDisk()
    TermFile(FOLDER, disk).store(term, vote)
    assert TermFile(FOLDER, disk).load() == (term, vote)


def test_on_real_files(tmp_path: Path) -> None:
    terms = TermFile(tmp_path / "a" / "b")
    terms.store(3, 1)
    terms.store(4, 2)
    assert TermFile(tmp_path / "a" / "b").load() == (4, 2)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["term"]


async def test_h7_a_damaged_vote_is_refused() -> None:
    async def scenario(terms_type: type[TermFile]) -> None:
        for at in range(len(encode(7, 2))):
            disk = SimulatedDisk()
            terms_type(FOLDER, disk).store(7, 2)

            def flip(content: bytearray, at: int = at) -> None:
                content[at] ^= 1 << at % 8

            disk.damage(PATH, flip)
            try:
                loaded = terms_type(FOLDER, disk).load()
            except LogDamaged as e:
                assert e.facts["path"] == str(PATH)  # noqa: PT017
            else:
                with promise("a replica that cannot read its vote does not start"):
                    raise AssertionError(f"{loaded} was believed with byte {at} changed")

    await holds_and_mutant_fails(scenario, TermFile, "log.DamageIsNoVote")


@pytest.mark.parametrize("size", range(len(encode(7, 2))))
def test_h7_a_cut_file_is_refused(size: int) -> None:
    disk = SimulatedDisk()
    TermFile(FOLDER, disk).store(7, 2)
    disk.damage(PATH, lambda content: content.__delitem__(slice(size, None)))
    with pytest.raises(LogDamaged):
        TermFile(FOLDER, disk).load()


@given(st.binary(max_size=64))
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(LogDamaged):
        decode(content, PATH)


@given(u64, u64, st.binary(min_size=1, max_size=8))
def test_longer_content_is_refused(term: int, vote: int, more: bytes) -> None:
    with pytest.raises(LogDamaged):
        decode(encode(term, vote) + more, PATH)


async def test_h7_power_loss_at_any_step_leaves_the_old_or_the_new_vote() -> None:
    async def scenario(terms_type: type[TermFile]) -> None:
        for seed in range(300):
            rng = random.Random(seed)
            disk = SimulatedDisk()
            stored = (0, 0)
            for term in range(1, rng.randint(2, 5)):
                offered = (term, rng.randint(0, 3))
                disk.lose_power_after(rng.randint(0, 8))
                try:
                    terms_type(FOLDER, disk).store(*offered)
                except PowerLost:
                    disk.crash(rng)
                    with promise("a power loss leaves the old vote or the new one"):
                        loaded = terms_type(FOLDER, disk).load()
                        assert loaded in (stored, offered), f"seed {seed}: {loaded}"
                    stored = loaded
                else:
                    stored = offered
                    disk.crash(rng)
                    with promise("a power loss leaves the old vote or the new one"):
                        loaded = terms_type(FOLDER, disk).load()
                        assert loaded == stored, f"seed {seed}: {loaded} instead of {stored}"

    await holds_and_mutant_fails(scenario, TermFile, "log.WritesInPlace")


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
def test_a_full_disk_keeps_the_old_vote_and_is_not_final(operation: str) -> None:
    disk = SimulatedDisk()
    terms = TermFile(FOLDER, disk)
    terms.store(1, 1)
    disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        terms.store(2, 2)
    assert terms.load() == (1, 1)
    terms.store(2, 3)
    assert TermFile(FOLDER, disk).load() == (2, 3)


@pytest.mark.parametrize("operation", ["create", "pwrite", "fdatasync", "rename", "fsync_dir"])
def test_r3_8_a_failed_store_is_final(operation: str) -> None:
    disk = SimulatedDisk()
    terms = TermFile(FOLDER, disk)
    terms.store(1, 1)
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(StorageFailed):
        terms.store(2, 2)
    with pytest.raises(StorageFailed):
        terms.store(3, 3)
    assert TermFile(FOLDER, disk).load() in ((1, 1), (2, 2))


def test_a_log_ahead_of_its_term_is_refused() -> None:
    check_term(FOLDER, 3, 3)
    with pytest.raises(LogDamaged):
        check_term(FOLDER, 2, 3)
