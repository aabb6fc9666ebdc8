"""A registry without peers: groups of one member on real files."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from stele.datanode.storage import lock_group, opener
from stele.lab.mutants.groups import LooksAtNoPath
from stele.services.errors import GroupDirectoryBusy
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.registry import Links, Registry
from stele.services.raft.storage import OpenStorage
from stele.services.raft.timing import Timing

FAST = Timing(heartbeat_s=0.02, election_min_s=0.1, election_max_s=0.2)


class NoLinks(Links):
    def listen(self, listener: Registry) -> None: ...

    def use(self, store_id: int) -> None: ...

    def release(self, store_id: int) -> None: ...

    def is_connected(self, store_id: int) -> bool:
        return False

    def send(self, to: int, message: pb.RaftMessage) -> None: ...

    def flush(self) -> None: ...


class Commands:
    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.applied.append(payload)
        return len(self.applied)


class Opener:
    """Opens real storage and counts how often; once it is ``open`` it waits for ``may_return`` (it runs on a thread).  Unless it
    ``looks``, nobody notices by a sync that the folder is gone: what keeps a promise before that is seen alone."""

    def __init__(self, may_return: threading.Event | None = None, *, looks: bool = True) -> None:
        self.opened: list[Path] = []
        self.open: list[Path] = []
        self._may_return = may_return
        self._open = opener(16 << 20, 0, lock=lock_group if looks else _lock_without_a_look)

    def __call__(self, path: Path) -> OpenStorage:
        self.opened.append(path)
        path.mkdir(parents=True, exist_ok=True)
        storage = self._open(path)
        self.open.append(path)
        if self._may_return is not None:
            self._may_return.wait(60)
        return storage


def _lock_without_a_look(folder: Path) -> LooksAtNoPath:
    return LooksAtNoPath(folder, GroupDirectoryBusy)


def registry(kind: type[Registry], root: Path, opened: Opener | None = None) -> Registry:
    made = kind(
        1, root / "groups", NoLinks(), opened or Opener(), observed_ms=lambda: 0, rng=random.Random(1), timing=FAST
    )
    made.may_lead = True
    return made


def open_files_below(path: Path) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found
