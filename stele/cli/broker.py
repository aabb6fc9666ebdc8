"""``stele broker``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele import arguments
from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, group, with_client
from stele.cli.output import OutputFormat, moment, report, show, show_json
from stele.cli.progress import ChangedLines, WaitTimeout
from stele.client import Client
from stele.model import BrokerInfo
from stele.services.wording import counted

app = group("Brokers and the bundles that they own.")

BrokerName = Annotated[str, typer.Argument(metavar="BROKER", help="Name of a broker.")]


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
            ", ".join([*([b.member.state] if b.member else []), *(["drained"] if b.drained else [])]),
            b.member.endpoint if b.member else "",
            b.member.advertised if b.member else "",
            len(b.bundles),
            moment(b.member.started_ms) if b.member else "",
        )
        for b in found
    ]
    show(output, found, ("NAME", "LIVE", "STATE", "ENDPOINT", "ADVERTISED", "BUNDLES", "STARTED"), rows)


@app.command(epilog=examples("stele broker drain br1 --wait", "stele broker drain br1 --wait --timeout 60"))
def drain(
    broker: BrokerName,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has no bundle left.")] = False,
    timeout_s: WaitTimeout = 600.0,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Move every bundle away from a broker and give it none, until `undrain`.  It runs on; a process of its name that starts gets none
    either."""
    arguments.timeout_s(timeout_s, "--timeout")

    async def work(client: Client) -> None:
        await client.admin.drain_broker(broker)

    with_client(server, directory, work, f"draining {broker}")
    report(f"{broker}: drained, and gets no bundle; `stele broker undrain {broker}` takes it back")
    if not wait:
        return

    async def follow(client: Client) -> None:
        progress = ChangedLines()
        async for left in client.admin.draining(broker, timeout_s):
            progress.tell(f"{broker}: {counted(left, 'bundle')} left")

    with_client(server, directory, follow, f"waiting until {broker} has no bundle")
    report(f"{broker}: has no bundle")


@app.command(epilog=examples("stele broker undrain br1"))
def undrain(broker: BrokerName, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Let a broker be given bundles again."""

    async def work(client: Client) -> None:
        await client.admin.undrain_broker(broker)

    with_client(server, directory, work, f"undraining {broker}")
    report(f"{broker}: may be given bundles")


@app.command(epilog=examples("stele broker unload br1", "stele broker unload br1 shop/00000000-0fffffff"))
def unload(
    broker: BrokerName,
    bundles: Annotated[
        list[str] | None, typer.Argument(metavar="[BUNDLE]...", help="Bundles of it; without any, all that it has.")
    ] = None,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Give bundles of a broker to others, once; it may be given some again."""

    async def work(client: Client) -> dict[str, str]:
        return await client.admin.unload_broker(broker, bundles or None)

    moved = with_client(server, directory, work, f"unloading {broker}")
    if output is OutputFormat.JSON:
        show_json(moved)
        return
    for bundle, owner in moved.items():
        report(f"{bundle}: {owner} owns it")
    for bundle in bundles or ():
        if bundle not in moved:
            report(f"{bundle}: is not {broker}'s")
    if not moved and not bundles:
        report(f"{broker}: has no bundle")
