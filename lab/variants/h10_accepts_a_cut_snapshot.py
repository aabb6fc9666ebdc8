"""Wrong on purpose (H10): a snapshot's header is believed although the file is shorter than it says."""

from __future__ import annotations

from stele.datanode.log import SnapshotFiles
from stele.datanode.log.snapshot_format import HEADER_BYTES_MAX, SnapshotHeader, decode_header


class AcceptsACutSnapshot(SnapshotFiles):
    def _read_header(self, index: int) -> SnapshotHeader:
        path = self._path(index)
        file = self._fs.open(path)
        try:
            return decode_header(file.pread(HEADER_BYTES_MAX, 0), path)
        finally:
            file.close()
