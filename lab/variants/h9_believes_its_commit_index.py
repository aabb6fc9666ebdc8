"""Wrong on purpose (H9): the commit index is kept on disk and believed after a restart, whatever the log holds."""

from __future__ import annotations

from typing import Any

from stele.services.raft.journal import Journal

COMMIT_NAME = "commit"


class BelievesItsCommitIndex(Journal):
    def __init__(self, log: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(log, *arguments, **options)
        self._commit_path = log._directory / COMMIT_NAME
        self._commit_file: Any = None
        try:
            self._commit_file = log._fs.open(self._commit_path)
        except FileNotFoundError:
            self._commit_file = log._fs.create(self._commit_path)
            log._fs.fsync_dir(log._directory)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._commit_file.pwrite([b"%020d" % raftCommitIndex], 0)
        self._commit_file.fdatasync()

    def getRaftCommitIndex(self) -> int:
        stored = self._commit_file.pread(20, 0)
        return max(int(stored) if len(stored) == 20 else 1, super().getRaftCommitIndex())
