"""The durable log of a replica on files: segments of checksummed frames, snapshots, term and vote.

What is in it:

* ``log.py``, ``SegmentLog``: appends, syncs, cuts, resets; ``segment_list.py``, which segments there are and whose files are open;
  ``segments.py``, one of them: header, footer, sparse index; ``frames.py``, the bytes of an entry; ``frame_reader.py``, entries from them;
* ``recovery.py``, what the last segment holds after a crash: entries, a torn tail, or damage;
* ``snapshots.py`` and ``snapshot_format.py``, ``SnapshotFiles``: written, received and installed; ``terms.py``, ``TermFile``;
* ``start_point.py``, from which snapshot a replica starts, so that snapshots, log and term are one history.

``SegmentLog``, ``SnapshotFiles`` and ``TermFile`` implement the Protocols of services/raft/storage.py, the only way in which Raft knows
them; ``datanode/storage.py`` puts them together.  All of it works on any ``FileSystem`` (services/files.py): the operating system's, or
one that fails and loses power (tests/support/disks.py).  Begin with the docstrings of ``segments.py`` and ``recovery.py``, then ``log.py``.
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
