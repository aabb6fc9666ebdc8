"""The life of one process: configure, start, announce, drain, stop.

Guarantee: ``main`` ends with status 0 after SIGTERM or SIGINT (work handed over first, within ``drain_timeout_s``), at once by
the second signal, and with 1 after a failure, which it puts in exactly one line on stderr,
``stele-<role>: <what was wrong>; <way out>``; tracebacks go to the log alone.  A signal during start ends the start.  Whatever a role
or library leaves behind, the process is gone ``EXIT_GUARD_S`` after its last step.

Usage, in ``<role>/__main__.py``::

    sys.exit(main("datanode", DatanodeConfig, lambda config, runtime: Datanode(config, runtime)))

The role says where it listens with ``runtime.announce(endpoint, raft_endpoint)`` before its start returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from stele.services import errors, logs, malloc
from stele.services.config import NodeConfig, load
from stele.services.coordination.records import RECORD_FORMAT
from stele.services.errors import InternalError, InvalidConfig, SteleError
from stele.services.file_limit import raise_file_limit
from stele.services.json_files import write_json
from stele.services.metrics import AdminServer, new_registry
from stele.services.ready import ReadyGate
from stele.services.rpc.transport import GRPC, Transport
from stele.services.tasks import Tasks

STOP_TIMEOUT_S = 5.0
EXIT_GUARD_S = 5.0
RUN_FILE = "STELE_RUN_FILE"

if TYPE_CHECKING:
    from stele.services.coordination.session import Connect

_WAY_OUT: dict[type[SteleError], str] = {
    errors.InvalidConfig: "--help lists every setting",
    errors.NameTaken: "stop that process or choose another --name",
    errors.PortTaken: "stop the process that listens there or choose another port",
    errors.ClusterMismatch: "give it the --zookeeper, --cluster or data directory it belongs to",
    errors.FormatUnknown: "start it from the version that the other processes run, or a later one",
    errors.MetadataBehind: "restore the newer copy of ZooKeeper's data, or run `stele nameserver recover-metadata`",
    errors.StoreTombstone: "a removed store does not come back: start it with an empty --data-dir, it then gets a new id",
    errors.DirectoryBusy: "stop the process that uses it or give another --data-dir",
    errors.CoordinationRefused: "give it what ZooKeeper asks for: the --zookeeper-credentials-file, the --zookeeper-tls-ca, -cert and -key",
    errors.CoordinationUnreachable: "start ZooKeeper or set --zookeeper to where it is",
    errors.CoordinationUnknown: "ZooKeeper did not answer: look at its log, then start this process again",
    errors.DiskFull: "free some space, then start it again",
    errors.StorageFailed: "check the disk, then start it again",
    errors.LogDamaged: "keep the files for inspection and start it with an empty --data-dir: it is filled from its peers",
    errors.ToolMissing: "install it, then start this process again",
}
_DEFAULT_WAY_OUT = "its log says more"

ConfigT = TypeVar("ConfigT", bound=NodeConfig)


class Role(Protocol):
    """What a process does.  Each step is called at most once; ``stop`` is called even if ``start`` failed or was cut short."""

    async def start(self) -> None: ...

    async def drain(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class Runtime:
    """What a role is given by its process."""

    config: Any
    log: Any
    ready: ReadyGate = field(default_factory=ReadyGate)
    registry: CollectorRegistry = field(default_factory=new_registry)
    admin: AdminServer | None = None
    transport: Transport = GRPC
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    endpoint: str = ""
    advertised: str = ""
    raft_endpoint: str = ""
    failure: SteleError | None = None
    zookeeper: Connect | None = None  # in place of the real client
    record_format: int = RECORD_FORMAT  # the highest that it knows

    def announce(self, endpoint: str, raft_endpoint: str = "", advertised: str = "") -> None:
        """Says where this process is reached; published once the process is ready."""
        self.endpoint, self.raft_endpoint = endpoint, raft_endpoint
        self.advertised = advertised or self.config.external_address or endpoint

    def fail(self, error: SteleError) -> None:
        """Ends the process with status 1 and one line about ``error``; the first failure counts."""
        self.failure = self.failure or error
        self.stopping.set()

    def task_failed(self, name: str, error: BaseException) -> None:
        """A task that the process cannot do without has ended with ``error``: that ends the process."""
        if not isinstance(error, SteleError):
            self.log.error("task_failed", task=name, exc_info=error)
            error = InternalError(f"{name}: {type(error).__name__} {error}")
        self.fail(error)


def main(
    role_name: str,
    config_type: type[ConfigT],
    build: Callable[[ConfigT, Runtime], Role],
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a role until it is told to stop; the exit status."""
    try:
        config = load(config_type, sys.argv[1:] if argv is None else argv, os.environ)
    except InvalidConfig as e:
        _report(role_name, e)
        return 1
    logs.configure(config.log_format, config.log_level, role=role_name, node=config.name, cluster=config.cluster)
    malloc.tune()
    raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        status = runner.run(_Process(role_name, config, build).run())
        _guard_exit(status)
    return status


class _Process:
    """One run; its steps happen in the order of the methods."""

    def __init__(self, role_name: str, config: Any, build: Callable[[Any, Runtime], Role]) -> None:
        self._role_name, self._config, self._build = role_name, config, build
        self._log = structlog.get_logger()
        self._runtime = Runtime(config=config, log=self._log)
        self._run_file = Path(os.environ[RUN_FILE]) if os.environ.get(RUN_FILE) else None
        self._started = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        role: Role | None = None
        try:
            self._forget_run_file()
            await self._open_admin()
            role = self._build(self._config, self._runtime)
            await self._serve(role)
        except SteleError as e:
            self._runtime.fail(e)
        except Exception as e:
            self._log.exception("process_crashed")
            self._runtime.fail(SteleError(f"internal error {type(e).__name__}"))
        finally:
            self._runtime.stopping.set()
            self._runtime.ready.drain()
            if role is not None:
                await self._bounded("stop", role.stop(), STOP_TIMEOUT_S)
            if self._runtime.admin is not None:
                await self._bounded("stop_admin", self._runtime.admin.stop(), STOP_TIMEOUT_S)
            self._forget_run_file()
        failure = self._runtime.failure
        if failure is None:
            self._log.info("process_stopped")
            return 0
        self._log.error("process_failed", reason=failure.reason, error=failure.message, **_facts(failure))
        _report(self._role_name, failure)
        return 1

    async def _open_admin(self) -> None:
        if self._config.admin_port < 0:
            return
        runtime = self._runtime
        admin = AdminServer(
            self._config.host, self._config.admin_port, runtime.registry, runtime.ready, lambda: self._started
        )
        port = await admin.start()
        admin.endpoint = self._config.endpoint(port)
        runtime.admin = admin

    async def _serve(self, role: Role) -> None:
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        starting = asyncio.create_task(self._start(role))
        try:
            await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                self._log.info("start_abandoned")
                return
            starting.result()
            # Nobody could find a process that was not announced: its failure ends the process.
            announcing = Tasks(self._runtime.task_failed).start(self._announce_when_ready(), "announce")
            await stopping
            await _cancelled(announcing)
        finally:
            await _cancelled(starting)
            await _cancelled(stopping)
        self._log.info("process_draining", timeout_s=self._config.drain_timeout_s)
        self._runtime.ready.drain()
        if self._runtime.failure is None:
            await self._bounded("drain", role.drain(), self._config.drain_timeout_s)

    async def _start(self, role: Role) -> None:
        await role.start()
        self._started = True

    async def _announce_when_ready(self) -> None:
        runtime = self._runtime
        await runtime.ready.wait()
        admin = runtime.admin.endpoint if runtime.admin is not None else ""
        if self._run_file is not None:
            content = {
                "pid": os.getpid(),
                "endpoint": runtime.endpoint,
                "advertised": runtime.advertised,
                "raft_endpoint": runtime.raft_endpoint,
                "admin_endpoint": admin,
                "ready": True,
            }
            write_json(self._run_file, content)
        self._log.info(
            "process_ready", endpoint=runtime.endpoint, advertised=runtime.advertised, admin=admin, pid=os.getpid()
        )

    async def _bounded(self, step: str, work: Awaitable[None], timeout_s: float) -> None:
        """A step of going away: neither its failure nor its length keeps the process from going."""
        try:
            await asyncio.wait_for(work, timeout_s)
        except TimeoutError:
            self._log.warning(f"{step}_timed_out", timeout_s=timeout_s)
        except Exception:
            self._log.exception(f"{step}_failed")

    def _signalled(self, number: signal.Signals) -> None:
        for again in (
            signal.SIGTERM,
            signal.SIGINT,
        ):  # the second one is the system's affair: it works even if the loop hangs
            asyncio.get_running_loop().remove_signal_handler(again)
            signal.signal(again, signal.SIG_DFL)
        self._log.info("signal_received", signal=number.name)
        self._runtime.stopping.set()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.error("unhandled_exception", message=context.get("message"), exc_info=context.get("exception"))

    def _forget_run_file(self) -> None:
        if self._run_file is not None:
            self._run_file.unlink(missing_ok=True)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Ends a task and waits for it, whatever it does on its way out."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await asyncio.wait({task}, timeout=STOP_TIMEOUT_S)
    if task.done() and not task.cancelled():
        task.exception()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _report(role_name: str, error: SteleError) -> None:
    way_out = next((text for kind, text in _WAY_OUT.items() if isinstance(error, kind)), _DEFAULT_WAY_OUT)
    what = " ".join(error.message.split()).rstrip(".;")
    with contextlib.suppress(OSError, ValueError):
        print(f"stele-{role_name}: {what}; {way_out}", file=sys.stderr, flush=True)


def _facts(error: SteleError) -> dict[str, str]:
    return {f"fact_{key}": value for key, value in error.facts.items()}


def _guard_exit(status: int) -> None:
    """Threads that libraries leave behind (an executor waiting for a dead ZooKeeper) do not keep the process alive."""

    def leave() -> None:
        _flush()
        os._exit(status)

    timer = threading.Timer(EXIT_GUARD_S, leave)
    timer.daemon = True
    timer.start()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
