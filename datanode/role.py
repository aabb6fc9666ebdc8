"""The datanode process: what it opens, in which order, and how it goes.

Start: data directory locked → ports bound → ZooKeeper session → name → store id → Raft port → member node
(``loading``) → groups loaded and settled → client port open → replicas may lead → member node ``ready`` (R1.8, R4.1,
R4.2, R4.6).  ``start`` returns once the node is registered; the rest goes on behind it and ends in the process's ready
gate.

Drain is the mirror image (R4.8): leadership handed over → member node gone → client port closed.

Both ports are known before they open: with port 0 the system chooses one at start, and the socket stays bound, not
listening, until its server starts.  A port that is taken is found before anything is registered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from stele.datanode.directory import DataDirectory
from stele.datanode.disk import Disk
from stele.datanode.folder_watch import FolderWatch
from stele.datanode.gate import Gate
from stele.datanode.log_cleaner import LogCleaner
from stele.datanode.mender import DamageMetrics
from stele.datanode.metrics import DatanodeMetrics, SyncMetrics
from stele.datanode.observed_time import ObservedTime
from stele.datanode.registration import Registration, wait_until_alone
from stele.datanode.reopening import Reopening
from stele.datanode.retention import SnapshotSpacing
from stele.datanode.scrub import Scrub
from stele.datanode.server import DatanodeServicer
from stele.datanode.storage import opener
from stele.datanode.store import Store
from stele.datanode.trash import Trash
from stele.services.clock import SYSTEM, Clock
from stele.services.config import DatanodeConfig
from stele.services.coordination.enrolment import Presence, open_session
from stele.services.coordination.members import known_nameservers
from stele.services.coordination.metadata import MetadataStore
from stele.services.errors import CoordinationUnknown
from stele.services.files import FileSystem
from stele.services.pb import datanode_pb2_grpc, raft_pb2_grpc
from stele.services.process import Runtime
from stele.services.raft.build_pace import BuildPace
from stele.services.raft.registry import Registry
from stele.services.raft.timing import Timing
from stele.services.raft.transport import RaftTransport
from stele.services.rpc.channels import Channels
from stele.services.rpc.nameservers import NameserverClient
from stele.services.rpc.resolver import Resolver
from stele.services.rpc.servers import Server
from stele.services.tasks import Tasks

HEARTBEAT_S = 0.15  # of leaders, unless the election timeout is so short that it must be less
PROGRESS_INTERVAL_S = 1.0  # between two writes of the load progress to ZooKeeper
HANDOVER_SHARE = 0.6  # of the drain's time

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What tests put in place of the product's parts."""

    gate: Callable[..., Gate] = Gate
    store: Callable[..., Store] = Store
    directory: Callable[[Path], DataDirectory] = DataDirectory
    file_system: FileSystem | None = None
    observed_time: Callable[..., ObservedTime] = ObservedTime
    free_bytes: Callable[[], int] | None = None
    clock: Clock = SYSTEM
    rng: random.Random = field(default_factory=random.Random)


class Datanode:
    """A role (services/process.py)."""

    def __init__(self, config: DatanodeConfig, runtime: Runtime, parts: Parts | None = None) -> None:
        self._config = config
        self._runtime = runtime
        self._parts = parts or Parts()
        self._opened = AsyncExitStack()
        self._tasks = Tasks(runtime.task_failed)
        self._draining = False
        self._opening: asyncio.Task[None] | None = None
        self.endpoint = ""
        self.store: Store
        self._server: Server | None = None
        self._presence: Presence | None = None

    # --- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        config, runtime = self._config, self._runtime
        directory = await asyncio.to_thread(self._parts.directory, Path(config.data_dir))
        self._opened.callback(directory.close)
        self._reserved = runtime.transport.reserve(config.host, config.port)
        self._opened.callback(self._reserved.close)
        raft_reserved = runtime.transport.reserve(config.host, config.raft_port, setting="raft_port")
        self._opened.callback(raft_reserved.close)
        session = await open_session(config, runtime, self._opened, directory.identity.uuid)
        directory.check_cluster(session.cluster_id)
        channels = Channels(transport=runtime.transport)
        self._opened.push_async_callback(channels.close)
        nameservers = NameserverClient(channels, known_nameservers(session), rng=self._parts.rng)
        records = MetadataStore(session)
        registration = Registration(directory, config.name, session.cluster_id, nameservers, records, config.rack)
        presence = self._presence = Presence("datanodes", config, runtime, session)
        presence.endpoint = self.endpoint = config.endpoint(self._reserved.number)
        # What may be refused comes first: a start that fails leaves no store behind and no other one renamed.
        if directory.identity.store_id:
            await wait_until_alone(session, directory, config.name)
        await presence.take_name()
        confirmed = await registration.obtain()
        await wait_until_alone(session, directory, config.name)
        raft_port = raft_reserved.number
        raft_endpoint = await self._open_raft(directory, session.cluster_id, nameservers, raft_port)
        raft_reserved.close()
        runtime.announce(self.endpoint, raft_endpoint, config.advertised(self._reserved.number))
        await self._register(raft_endpoint)
        self._tasks.start(self._observed.keep(), "observed-time")
        if not confirmed:
            self._tasks.start(registration.confirm(), "confirm-registration")
        self._tasks.start(self.store.disk.watch(lambda: self._disk_changed()), "disk")
        gate = self._parts.gate(self.store, runtime.ready, config.load_parallelism, self._open_port, self._report)
        self._opening = self._tasks.start(self._open_gate(gate), "gate")
        self._tasks.start(self._keep_trash(), "trash")
        self._tasks.start(self._clean_logs(), "clean-logs")
        self._tasks.start(self._reopen_failed(), "reopen-failed")
        self._tasks.start(FolderWatch(self.store).run(), "folder-watch")
        self._tasks.start(self.store.silence.watch(), "disk-silence")
        if config.scrub_bytes_per_s:
            self._tasks.start(self._scrub(), "scrub")

    async def _open_raft(
        self, directory: DataDirectory, cluster_id: str, nameservers: NameserverClient, port: int
    ) -> str:
        config, parts, metrics = self._config, self._parts, self._runtime.registry
        store_id = directory.identity.store_id
        channels = Channels(transport=self._runtime.transport)  # of their own: the transport closes them to dial anew
        self._opened.push_async_callback(channels.close)
        resolver = Resolver(nameservers.lookup_store, rng=parts.rng, registry=metrics)
        self._opened.push_async_callback(resolver.close)
        timing = Timing(
            heartbeat_s=min(HEARTBEAT_S, config.election_timeout_min_s / 4),
            election_min_s=config.election_timeout_min_s,
            election_max_s=config.election_timeout_max_s,
        )
        pace = BuildPace(config.build_bytes_per_s)
        transport = RaftTransport(store_id, cluster_id, channels, resolver, parts.rng, timing=timing, pace=pace)
        disk = Disk(directory, config.disk_reserve_bytes, parts.free_bytes)
        await disk.look()
        self._observed = await asyncio.to_thread(parts.observed_time, directory.observed_path, parts.clock)
        self._opened.push_async_callback(asyncio.to_thread, self._observed.record)
        registry = Registry(
            store_id,
            directory.groups_path,
            transport,
            opener(
                config.segment_bytes,
                config.disk_reserve_bytes // 2,
                parts.file_system,
                synced=SyncMetrics(metrics).synced,
            ),
            observed_ms=self._observed.now_ms,
            clock=parts.clock,
            rng=parts.rng,
            timing=timing,
            entry_bytes_max=config.entry_bytes_max,
            metrics=metrics,
            has_room=disk.has_room_to_lead,
            pace=pace,
        )
        self.store = parts.store(directory, registry, disk, config.entry_bytes_max)
        self.store.on_removed = self._runtime.fail
        self._trash = Trash(directory.trash_path, config.trash_retention_s, lambda: disk.is_short, disk.look)
        self._metrics = DatanodeMetrics(metrics, self.store)
        self.store.mender.metrics = DamageMetrics(metrics)
        server = Server(config.host, port, transport=self._runtime.transport)
        server.add(raft_pb2_grpc.add_RaftServicer_to_server, transport, "stele.v1.Raft")
        self._opened.push_async_callback(server.stop)
        self._opened.push_async_callback(transport.close)
        self._opened.push_async_callback(self.store.close)
        return config.endpoint(await server.start())

    async def _register(self, raft_endpoint: str) -> None:
        assert self._presence is not None
        await self._presence.become_member("loading", store_id=self.store.store_id, raft_endpoint=raft_endpoint)

    # --- the gate ---------------------------------------------------------------------------------------------------

    async def _open_gate(self, gate: Gate) -> None:
        progress = self._tasks.start(self._report_progress(), "load-progress")
        try:
            await gate.open()
        finally:
            progress.cancel()

    async def _open_port(self) -> None:
        server = Server(self._config.host, self._reserved.number, transport=self._runtime.transport)
        server.add(
            datanode_pb2_grpc.add_DatanodeServicer_to_server,
            DatanodeServicer(self.store, self._metrics, self._trash),
            "stele.v1.Datanode",
        )
        self._opened.push_async_callback(server.stop)
        await server.start()
        self._server = server
        self._reserved.close()

    async def _report(self, state: str, loaded: int, total: int) -> None:
        """The member record follows; without ZooKeeper it follows later."""
        assert self._presence is not None
        try:
            await self._presence.update(state=state, loaded=loaded, total=total)
        except CoordinationUnknown as e:
            log.warning("member_state_unsettled", state=state, error=e.message)

    async def _report_progress(self) -> None:
        reported = (0, 0)
        while self.store.state == "loading":  # looked at right before each write: "loading" must not follow "ready"
            now = (self.store.loaded, self.store.total)
            if now != reported:
                reported = now
                await self._report("loading", *now)
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    async def _keep_trash(self) -> None:
        await self._runtime.ready.wait("loaded")
        await self._trash.run()

    async def _reopen_failed(self) -> None:
        """A failure in it ends the process: nobody else would bring its replicas back."""
        await self._runtime.ready.wait("loaded")
        await Reopening(self.store, self._parts.rng).run()

    async def _clean_logs(self) -> None:
        await self._runtime.ready.wait("loaded")
        config = self._config
        spacing = SnapshotSpacing(config.snapshot_bytes, round(config.snapshot_interval_s * 1000))
        store = self.store
        cleaner = LogCleaner(
            store.replicas,
            spacing,
            config.retention_check_s,
            lambda: store.disk.disk_full,
            self._observed.now_ms,
            self._parts.clock,
        )
        await cleaner.run()

    async def _scrub(self) -> None:
        await self._runtime.ready.wait("loaded")
        config, store = self._config, self.store
        await Scrub(
            store.replicas,
            config.scrub_bytes_per_s,
            config.scrub_interval_s,
            store.mender.found,
            self._metrics.scrubbed,
            store.mender.snapshots_whole,
        ).run()

    def _disk_changed(self) -> None:
        """A store without room hands its leaderships over once: one of the others may have some."""
        if self.store.disk.disk_full:
            for group in self.store.registry.groups():
                group.transfer_leadership(cause="disk_full")

    # --- the end ----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        self._draining = True
        if not hasattr(self, "store"):
            return
        if self._opening is not None:
            # BEFORE anything is handed over: what still opens would open the port, and lead, behind it.
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._server is not None:
            self._server.set_serving(False)
        self.store.enter("draining")
        if self._presence is not None:
            await self._presence.tell_draining()
        await self.hand_over()
        await self.leave()
        await self.close_port()

    async def hand_over(self) -> None:
        left = await self.store.registry.transfer_all(self._config.drain_timeout_s * HANDOVER_SHARE)
        log.info("leadership_handed_over", still_led=left)

    async def leave(self) -> None:
        if self._presence is not None:
            await self._presence.leave_members()
            await self._presence.release_name()

    async def close_port(self) -> None:
        if self._server is not None:
            await self._server.stop(self._config.drain_timeout_s * (1 - HANDOVER_SHARE) / 2)

    async def stop(self) -> None:
        await self._tasks.cancel()
        await self._opened.aclose()
