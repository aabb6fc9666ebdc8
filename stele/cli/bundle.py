"""``stele bundle``: the parts of namespaces that brokers own."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, group, with_client
from stele.cli.output import OutputFormat, report, show
from stele.client import Client
from stele.model import BundleInfo
from stele.services.wording import counted

app = group("Bundles: the parts of namespaces that brokers own.")

BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle, as `ls` lists it: NS/RANGE.")]


@app.command(epilog=examples("stele bundle ls", "stele bundle ls shop -o json"))
def ls(
    namespace: Annotated[str, typer.Argument(metavar="[NS]", help="Only bundles of this namespace.")] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List bundles with their owners, and why each was given to its owner."""

    async def work(client: Client) -> list[BundleInfo]:
        return await client.admin.list_bundles(namespace)

    found = with_client(server, directory, work)
    rows = [(b.bundle, b.broker, b.epoch, b.cause, b.partitions) for b in found]
    show(output, found, ("BUNDLE", "BROKER", "EPOCH", "CAUSE", "PARTITIONS"), rows)


@app.command(epilog=examples("stele bundle move shop/00000000-0fffffff --to br2"))
def move(
    bundle: BundleName,
    to: Annotated[str, typer.Option("--to", metavar="BROKER", help="Name of the broker that is to own it.")],
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Give a bundle to a broker.  It stays there until that broker goes, is drained or unloaded."""

    async def work(client: Client) -> None:
        await client.admin.move_bundle(bundle, to)

    with_client(server, directory, work, f"moving {bundle}")
    report(f"{bundle}: {to} owns it")


@app.command(epilog=examples("stele bundle split shop/00000000-0fffffff"))
def split(bundle: BundleName, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Cut a bundle in two, at the middle of its range; each half can have an owner of its own.  There is no way back."""

    async def work(client: Client) -> list[BundleInfo]:
        two = await client.admin.split_bundle(bundle)
        return [b for b in await client.admin.list_bundles(bundle.partition("/")[0]) if b.bundle in two]

    for half in with_client(server, directory, work, f"splitting {bundle}"):
        report(f"{half.bundle}: {counted(half.partitions, 'partition')}")
