"""What commands share that work on ZooKeeper's tree itself."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from stele.cli.options import run
from stele.cli.output import shown, working
from stele.local.state import StateDirectory
from stele.services.errors import InvalidArgument
from stele.services.extras import require

if TYPE_CHECKING:
    from stele.services.coordination.session import Session

T = TypeVar("T")
SESSION_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0

ZookeeperOption = Annotated[
    str,
    typer.Option(
        "--zookeeper",
        envvar="STELE_ZOOKEEPER",
        metavar="HOST:PORT,…",
        help="Servers of ZooKeeper.  Without it: that of the local cluster in --dir.  The variables STELE_ZOOKEEPER_CREDENTIALS, "
        "…_CREDENTIALS_FILE and …_TLS_CA, …_TLS_CERT, …_TLS_KEY are those of the processes.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        envvar="STELE_CLUSTER",
        metavar="NAME",
        help="Cluster, as its processes are told (stele).  Without --zookeeper: the local one's.",
    ),
]


class OnTree(Protocol):
    """Runs work with a session, under a spinner that says what is done."""

    def __call__(self, work: Callable[[Session], Awaitable[T]], doing: str) -> T: ...


def on_tree(zookeeper: str, cluster: str, directory: Path) -> OnTree:
    """What runs work on ZooKeeper's tree of the cluster, which it leaves as it is.  How it shows ZooKeeper who it is stands in the
    environment.  ToolMissing, NoCluster, InvalidConfig."""
    require("server", "stele metadata")
    from stele.services import logs
    from stele.services.config import PROCESS_NAMES, AccessSettings, check_zookeeper, is_process_name
    from stele.services.coordination.access import ZooKeeperAccess
    from stele.services.coordination.kazoo_client import LeaseClient
    from stele.services.coordination.session import Session
    from stele.services.settings import variable

    if not zookeeper:
        from stele.local.cluster import LocalCluster

        local = LocalCluster(directory)
        zookeeper, cluster = local.zookeeper_hosts, cluster or StateDirectory(directory).load().cluster
    cluster = cluster or "stele"
    check_zookeeper(zookeeper)
    if not is_process_name(cluster):
        raise InvalidArgument(f"the cluster's name {shown(cluster, 64)!r} is not accepted: {PROCESS_NAMES}")
    settings = AccessSettings.of(lambda name: os.environ.get(variable(name), ""))
    connect = functools.partial(LeaseClient, access=ZooKeeperAccess.of(settings, os.environ))
    logs.configure(level="error")

    async def with_session(work: Callable[[Session], Awaitable[T]]) -> T:
        session = Session(zookeeper, cluster, SESSION_TIMEOUT_S, connect=connect)
        await session.start(CONNECT_TIMEOUT_S, prepares=False)
        try:
            return await work(session)
        finally:
            await session.close()

    def runs(work: Callable[[Session], Awaitable[T]], doing: str) -> T:
        with working(doing):
            return run(with_session(work))

    return runs
