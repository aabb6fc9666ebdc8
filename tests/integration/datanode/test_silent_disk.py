"""A disk that hangs: the others go on, and the report of the replica says why it does not."""

from __future__ import annotations

import threading
from pathlib import Path

from structlog.testing import capture_logs

from stele.datanode.role import Parts
from stele.datanode.silence import SILENT_S
from stele.lab.mutants.log import _Passing, _UnsyncedFile
from stele.services.files import OS_FILES, File
from tests.integration.datanode.cluster import Cluster, Node
from tests.integration.datanode.test_damage import status_of
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


class HangingFile(_UnsyncedFile):
    def __init__(self, file: File, answers: threading.Event) -> None:
        super().__init__(file)
        self._answers = answers

    def fdatasync(self) -> None:
        self._answers.wait()
        self._file.fdatasync()


class HangingDisk(_Passing):
    """The system's files; syncs return while ``answers`` is set."""

    def __init__(self) -> None:
        super().__init__(OS_FILES)
        self.answers = threading.Event()
        self.answers.set()

    def create(self, path: Path) -> File:
        return HangingFile(super().create(path), self.answers)

    def open(self, path: Path) -> File:
        return HangingFile(super().open(path), self.answers)


async def test_p37_a_disk_that_hangs_is_a_problem_of_its_replicas(datanodes: Cluster) -> None:
    disk = HangingDisk()
    dn1, dn2, dn3 = (datanodes.node(f"dn{i}") for i in (1, 2, 3))
    await dn1.start(Parts(file_system=disk))
    await dn2.start()
    await dn3.start()
    for group in (1, 2):
        await datanodes.create(group)
        await datanodes.appended(group, make_batch(1, producer_id=7))
    try:
        with capture_logs() as logs:
            disk.answers.clear()
            for sequence in (1, 2):
                for group in (1, 2):
                    await datanodes.appended(group, make_batch(1, producer_id=7, sequence=sequence), within_s=30)
            await eventually(lambda: problem_of(dn1, "its disk has not answered"), 30, every_s=0.2)
            assert await problem_of(dn2, "", exactly=True)
            disk.answers.set()
            await eventually(lambda: problem_of(dn1, "", exactly=True), 30, every_s=0.2)
            await datanodes.replicated(1, 3)
        said = [entry["event"] for entry in logs if entry["event"] in ("disk_silent", "disk_answers")]
        assert said == ["disk_silent", "disk_answers"]
        assert SILENT_S < 10
    finally:
        disk.answers.set()


async def problem_of(node: Node, text: str, exactly: bool = False) -> bool:
    problem = (await status_of(node)).problem
    assert problem == text if exactly else text in problem, problem
    return True
