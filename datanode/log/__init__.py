"""The durable log of a replica on files: segments of checksummed frames, a term file, a directory lock.

``SegmentLog`` and ``TermFile`` implement the Protocols of services/raft/storage.py.
"""

from datanode.log.files import File, FileSystem, OsFileSystem
from datanode.log.lock import DirectoryLock
from datanode.log.log import SegmentLog
from datanode.log.terms import TermFile, check_term

__all__ = ["DirectoryLock", "File", "FileSystem", "OsFileSystem", "SegmentLog", "TermFile", "check_term"]
