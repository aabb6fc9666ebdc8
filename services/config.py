"""Settings of a process: one frozen dataclass per role.

Guarantee: a config object that exists is consistent; anything else raises InvalidConfig with one line that names the setting,
its value and what is accepted.  Sources, strongest first: flag (``--session-timeout-s 4``), environment
(``STELE_SESSION_TIMEOUT_S=4``; an empty value counts as not set), TOML file (``--config stele.toml``), default.  The file holds
settings of every role at its top level, and settings of one role in a table of the role's name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stele.services.errors import InvalidConfig
from stele.services.logs import FORMATS, LEVELS
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.settings import fields_of, read_settings

KIB = 1024
MIB = 1024 * KIB
PORT_MAX = 65535
PROCESS_NAMES = "1 to 63 of a-z 0-9 -, starting with a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_EVERYWHERE = ("0.0.0.0", "::", "[::]")


def setting(
    help: str,
    *,
    example: str = "",
    low: float | None = None,
    high: float | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field with what ``--help`` says about it and the bounds (both included) that its value must keep."""
    metadata = {"help": help, "example": example, "low": low, "high": high}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What every role is told."""

    name: str = setting("name of this process, unique in the cluster", example="dn1")
    cluster: str = setting("cluster this process belongs to", default="stele")
    zookeeper: str = setting(
        "ZooKeeper servers, host:port separated by commas", example="zk1:2181,zk2:2181", default="127.0.0.1:2181"
    )
    session_timeout_s: float = setting(
        "seconds without a heartbeat after which ZooKeeper declares this process dead", low=0.5, high=120, default=4.0
    )
    zookeeper_tick_s: float = setting(
        "ZooKeeper's tickTime in seconds, if you know it (0: not known): the session timeout is then checked against the "
        "2 to 20 ticks that the server grants",
        example="2",
        low=0,
        high=60,
        default=0.0,
    )
    host: str = setting("address to listen on", default="127.0.0.1")
    port: int = setting("port to listen on (0: chosen by the system)", low=0, high=PORT_MAX, default=0)
    advertised_host: str = setting("host that other processes of the cluster dial (empty: the host)", default="")
    external_address: str = setting(
        "host:port for clients outside the cluster's network (empty: the same as inside)",
        example="localhost:6650",
        default="",
    )
    admin_port: int = setting(
        "port of /livez, /readyz?verbose and /metrics (0: chosen by the system, -1: none)",
        low=-1,
        high=PORT_MAX,
        default=0,
    )
    log_format: str = setting("auto (console on a terminal, else json), json or console", default="auto")
    log_level: str = setting("debug, info, warning or error", default="info")
    drain_timeout_s: float = setting(
        "seconds that a stopping process may take to hand over its work", low=0, high=600, default=10.0
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for key in ("name", "cluster"):
            value = getattr(self, key)
            _require(is_process_name(value), key, value, PROCESS_NAMES)
        for server in self.zookeeper.split(","):
            _require("/" not in server, "zookeeper", self.zookeeper, "host:port without a path; `cluster` is the path")
            _check_address("zookeeper", server.strip())
        _require(bool(_HOST.fullmatch(self.host)), "host", self.host, "a host name or an IP address")
        if self.advertised_host:
            accepted = "a host name or an IP address that others can dial"
            plausible = bool(_HOST.fullmatch(self.advertised_host)) and self.advertised_host not in _EVERYWHERE
            _require(plausible, "advertised_host", self.advertised_host, accepted)
        elif self.host in _EVERYWHERE:
            raise InvalidConfig(
                f"host {self.host} listens on every address but cannot be dialled: set advertised_host to the name or "
                "address that other processes reach this one by"
            )
        if self.external_address:
            _check_address("external_address", self.external_address)
        _require(self.log_format in FORMATS, "log_format", self.log_format, ", ".join(FORMATS))
        _require(self.log_level in LEVELS, "log_level", self.log_level, ", ".join(LEVELS))
        _distinct(self, "port", "admin_port")
        if self.zookeeper_tick_s:
            check_session_timeout(self.session_timeout_s, 2 * self.zookeeper_tick_s, 20 * self.zookeeper_tick_s)

    def endpoint(self, port: int) -> str:
        """``host:port`` under which other processes of the cluster dial ``port`` of this one."""
        return join_address(self.advertised_host or self.host, port)

    def advertised(self, port: int) -> str:
        """``host:port`` under which clients outside the cluster's network dial ``port`` of this process."""
        return self.external_address or self.endpoint(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameserverConfig(NodeConfig):
    """Settings of a nameserver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatanodeConfig(NodeConfig):
    """Settings of a datanode."""

    data_dir: str = setting("folder that holds this store's partitions", example="/var/lib/stele/dn1")
    raft_port: int = setting(
        "port that other datanodes dial (0: chosen by the system)", low=0, high=PORT_MAX, default=0
    )
    election_timeout_min_s: float = setting(
        "shortest time without a leader before a replica stands for election, in seconds",
        low=0.05,
        high=60,
        default=1.0,
    )
    election_timeout_max_s: float = setting(
        "longest time without a leader before a replica stands for election, in seconds",
        low=0.05,
        high=120,
        default=2.0,
    )
    load_parallelism: int = setting("partitions loaded at the same time at start", low=1, high=256, default=4)
    segment_bytes: int = setting(
        "size at which a new segment file is begun", low=4 * KIB, high=4096 * MIB, default=64 * MIB
    )
    entry_bytes_max: int = setting(
        "largest log entry; a batch is never larger", low=KIB, high=MESSAGE_BYTES_MAX // 2, default=MIB
    )
    disk_reserve_bytes: int = setting(
        "free space below which the store takes no writes", low=0, high=1 << 50, default=64 * MIB
    )
    snapshot_bytes: int = setting(
        "bytes of log after which a partition's state is written as a snapshot, which bounds how much is read at a start",
        low=64 * KIB,
        high=1 << 40,
        default=64 * MIB,
    )
    snapshot_interval_s: float = setting(
        "seconds after which a snapshot is taken if anything was applied since the last one",
        low=0.5,
        high=7 * 86_400,
        default=600.0,
    )
    retention_check_s: float = setting(
        "seconds between two decisions about what retention removes", low=0.1, high=86_400, default=30.0
    )

    def __post_init__(self) -> None:
        NodeConfig.__post_init__(self)
        _require(bool(self.data_dir.strip()), "data_dir", self.data_dir, "a folder")
        if self.election_timeout_min_s >= self.election_timeout_max_s:
            raise InvalidConfig(
                f"election_timeout_min_s {self.election_timeout_min_s:g} must be below "
                f"election_timeout_max_s {self.election_timeout_max_s:g}"
            )
        if self.segment_bytes < self.entry_bytes_max:
            raise InvalidConfig(
                f"segment_bytes {self.segment_bytes} must be at least entry_bytes_max {self.entry_bytes_max}"
            )
        _distinct(self, "port", "raft_port")
        _distinct(self, "raft_port", "admin_port")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig(NodeConfig):
    """Settings of a broker."""

    produce_credit_bytes: int = setting(
        "unanswered bytes that one producer stream may have", low=64 * KIB, high=1024 * MIB, default=16 * MIB
    )
    inflight_appends_max: int = setting(
        "append requests that may be unanswered per partition", low=1, high=1024, default=8
    )
    ack_flush_interval_s: float = setting(
        "seconds over which acknowledgements of a subscription are joined into one write",
        low=0.001,
        high=5,
        default=0.03,
    )


ROLES: dict[str, type[NodeConfig]] = {
    "nameserver": NameserverConfig,
    "datanode": DatanodeConfig,
    "broker": BrokerConfig,
}


def is_process_name(name: str) -> bool:
    """Whether a process or a cluster may have this name."""
    return bool(_NAME.fullmatch(name))


def check_session_timeout(session_timeout_s: float, granted_min_s: float, granted_max_s: float) -> None:
    """Refuses a session timeout that ZooKeeper would silently replace by another one.  Raises InvalidConfig."""
    if not granted_min_s <= session_timeout_s <= granted_max_s:
        raise InvalidConfig(
            f"session_timeout_s {session_timeout_s:g} is outside the {granted_min_s:g} to {granted_max_s:g} s that ZooKeeper grants "
            "(2 to 20 times its tickTime)"
        )


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_bounds(config: Any) -> None:
    """Every numeric setting lies within its bounds and has its type.  Raises InvalidConfig."""
    for f, kind in fields_of(type(config)):
        value = getattr(config, f.name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(config, f.name, float(value))
        elif type(value) is not kind:
            raise InvalidConfig(f"{f.name} {value!r} is not accepted: {_KINDS[kind]}")
        low, high = f.metadata.get("low"), f.metadata.get("high")
        if low is not None and not low <= value <= high:
            shown = [f"{v:g}" if kind is float else str(v) for v in (value, low, high)]
            raise InvalidConfig(f"{f.name} {shown[0]} is not accepted: {shown[1]} to {shown[2]}")


ConfigT = TypeVar("ConfigT", bound=NodeConfig)


def load(
    config_type: type[ConfigT],
    argv: Sequence[str],
    env: Mapping[str, str],
) -> ConfigT:
    """The configuration that flags, environment and file make together.  Raises InvalidConfig; ``--help`` exits with 0."""
    return config_type(**read_settings(config_type, ROLES, argv, env))


_KINDS: dict[type[Any], str] = {str: "text", int: "a whole number", float: "a number"}


def _require(holds: bool, key: str, value: object, accepted: str) -> None:
    if not holds:
        raise InvalidConfig(f"{key} {value!r} is not accepted: {accepted}")


def _check_address(key: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    good = bool(host) and bool(_HOST.fullmatch(host.strip("[]"))) and port.isdecimal() and 1 <= int(port) <= PORT_MAX
    _require(good, key, address, f"host:port with a port from 1 to {PORT_MAX}")


def _distinct(config: Any, first: str, second: str) -> None:
    if getattr(config, first) > 0 and getattr(config, first) == getattr(config, second):
        raise InvalidConfig(f"{first} and {second} are both {getattr(config, first)}: each needs a port of its own")
