"""Log lines: bound facts on every one, one form for all, and never a failure of the process."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stele.services import logs
from stele.services.library_log import LibraryLog


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("stele").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_what_was_bound() -> None:
    stream = io.StringIO()
    logs.configure("auto", "info", stream=stream, role="broker", node="br1", cluster="c")
    log = structlog.get_logger()
    log.info("bundle_moved", bundle="a/b", epoch=3)
    log.debug("unseen")
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["level"] == "info"
    assert {k: line[k] for k in ("event", "role", "node", "cluster", "bundle", "epoch")} == {
        "event": "bundle_moved",
        "role": "broker",
        "node": "br1",
        "cluster": "c",
        "bundle": "a/b",
        "epoch": 3,
    }


def test_library_lines_come_out_alike_and_only_from_warning_up() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream=stream, node="br1")
    logging.getLogger("kazoo.client").info("chatter")
    logging.getLogger("kazoo.client").warning("connection %s", "dropped")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["node"]) == ("connection dropped", "kazoo.client", "br1")


def test_events_of_shared_code_come_out_like_those_of_the_role() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream=stream, node="br1")
    LibraryLog("nameservers").info("routing_watched", name="ns1", nameserver="127.0.0.1:7000")
    LibraryLog("nameservers").debug("unseen")
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert {k: line[k] for k in ("level", "event", "name", "nameserver", "node", "logger")} == {
        "level": "info",
        "event": "routing_watched",
        "name": "ns1",
        "nameserver": "127.0.0.1:7000",
        "node": "br1",
        "logger": "stele.nameservers",
    }


def test_in_a_program_of_somebody_else_events_are_standard_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="stele"):
        LibraryLog("producer").warning("batch_failed", topic="shop/orders", messages=3)
    assert caplog.messages == ["batch_failed topic=shop/orders messages=3"]
    assert caplog.records[0].funcName == "test_in_a_program_of_somebody_else_events_are_standard_records"


def test_a_traceback_is_one_line() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    try:
        raise ValueError("inside")
    except ValueError:
        structlog.get_logger().exception("crashed")
    (line,) = lines(stream)
    assert "ValueError: inside" in str(line["exception"])


def test_a_line_that_cannot_be_written_is_dropped() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    logs.configure("console", stream=Gone())
    structlog.get_logger().warning("nobody_reads_this")
    logging.getLogger("x").error("nor this")
