"""``stele nameserver``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import (
    DEFAULT_DIRECTORY,
    Directory,
    Output,
    ServerOption,
    confirm,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, moment, report, show
from stele.client import Client
from stele.model import NameserverInfo

app = group("Nameservers and which of them leads.")


@app.callback()
def nameservers() -> None:
    """Nameservers and which of them leads."""


@app.command(epilog=examples("stele nameserver ls", "stele nameserver ls -o json | jq -r '.[] | select(.leader).name'"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List nameservers."""

    async def work(client: Client) -> list[NameserverInfo]:
        return await client.admin.list_nameservers()

    found = with_client(server, directory, work)
    rows = [
        (
            n.name,
            "leader" if n.leader else "follower",
            n.epoch or "",
            n.member.state,
            n.member.endpoint,
            moment(n.member.started_ms),
        )
        for n in found
    ]
    show(output, found, ("NAME", "ROLE", "EPOCH", "STATE", "ENDPOINT", "STARTED"), rows)


@app.command("recover-metadata", epilog=examples("stele nameserver recover-metadata"))
def recover_metadata(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Go on with an older copy of ZooKeeper's records, where there is no newer one: epoch and ids rise above what the stores have seen.
    Topics that the copy lacks remain as orphans."""
    confirm("Go on with ZooKeeper's older copy of the records, for good?", yes)

    async def work(client: Client) -> None:
        await client.admin.recover_metadata()

    with_client(server, directory, work, "raising epoch and ids")
    report("recovered; `stele store orphans ls` lists what the copy lacks")
