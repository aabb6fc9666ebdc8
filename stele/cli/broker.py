"""``stele broker``."""

from __future__ import annotations

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, group, with_client
from stele.cli.output import OutputFormat, moment, show
from stele.client import Client
from stele.model import BrokerInfo

app = group("Brokers and the bundles that they own.")


@app.callback()
def brokers() -> None:
    """Brokers and the bundles that they own."""


@app.command(epilog=examples("stele broker ls", "stele broker ls -o json"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List brokers."""

    async def work(client: Client) -> list[BrokerInfo]:
        return await client.admin.list_brokers()

    found = with_client(server, directory, work)
    rows = [
        (
            b.name,
            b.live,
            b.member.state if b.member else "",
            b.member.endpoint if b.member else "",
            b.member.advertised if b.member else "",
            len(b.bundles),
            moment(b.member.started_ms) if b.member else "",
        )
        for b in found
    ]
    show(output, found, ("NAME", "LIVE", "STATE", "ENDPOINT", "ADVERTISED", "BUNDLES", "STARTED"), rows)
