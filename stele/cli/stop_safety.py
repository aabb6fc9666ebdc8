"""``stele safe-to-stop``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele import arguments
from stele.cli.options import DEFAULT_DIRECTORY, FAILED, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, report, show_json
from stele.cli.progress import ChangedLines
from stele.client import Client
from stele.model import StopSafety
from stele.services.errors import Timeout

EPILOG = examples(
    "stele safe-to-stop dn1",
    "stele safe-to-stop dn1 --wait 120 && systemctl restart stele-dn1 && stele safe-to-stop dn1 --wait 120",
    "stele safe-to-stop br1 -o json | jq -r '.reasons[]'",
)


def safe_to_stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a nameserver, datanode or broker.")],
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Ask again until it is safe, this long at most.", min=0)
    ] = 0.0,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say whether a nameserver, datanode or broker can be stopped now: no partition would be left without a majority, no bundle without a
    broker, no leadership without a successor, and nobody is only just back.  Exit status 1 with the reasons, one a line, unless it is
    safe."""
    arguments.timeout_s(wait_s, "--wait")

    async def work(client: Client) -> StopSafety:
        if not wait_s:
            return await client.admin.safe_to_stop(name)
        lines, found = ChangedLines(), StopSafety(name, "", False)
        try:
            async for found in client.admin.until_safe_to_stop(name, wait_s):
                if not found.safe:
                    lines.tell(f"waiting: {found.reasons[0]}" if found.reasons else "waiting")
        except Timeout:
            pass
        return found

    found = with_client(server, directory, work, f"asking whether {name} can be stopped")
    if output is OutputFormat.JSON:
        show_json(found)
    elif found.safe:
        report(f"{name}: safe to stop")
    else:
        for reason in found.reasons:
            print(reason)
    if not found.safe:
        raise typer.Exit(FAILED)
