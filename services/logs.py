"""Structured logs on stderr: JSON lines for machines, aligned columns for a terminal.

Guarantee: every line carries what was bound at start (role, node, cluster); a line that cannot be written (terminal gone,
disk full) is dropped and never disturbs the process.  Lines of libraries that use the standard ``logging`` come out in the same
form, from warning up.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from stele.services import library_log
from stele.services.library_log import LibraryEvent

FORMATS = ("auto", "json", "console")
LEVELS = ("debug", "info", "warning", "error")


class _LossyStream:
    """Writes where it can; a closed pipe or a full disk loses the line, not the process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass


def configure(format: str = "auto", level: str = "info", *, stream: TextIO | None = None, **bound: object) -> None:
    """Sets up logging for the whole process; may be called again."""
    target = stream if stream is not None else sys.stderr
    console = format == "console" or (format == "auto" and target.isatty())
    out: Any = _LossyStream(target)

    def bind(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in bound.items():
            event.setdefault(key, value)
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        bind,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    rendering: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=target.isatty(), timestamp_key="time")]
        if console
        else [structlog.processors.format_exc_info, _lead, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _name_logger, _spread],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger(library_log.NAME).setLevel(level.upper())


def _name_logger(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["logger"] = event["_record"].name
    return event


def _spread(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An event of our own that came through the standard library keeps its facts apart."""
    original = event["_record"].msg
    return {**event, "event": original.event, **original.facts} if isinstance(original, LibraryEvent) else event


def _lead(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What people look for first comes first."""
    first = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return {**first, **event}
