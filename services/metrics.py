"""The admin port of a process: ``/livez``, ``/readyz`` (``?verbose``) and ``/metrics``.

``/livez`` answers as long as the event loop turns.  ``/readyz`` is 200 exactly while the process has started and its ready gate
is open, else 503.  The port opens before anything else of the process, so that a process that is still loading can be watched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from stele.services.config import join_address
from stele.services.ports import bind
from stele.services.ready import ReadyGate

# One choice for all: what is compared with what, and joined over processes, has the same bounds.
LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def latency(name: str, text: str, registry: CollectorRegistry, labels: tuple[str, ...] = ()) -> Histogram:
    """A histogram of seconds with the buckets that all have."""
    return Histogram(name, text, labels, registry=registry, buckets=LATENCY_S)


def new_registry() -> CollectorRegistry:
    """A registry of this process, with memory, CPU, open files and garbage collection in it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Answered(logging.Filter):
    """Leaves out what aiohttp says of a request that is no HTTP: the caller was answered with 400, and nothing is wrong here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_ANSWERED = _Answered()


class AdminServer:
    """``await AdminServer(...).start()`` binds and serves; ``endpoint`` is where."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        gate: ReadyGate,
        started: Callable[[], bool] = lambda: True,
    ) -> None:
        self._host, self._port = host, port
        self._registry, self._gate, self._started = registry, gate, started
        self._runner: web.AppRunner | None = None
        self.endpoint = ""

    async def start(self) -> int:
        """The bound port.  Raises PortTaken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        logging.getLogger("aiohttp.server").addFilter(_ANSWERED)
        listening = bind(self._host, self._port, setting="admin_port")
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.SockSite(runner, listening).start()
        except BaseException:
            listening.close()
            raise
        self._runner = runner
        bound: int = listening.getsockname()[1]
        self.endpoint = join_address(self._host, bound)
        return bound

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        ready = self._started() and self._gate.is_open
        rows = [("started", self._started(), ""), *self._gate.verbose()]
        if "verbose" in request.query:
            lines = [
                f"[{'+' if ok else '-'}]{name} {detail or ('ok' if ok else 'not yet')}" for name, ok, detail in rows
            ]
            text = "\n".join([*lines, f"readyz check {'passed' if ready else 'failed'}", ""])
        else:
            missing = ", ".join(name for name, ok, _ in rows if not ok)
            text = "ok\n" if ready else f"not ready: {missing}\n"
        return web.Response(text=text, status=200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
