"""``stele partition``."""

from __future__ import annotations

from typing import Annotated

import typer

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
from stele.cli.output import OutputFormat, report, show, show_facts, show_rows, size
from stele.client import Client
from stele.model import PartitionInfo
from stele.services.errors import InvalidArgument, PartitionNotFound

app = group("Partitions: leaders, owners, replicas.")


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


@app.command(epilog=examples("stele partition ls", "stele partition ls shop/orders -o json"))
def ls(
    topic: Annotated[str, typer.Argument(metavar="[NS/TOPIC]", help="Only partitions of this topic.")] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List partitions; the leading replica is marked with a star."""

    async def work(client: Client) -> tuple[list[PartitionInfo], dict[int, str]]:
        return await client.admin.list_partitions(topic), await _names(client)

    partitions, names = with_client(server, directory, work)
    rows = [
        (
            p.topic,
            p.partition,
            p.group,
            names.get(p.leader_store_id, ""),
            p.broker,
            _replicas(p, names),
            p.high_watermark,
        )
        for p in partitions
    ]
    show(output, partitions, ("TOPIC", "PARTITION", "GROUP", "LEADER", "BROKER", "REPLICAS", "NEXT OFFSET"), rows)


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
    partition: Annotated[
        str, typer.Argument(metavar="PARTITION", help="A partition as namespace/topic/number, or its group.")
    ],
    source: Annotated[str, typer.Argument(metavar="FROM", help="Name or id of the store that holds a replica.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="Name or id of the store that is to hold it.")],
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Move a replica to another store.  It goes on in the cluster; `stele operation ls` shows how far it is."""

    async def work(client: Client) -> PartitionInfo:
        topic, _, number = partition.rpartition("/")
        if not number.isdecimal() or len(number) > 20:
            raise InvalidArgument(f"a partition is namespace/topic/number or the number of a group, not {partition!r}")
        listed = await client.admin.list_partitions(topic)
        found = next((p for p in listed if (p.partition if topic else p.group) == int(number)), None)
        if found is None:
            raise PartitionNotFound(f"there is no partition {partition}; `stele partition ls` lists them")
        stores = await find(client, source), await find(client, to)
        await client.admin.move_partition(found.group, *(s.store_id for s in stores))
        return found

    found = with_client(server, directory, work, f"moving {partition}")
    report(f"{found.topic}-{found.partition}: moves from {source} to {to}; `stele operation info move-{found.group}`")
