"""``stele nameserver``."""

from __future__ import annotations

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, group, with_client
from stele.cli.output import OutputFormat, moment, show
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
