"""``stele partition``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli import rebalance
from stele.cli.decommission import find
from stele.cli.options import (
    DEFAULT_DIRECTORY,
    Directory,
    Output,
    ServerOption,
    TopicName,
    examples,
    group,
    with_client,
)
from stele.cli.output import LongListing, OutputFormat, report, show_facts, show_rows, size
from stele.cli.paging import Limit, pages
from stele.client import Client
from stele.listings import PARTITIONS_PER_PAGE
from stele.model import PartitionExplanation, PartitionInfo
from stele.services.errors import InvalidArgument, PartitionNotFound

app = group("Partitions: leaders, owners, replicas.")
rebalance.add_to(app)


Named = Annotated[str, typer.Argument(metavar="PARTITION", help="A partition as namespace/topic/number, or its group.")]


async def _find(client: Client, partition: str) -> PartitionInfo:
    topic, _, number = partition.rpartition("/")
    if not number.isdecimal() or len(number) > 20:
        raise InvalidArgument(f"a partition is namespace/topic/number or the number of a group, not {partition!r}")
    listed = await client.admin.list_partitions(topic)
    found = next((p for p in listed if (p.partition if topic else p.group) == int(number)), None)
    if found is None:
        raise PartitionNotFound(f"there is no partition {partition}; `stele partition ls` lists them")
    return found


async def _names(client: Client) -> dict[int, str]:
    return {s.store_id: s.name for s in await client.admin.list_stores()}


def _replicas(p: PartitionInfo, names: dict[int, str]) -> list[str]:
    """The leader is marked with a star, what is not in order with its state."""
    shown = []
    for r in p.replicas:
        name = names.get(r.store_id, str(r.store_id))
        if r.state == "leader" or (not r.state and r.store_id == p.leader_store_id):
            name += "*"
        elif r.state not in ("follower", ""):
            name += f"({r.state})"
        elif not r.endpoint:
            name += "(gone)"
        shown.append(name)
    return shown


@app.command(
    epilog=examples(
        "stele partition ls",
        "stele partition ls shop/orders -o json",
        "stele partition ls --limit 1000 --after shop/orders/7",
    )
)
def ls(
    topic: Annotated[str, typer.Argument(metavar="[NS/TOPIC]", help="Only partitions of this topic.")] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
    limit: Limit = None,
    after: Annotated[
        str,
        typer.Option(
            "--after", metavar="NS/TOPIC/N", help="Only partitions behind this one, in the order of the list."
        ),
    ] = "",
) -> None:
    """List partitions, by topic and number; the leading replica is marked with a star."""
    listing = LongListing(output, ("TOPIC", "PARTITION", "GROUP", "LEADER", "BROKER", "REPLICAS", "NEXT OFFSET"))

    async def work(client: Client) -> None:
        names = await _names(client)

        async def page(count: int, behind: str) -> list[PartitionInfo]:
            return await client.admin.list_partitions(topic, limit=count, after=behind)

        async for partitions in pages(page, lambda p: f"{p.topic}/{p.partition}", PARTITIONS_PER_PAGE, limit, after):
            listing.add(partitions, (_row(p, names) for p in partitions))

    with_client(server, directory, work)
    listing.end()


def _row(p: PartitionInfo, names: dict[int, str]) -> tuple[object, ...]:
    leader = names.get(p.leader_store_id, "")
    return p.topic, p.partition, p.group, leader, p.broker, _replicas(p, names), p.high_watermark


@app.command(epilog=examples("stele partition info shop/orders 0"))
def info(
    topic: TopicName,
    partition: Annotated[int, typer.Argument(help="Number of the partition, from 0 on.", min=0)],
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one partition and the state of each replica."""

    async def work(client: Client) -> tuple[list[PartitionInfo], dict[int, str]]:
        return await client.admin.list_partitions(topic), await _names(client)

    partitions, names = with_client(server, directory, work)
    found = next((p for p in partitions if p.partition == partition), None)
    if found is None:
        raise PartitionNotFound(f"{topic} has partitions 0 to {len(partitions) - 1}, not {partition}")
    facts = [
        ("partition", f"{found.topic}-{found.partition}"),
        ("group", found.group),
        ("leader", names.get(found.leader_store_id, "")),
        ("bundle", found.bundle),
        ("broker", f"{found.broker} {found.broker_address}".strip()),
        ("owner epoch", found.owner_epoch),
        ("first offset", found.log_start),
        ("next offset", found.high_watermark),
    ]
    show_facts(output, found, facts)
    if output is OutputFormat.TABLE:
        rows = [
            (
                names.get(r.store_id, ""),
                r.store_id,
                r.state or ("unknown" if r.endpoint else "gone"),
                r.term,
                r.commit_index,
                r.last_index,
                r.log_start,
                r.high_watermark,
                size(r.log_bytes),
                r.problem,
            )
            for r in found.replicas
        ]
        show_rows(
            ("STORE", "ID", "STATE", "TERM", "COMMIT", "LAST", "FIRST OFFSET", "NEXT OFFSET", "LOG", "PROBLEM"), rows
        )


@app.command(epilog=examples("stele partition move shop/orders/0 dn1 dn4", "stele partition move 17 1 4"))
def move(
    partition: Named,
    source: Annotated[str, typer.Argument(metavar="FROM", help="Name or id of the store that holds a replica.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="Name or id of the store that is to hold it.")],
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Move a replica to another store.  It goes on in the cluster; `stele operation ls` shows how far it is."""

    async def work(client: Client) -> PartitionInfo:
        found = await _find(client, partition)
        stores = await find(client, source), await find(client, to)
        await client.admin.move_partition(found.group, *(s.store_id for s in stores))
        return found

    found = with_client(server, directory, work, f"moving {partition}")
    report(f"{found.topic}-{found.partition}: moves from {source} to {to}; `stele operation info move-{found.group}`")


@app.command(
    "transfer-leader",
    epilog=examples(
        "stele partition transfer-leader shop/orders/0", "stele partition transfer-leader shop/orders/0 --to dn2"
    ),
)
def transfer_leader(
    partition: Named,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="STORE", help="Name or id of the store that is to lead; else the one that leads the fewest."
        ),
    ] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Let another replica lead a partition.  It holds everything before it does."""

    async def work(client: Client) -> tuple[PartitionInfo, tuple[str, str]]:
        found = await _find(client, partition)
        store_id = (await find(client, to)).store_id if to else 0
        before, now = await client.admin.transfer_leader(found.group, store_id)
        names = await _names(client)
        return found, (names.get(before, str(before)), names.get(now, str(now)))

    found, (before, now) = with_client(server, directory, work, f"handing {partition} over")
    report(
        f"{found.topic}-{found.partition}: {f'{now} leads already' if before == now else f'{now} leads in place of {before}'}"
    )


@app.command(epilog=examples("stele partition explain shop/orders/0", "stele partition explain 17 -o json"))
def explain(
    partition: Named,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say why a partition's replicas are where they are, why they move or do not, and what is waited for."""

    async def work(client: Client) -> tuple[PartitionExplanation, dict[int, str]]:
        found = await _find(client, partition)
        return await client.admin.explain_partition(found.group), await _names(client)

    said, names = with_client(server, directory, work)
    facts = [
        ("partition", f"{said.topic}-{said.partition}"),
        ("group", said.group),
        ("leader", said.leader),
        *(("waits for", waits) for waits in said.waits_for),
    ]
    show_facts(output, said, facts)
    if output is OutputFormat.TABLE:
        show_rows(
            ("STORE", "ID", "WHY HERE", "WHAT BECOMES OF IT"),
            [(names.get(r.store_id, ""), r.store_id, r.here, r.next) for r in said.replicas],
        )
