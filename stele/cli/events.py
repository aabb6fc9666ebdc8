"""``stele events``."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from stele import arguments
from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, moment, show_json_line
from stele.client import Client

EPILOG = examples("stele events", "stele events --follow", "stele events --since 600 -o json | jq -r .kind")


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")] = False,
    since_s: Annotated[
        float, typer.Option("--since", metavar="SECONDS", help="Only the last so many seconds.", min=0)
    ] = 0,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what happened in the cluster, oldest first: one line per event."""

    arguments.number("--since", since_s, 0, arguments.TIMEOUT_S_MAX * 100, "of seconds")

    async def work(client: Client) -> None:
        since_ms = max(0, int((time.time() - since_s) * 1000)) if since_s else 0
        async for event in client.admin.events(follow, since_ms):
            if output is OutputFormat.JSON:
                show_json_line(event)
            else:
                said = {**event.facts, "cause": event.cause}
                facts = " ".join(f"{key}={value}" for key, value in sorted(said.items()) if value)
                print(f"{moment(event.time_ms)}  {event.kind:<26} {event.subject:<24} {facts}".rstrip())
            sys.stdout.flush()

    with_client(server, directory, work)
