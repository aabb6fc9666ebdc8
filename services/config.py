"""Settings of a process: one frozen config per role.

Guarantee: a config object that exists is consistent; anything else raises InvalidConfig with one line that names the setting,
its value and what is accepted.  Sources, strongest first: flag (``--session-timeout-s 4``), environment
(``STELE_SESSION_TIMEOUT_S=4``; an empty value counts as not set), TOML file (``--config stele.toml``), default.  The file holds
settings of every role at its top level, and settings of one role in a table of the role's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self, TypeVar

from pydantic import Field, model_validator

from stele.services.errors import InvalidConfig
from stele.services.logs import FORMATS, LEVELS
from stele.services.rpc.limits import MESSAGE_BYTES_MAX
from stele.services.settings import Bytes, Number, Seconds, Settings, Text, read

KIB = 1024
MIB = 1024 * KIB
PORT_MAX = 65535
ACLS = ("none", "read", "all")
PROCESS_NAMES = "1 to 63 of a-z 0-9 -, starting with a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_EVERYWHERE = ("0.0.0.0", "::", "[::]")


class NodeConfig(Settings):
    """What every role is told."""

    name: Text = Field(examples=["dn1"], description="name of this process, unique in the cluster")
    cluster: Text = Field("stele", description="cluster this process belongs to")
    zookeeper: Text = Field(
        "127.0.0.1:2181", examples=["zk1:2181,zk2:2181"], description="ZooKeeper servers, host:port separated by commas"
    )
    zookeeper_credentials_file: Text = Field(
        "",
        examples=["/run/secrets/zookeeper"],
        description="file with the line user:password for ZooKeeper's digest authentication (empty: what the variable "
        "STELE_ZOOKEEPER_CREDENTIALS holds, or none)",
    )
    zookeeper_acl: Text = Field(
        "",
        description="what whoever lacks the credentials may do with the records that this process makes: none, read or all (empty: none "
        "with credentials, all without)",
    )
    zookeeper_tls_ca: Text = Field(
        "",
        examples=["/etc/stele/ca.pem"],
        description="file of the certificates by which those of ZooKeeper's servers are verified; given, every connection to them is "
        "encrypted (empty: none is)",
    )
    zookeeper_tls_cert: Text = Field("", description="file of the certificate that is shown to ZooKeeper")
    zookeeper_tls_key: Text = Field("", description="file of that certificate's key, without a passphrase")
    session_timeout_s: Seconds = Field(
        4.0, ge=0.5, le=120, description="seconds without a heartbeat after which ZooKeeper declares this process dead"
    )
    zookeeper_tick_s: Seconds = Field(
        0.0,
        ge=0,
        le=60,
        examples=["2"],
        description=(
            "ZooKeeper's tickTime in seconds, if you know it (0: not known): the session timeout is then checked against the "
            "2 to 20 ticks that the server grants"
        ),
    )
    host: Text = Field("127.0.0.1", description="address to listen on")
    port: Number = Field(0, ge=0, le=PORT_MAX, description="port to listen on (0: chosen by the system)")
    advertised_host: Text = Field("", description="host that other processes of the cluster dial (empty: the host)")
    external_address: Text = Field(
        "",
        examples=["localhost:6650"],
        description="host:port for clients outside the cluster's network (empty: the same as inside)",
    )
    admin_port: Number = Field(
        0,
        ge=-1,
        le=PORT_MAX,
        description="port of /livez, /readyz?verbose and /metrics (0: chosen by the system, -1: none)",
    )
    log_format: Text = Field("auto", description="auto (console on a terminal, else json), json or console")
    log_level: Text = Field("info", description="debug, info, warning or error")
    drain_timeout_s: Seconds = Field(
        10.0, ge=0, le=600, description="seconds that a stopping process may take to hand over its work"
    )

    @model_validator(mode="after")
    def _node_is_consistent(self) -> Self:
        for key in ("name", "cluster"):
            value = getattr(self, key)
            _require(is_process_name(value), key, value, PROCESS_NAMES)
        check_zookeeper(self.zookeeper)
        _ = self.zookeeper_access  # consistent, or refused
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
        return self

    @property
    def zookeeper_access(self) -> AccessSettings:
        return AccessSettings.of(lambda name: getattr(self, name))

    def endpoint(self, port: int) -> str:
        """``host:port`` under which other processes of the cluster dial ``port`` of this one."""
        return join_address(self.advertised_host or self.host, port)

    def advertised(self, port: int) -> str:
        """``host:port`` under which clients outside the cluster's network dial ``port`` of this process."""
        return self.external_address or self.endpoint(port)


class NameserverConfig(NodeConfig):
    """Settings of a nameserver."""

    moves_max: Number = Field(
        8, ge=1, le=10_000, description="replicas that move between stores at the same time, in the whole cluster"
    )
    store_moves_max: Number = Field(
        2, ge=1, le=1_000, description="replicas that move off or to one store at the same time"
    )
    replicas_differ_max: Number = Field(
        16,
        ge=0,
        le=1_000_000,
        description="replicas by which stores may differ; beyond it some move by themselves, to even them out (0: none ever does)",
    )
    store_down_after_s: Seconds = Field(
        300.0,
        ge=1,
        le=30 * 86_400,
        description="seconds without a store after which its replicas are built anew on others",
    )
    leader_balance_after_s: Seconds = Field(
        10.0,
        ge=0,
        le=86_400,
        description="seconds for which a partition was led by one replica, and a store heard, before leaders are evened out between "
        "them (0: never)",
    )
    leader_transfers_max: Number = Field(
        8, ge=1, le=10_000, description="partitions that get another leader at the same time, to even leaders out"
    )


class DatanodeConfig(NodeConfig):
    """Settings of a datanode."""

    data_dir: Text = Field(examples=["/var/lib/stele/dn1"], description="folder that holds this store's partitions")
    rack: Text = Field(
        "",
        examples=["a"],
        description="rack or zone with which this store fails; replicas are spread over racks (empty: one of its own)",
    )
    raft_port: Number = Field(
        0, ge=0, le=PORT_MAX, description="port that other datanodes dial (0: chosen by the system)"
    )
    election_timeout_min_s: Seconds = Field(
        1.0,
        ge=0.05,
        le=60,
        description="shortest time without a leader before a replica stands for election, in seconds",
    )
    election_timeout_max_s: Seconds = Field(
        2.0,
        ge=0.05,
        le=120,
        description="longest time without a leader before a replica stands for election, in seconds",
    )
    load_parallelism: Number = Field(4, ge=1, le=256, description="partitions loaded at the same time at start")
    segment_bytes: Bytes = Field(
        64 * MIB, ge=4 * KIB, le=4096 * MIB, description="size at which a new segment file is begun"
    )
    entry_bytes_max: Bytes = Field(
        MIB, ge=KIB, le=MESSAGE_BYTES_MAX // 2, description="largest log entry; a batch is never larger"
    )
    disk_reserve_bytes: Bytes = Field(
        64 * MIB, ge=0, le=1 << 50, description="free space below which the store takes no writes"
    )
    snapshot_bytes: Bytes = Field(
        64 * MIB,
        ge=64 * KIB,
        le=1 << 40,
        description="bytes of log after which a partition's state is written as a snapshot, which bounds how much is read at a start",
    )
    snapshot_interval_s: Seconds = Field(
        600.0,
        ge=0.5,
        le=7 * 86_400,
        description="seconds after which a snapshot is taken if anything was applied since the last one",
    )
    retention_check_s: Seconds = Field(
        30.0, ge=0.1, le=86_400, description="seconds between two decisions about what retention removes"
    )
    trash_retention_s: Seconds = Field(
        86_400.0,
        ge=0.1,
        le=365 * 86_400,
        description="seconds of running for which a deleted partition's files stay in the data directory's trash",
    )

    build_bytes_per_s: Bytes = Field(
        64 * MIB,
        ge=0,
        le=1 << 40,
        description="bytes in a second that are sent to replicas that are being built, of all partitions; voters get theirs beside it "
        "(0: no bound; else at least 1 MiB)",
    )
    scrub_bytes_per_s: Bytes = Field(
        4 * MIB,
        ge=0,
        le=1 << 40,
        description="bytes of stored messages that are checked for damage in a second, beside everything else (0: none)",
    )
    scrub_interval_s: Seconds = Field(
        86_400.0, ge=0.1, le=366 * 86_400, description="seconds between two checks of everything that is stored"
    )

    @model_validator(mode="after")
    def _datanode_is_consistent(self) -> Self:
        _require(bool(self.data_dir.strip()), "data_dir", self.data_dir, "a folder")
        _require(
            self.build_bytes_per_s == 0 or self.build_bytes_per_s >= MIB,
            "build_bytes_per_s",
            self.build_bytes_per_s,
            "0, or at least 1 MiB",
        )
        _require(not self.rack or is_process_name(self.rack), "rack", self.rack, PROCESS_NAMES)
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
        return self


class BrokerConfig(NodeConfig):
    """Settings of a broker."""

    produce_credit_bytes: Bytes = Field(
        16 * MIB, ge=64 * KIB, le=1024 * MIB, description="unanswered bytes that one producer stream may have"
    )
    produce_bytes_max: Bytes = Field(
        256 * MIB,
        ge=1 * MIB,
        le=65536 * MIB,
        description="unanswered bytes that all producer streams together may have",
    )
    inflight_appends_max: Number = Field(
        8, ge=1, le=1024, description="append requests that may be unanswered per partition"
    )
    ack_flush_interval_s: Seconds = Field(
        0.03,
        ge=0.001,
        le=5,
        description="seconds over which acknowledgements of a subscription are joined into one write",
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


ConfigT = TypeVar("ConfigT", bound=NodeConfig)


def load(
    config_type: type[ConfigT],
    argv: Sequence[str],
    env: Mapping[str, str],
) -> ConfigT:
    """The configuration that flags, environment and file make together.  Raises InvalidConfig; ``--help`` exits with 0."""
    return read(config_type, ROLES, argv, env)


def _require(holds: bool, key: str, value: object, accepted: str) -> None:
    if not holds:
        raise InvalidConfig(f"{key} {value!r} is not accepted: {accepted}")


def check_zookeeper(servers: str) -> None:
    """Addresses of ZooKeeper's servers.  InvalidConfig."""
    for server in servers.split(","):
        _require("/" not in server, "zookeeper", servers, "host:port without a path; `cluster` is the path")
        _check_address("zookeeper", server.strip())


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Of a process, or of a command: how it shows ZooKeeper who it is, and the other way round.  Empty: not given."""

    zookeeper_credentials_file: str = ""
    zookeeper_acl: str = ""
    zookeeper_tls_ca: str = ""
    zookeeper_tls_cert: str = ""
    zookeeper_tls_key: str = ""

    @classmethod
    def of(cls, source: Callable[[str], str]) -> Self:
        """``source`` answers the setting of a name.  InvalidConfig where they contradict one another."""
        made = cls(**{f.name: source(f.name) for f in fields(cls)})
        _require(made.zookeeper_acl in ("", *ACLS), "zookeeper_acl", made.zookeeper_acl, ", ".join(ACLS))
        if bool(made.zookeeper_tls_cert) != bool(made.zookeeper_tls_key):
            raise InvalidConfig("zookeeper_tls_cert and zookeeper_tls_key are given together, or neither")
        if made.zookeeper_tls_cert and not made.zookeeper_tls_ca:
            raise InvalidConfig("zookeeper_tls_cert is shown only to servers that zookeeper_tls_ca verifies: give both")
        return made


def _check_address(key: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    good = bool(host) and bool(_HOST.fullmatch(host.strip("[]"))) and port.isdecimal() and 1 <= int(port) <= PORT_MAX
    _require(good, key, address, f"host:port with a port from 1 to {PORT_MAX}")


def _distinct(config: NodeConfig, first: str, second: str) -> None:
    if getattr(config, first) > 0 and getattr(config, first) == getattr(config, second):
        raise InvalidConfig(f"{first} and {second} are both {getattr(config, first)}: each needs a port of its own")
