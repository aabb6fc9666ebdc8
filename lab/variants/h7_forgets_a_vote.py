"""Wrong on purpose (H7): terms and votes that can be lost: damage is read as "never voted"; the file is written in place."""

from __future__ import annotations

from stele.datanode.log import TermFile
from stele.datanode.log.terms import encode
from stele.services.errors import LogDamaged


class DamageIsNoVote(TermFile):
    def load(self) -> tuple[int, int]:
        try:
            return super().load()
        except LogDamaged:
            return (0, 0)


class WritesInPlace(TermFile):
    def store(self, term: int, voted_for: int) -> None:
        file = self._fs.create(self._path)
        file.pwrite([encode(term, voted_for)], 0)
        file.fdatasync()
        file.close()
        self._fs.fsync_dir(self._directory)
