"""What a local cluster remembers on disk: its processes, their ports and who they are now.

``<directory>/cluster.json`` is replaced whole, under the cluster's lock; readers need no lock.  Beside it: ``logs/<name>.log``,
``run/<name>.json`` (written by a process once it is ready), ``data/<name>/``, ``zookeeper/``, and ``zookeeper-2/`` and so on
where there are several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stele.local.errors import NoCluster
from stele.services.errors import InvalidArgument
from stele.services.json_files import read_json, write_json

FORMAT = 3
READABLE = (2, FORMAT)  # 2: there was one ZooKeeper
ROLES: dict[str, str] = {"ns": "nameserver", "dn": "datanode", "br": "broker"}  # prefix of the name → package
PER_ROLE_MAX = 99
ZOOKEEPERS = (1, 3, 5, 7)  # how many make sense: one more than an odd number outlives no more deaths
_NAME = re.compile(r"(ns|dn|br)([1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """How many processes of each role, and what they are told besides their names and ports."""

    nameservers: int = 3
    datanodes: int = 3
    brokers: int = 2
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # role → setting → value
    zookeepers: int = 1

    def __post_init__(self) -> None:
        for role, count in (
            ("nameservers", self.nameservers),
            ("datanodes", self.datanodes),
            ("brokers", self.brokers),
        ):
            low = 0 if role == "datanodes" else 1
            if not low <= count <= PER_ROLE_MAX:
                raise InvalidArgument(f"a local cluster has {low} to {PER_ROLE_MAX} {role}, not {count}")
        if self.zookeepers not in ZOOKEEPERS:
            raise InvalidArgument(
                f"a local cluster has {', '.join(map(str, ZOOKEEPERS[:-1]))} or {ZOOKEEPERS[-1]} ZooKeepers, not {self.zookeepers}: "
                f"an ensemble lives while most of it does, so that an even number outlives no more deaths than one less"
            )

    def names(self) -> list[str]:
        counts = {"ns": self.nameservers, "dn": self.datanodes, "br": self.brokers}
        return [f"{prefix}{i}" for prefix in ROLES for i in range(1, counts[prefix] + 1)]


@dataclass(slots=True)
class ProcessRecord:
    """One process: its fixed ports, and its identity while it runs."""

    name: str
    port: int = 0
    raft_port: int = 0
    admin_port: int = 0
    pid: int = 0
    started: str = ""

    @property
    def role(self) -> str:
        return role_of(self.name)


@dataclass(slots=True)
class ClusterState:
    """Everything ``cluster.json`` holds."""

    cluster: str
    zookeeper: str = ""  # hosts of a ZooKeeper that somebody else runs; "": it is ours
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    zookeepers: int = 1  # of ours

    @property
    def zookeeper_names(self) -> list[str]:
        """Of those that are ours."""
        return [] if self.zookeeper else [f"zk{number}" for number in range(1, self.zookeepers + 1)]

    @property
    def names(self) -> list[str]:
        """Every process, ZooKeeper first."""
        return [*self.zookeeper_names, *self.processes]

    def count(self, prefix: str) -> int:
        return sum(1 for name in self.processes if name.startswith(prefix))

    @property
    def bootstrap(self) -> str:
        """Addresses of the nameservers, as ``stele.connect`` takes them."""
        return ",".join(f"127.0.0.1:{r.port}" for r in self.processes.values() if r.role == "nameserver")

    def ports(self) -> set[int]:
        return {p for r in self.processes.values() for p in (r.port, r.raft_port, r.admin_port) if p}


def role_of(name: str) -> str:
    """The package that runs a process of this name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidArgument(f"{name!r} is not the name of a local process: ns1, dn1, br1, …")
    return ROLES[found[1]]


class StateDirectory:
    """The files of one local cluster."""

    def __init__(self, directory: Path) -> None:
        self.path = directory.expanduser().resolve()

    @property
    def state_path(self) -> Path:
        return self.path / "cluster.json"

    @property
    def exists(self) -> bool:
        return self.state_path.exists()

    def log_path(self, name: str) -> Path:
        if name.startswith("zk"):
            return self.zookeeper_path(name) / "zookeeper.log"
        return self.path / "logs" / f"{name}.log"

    def zookeeper_path(self, name: str) -> Path:
        return self.path / ("zookeeper" if name == "zk1" else f"zookeeper-{name[2:]}")

    def run_path(self, name: str) -> Path:
        return self.path / "run" / f"{name}.json"

    def data_path(self, name: str) -> Path:
        return self.path / "data" / name

    def load(self) -> ClusterState:
        """Raises NoCluster."""
        content = read_json(self.state_path)
        if content is None:
            raise NoCluster(f"no cluster in {self.path}: start one with `stele cluster up --dir {self.path}`")
        if content.get("format") not in READABLE:
            raise NoCluster(f"{self.state_path} has format {content.get('format')}, this version reads {FORMAT}")
        return ClusterState(
            cluster=content["cluster"],
            zookeeper=content["zookeeper"],
            settings=content["settings"],
            processes={r["name"]: ProcessRecord(**r) for r in content["processes"]},
            zookeepers=content.get("zookeepers", 1),
        )

    def save(self, state: ClusterState) -> None:
        content: dict[str, Any] = {
            "format": FORMAT,
            "cluster": state.cluster,
            "zookeeper": state.zookeeper,
            "zookeepers": state.zookeepers,
            "settings": state.settings,
            "processes": [asdict(r) for r in state.processes.values()],
        }
        write_json(self.state_path, content)
