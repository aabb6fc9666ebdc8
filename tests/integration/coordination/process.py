"""A process for the tests to kill: registers a name and a member node, campaigns if asked, and writes when told to.

One JSON line on stdout per thing that happened; one command per line on stdin (``write N``, ``leave``)."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
from typing import Any

import structlog

from stele.services.coordination import election as elections
from stele.services.coordination.election import Election
from stele.services.coordination.records import CounterRecord, MemberRecord
from stele.services.coordination.session import Session
from stele.services.coordination.znode import ANY_VERSION
from stele.services.errors import CoordinationUnknown, SteleError

WRITE_PATH = "stores/alloc"


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


async def main(args: argparse.Namespace) -> None:
    session = Session(args.hosts, args.cluster, args.timeout)
    await session.start(timeout_s=20)
    await load(args.hold)(session, args.name, args.endpoint).register()
    node = load(args.member)(session, "nameservers", args.name, MemberRecord(endpoint=args.endpoint))
    await node.register()
    session_id, password = session.credentials
    say(event="registered", session=session_id, password=password.hex())
    leadership = None
    if args.campaign:
        elections.Leadership = load(args.leadership)  # type: ignore[misc]
        election = Election(session, args.name, args.endpoint)
        await election.campaign()
        leadership = await election.elected()
        say(event="elected", epoch=leadership.epoch)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        if line[0] == "write" and leadership is not None:
            say(event="written", outcome=await write(leadership, int(line[1])))
        elif line[0] == "leave":
            await node.unregister()
            say(event="left")
    await session.close()


async def write(leadership: Any, number: int) -> str:
    """What came of it in the end, once the outcome is known."""
    while True:
        try:
            await leadership.transaction().set(WRITE_PATH, CounterRecord(next=number), ANY_VERSION).commit()
            return "accepted"
        except CoordinationUnknown:
            await asyncio.sleep(0.05)
        except SteleError as error:
            return error.reason


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser()
    for option in ("hosts", "cluster", "name", "endpoint"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--timeout", type=float, default=1.5)
    parser.add_argument("--campaign", action="store_true")
    parser.add_argument("--hold", default="stele.services.coordination.names:NameHold")
    parser.add_argument("--member", default="stele.services.coordination.members:Membership")
    parser.add_argument("--leadership", default="stele.services.coordination.election:Leadership")
    try:
        asyncio.run(main(parser.parse_args()))
    except SteleError as refused:
        say(event="refused", reason=refused.reason, message=str(refused))
        sys.exit(1)
