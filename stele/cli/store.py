"""``stele store``: the datanodes and what they hold."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli import decommission, orphans
from stele.cli.options import (
    DEFAULT_DIRECTORY,
    FAILED,
    Directory,
    Output,
    ServerOption,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, moment, report, show, show_facts, show_json, show_rows, size
from stele.client import Client
from stele.model import PartitionInfo, StoreInfo, TrashInfo
from stele.services.errors import InvalidArgument
from stele.services.units import shown_span

app = group("Stores: the datanodes and what they hold.")
decommission.add_to(app)
app.add_typer(orphans.app, name="orphans")


@app.command(epilog=examples("stele store ls", "stele store ls -o json"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List stores with their load progress, leaders and free space."""

    async def work(client: Client) -> list[StoreInfo]:
        return await client.admin.list_stores()

    stores = with_client(server, directory, work)
    rows = [
        (
            s.store_id,
            s.name,
            f"{s.state}, cordoned" if s.cordoned else s.state,
            s.rack,
            s.live,
            s.status or (s.member.state if s.member else ""),
            f"{s.loaded}/{s.total}",
            s.replicas,
            s.leaders,
            size(s.disk_free_bytes) if s.disk_free_bytes else "",
            s.member.endpoint if s.member else "",
        )
        for s in stores
    ]
    columns = ("ID", "NAME", "STATE", "RACK", "LIVE", "STATUS", "LOADED", "REPLICAS", "LEADERS", "FREE", "ENDPOINT")
    show(output, stores, columns, rows)


@app.command(epilog=examples("stele store info dn1", "stele store info 2 -o json"))
def info(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Name or id of a store.")],
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one store and the partitions that it holds."""

    async def work(client: Client) -> tuple[list[StoreInfo], list[PartitionInfo]]:
        return await client.admin.list_stores(), await client.admin.list_partitions()

    stores, partitions = with_client(server, directory, work)
    found = next((s for s in stores if store in (s.name, str(s.store_id))), None)
    if found is None:
        raise InvalidArgument(f"there is no store {store!r}; there are {', '.join(s.name for s in stores) or 'none'}")
    held = [(p, r) for p in partitions for r in p.replicas if r.store_id == found.store_id]
    if output is OutputFormat.JSON:
        show_json(
            {"store": found, "replicas": [{"topic": p.topic, "partition": p.partition, "replica": r} for p, r in held]}
        )
        return
    facts = [
        ("store", f"{found.name} (id {found.store_id})"),
        ("state", f"{found.state}, {'live' if found.live else 'not live'}{', cordoned' if found.cordoned else ''}"),
        ("status", f"{found.status or '-'}, loaded {found.loaded}/{found.total}"),
        ("rack", found.rack),
        ("endpoint", found.member.endpoint if found.member else ""),
        ("started", moment(found.member.started_ms) if found.member else ""),
        ("disk free", size(found.disk_free_bytes) if found.disk_free_bytes else ""),
        *(("problem", problem) for problem in found.problems),
    ]
    show_facts(output, found, facts)
    rows = [(p.topic, p.partition, p.group, r.state, r.term, r.high_watermark, size(r.log_bytes)) for p, r in held]
    show_rows(("TOPIC", "PARTITION", "GROUP", "STATE", "TERM", "NEXT OFFSET", "LOG"), rows)


@app.command(epilog=examples("stele store trash", "stele store trash -o json"))
def trash(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List what stores keep of what was deleted, with its size and age.  It goes by itself; earlier where a disk gets short of room."""

    async def work(client: Client) -> list[TrashInfo]:
        return await client.admin.list_trash()

    found = with_client(server, directory, work)
    rows = [
        (
            s.store,
            s.store_id,
            r.group,
            r.topic,
            r.partition,
            size(r.size_bytes),
            shown_span(r.age_ms // 1000 * 1000),
            shown_span(r.retention_ms),
            r.folder,
        )
        for s in found
        for r in s.replicas
    ]
    show(output, found, ("STORE", "ID", "GROUP", "TOPIC", "PARTITION", "SIZE", "AGE", "KEPT FOR", "FOLDER"), rows)
    silent = [s for s in found if s.problem]
    for s in silent:
        report(f"{s.store} (id {s.store_id}) did not say what it keeps: {s.problem}")
    if silent:
        raise typer.Exit(FAILED)
