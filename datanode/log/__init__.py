"""The durable log of a replica on files: segments of checksummed frames, snapshots, a term file, a directory lock.

``SegmentLog``, ``SnapshotFiles`` and ``TermFile`` implement the Protocols of services/raft/storage.py.
"""

from stele.datanode.log.log import SegmentLog
from stele.datanode.log.snapshots import SnapshotFiles, newest_members
from stele.datanode.log.terms import TermFile, check_term

__all__ = [
    "SegmentLog",
    "SnapshotFiles",
    "TermFile",
    "check_term",
    "newest_members",
]
