"""``stele store orphans``: replicas that no record speaks for."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import (
    DEFAULT_DIRECTORY,
    Directory,
    Output,
    ServerOption,
    TopicName,
    confirm,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, report, show, size
from stele.client import Client
from stele.model import OrphanInfo, TopicInfo
from stele.services.errors import InvalidArgument
from stele.services.wording import counted

app = group("Replicas that no record speaks for, as after ZooKeeper lost data.  They are kept until you say otherwise.")


@app.callback(
    epilog=examples("stele store orphans ls", "stele store orphans adopt bugs/x", "stele store orphans rm dn1 7")
)
def orphans() -> None:
    """Replicas that no record speaks for, as after ZooKeeper lost data.  They are kept until you say otherwise."""


@app.command(epilog=examples("stele store orphans ls", "stele store orphans ls -o json"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List replicas that no record speaks for.  They are kept until `adopt` brings their topic back or `rm` removes them."""

    async def work(client: Client) -> list[OrphanInfo]:
        return await client.admin.list_orphans()

    found = with_client(server, directory, work)
    rows = [(o.store, o.store_id, o.group, o.topic, o.topic_id, o.partition, o.kind, size(o.log_bytes)) for o in found]
    show(output, found, ("STORE", "ID", "GROUP", "TOPIC", "TOPIC ID", "PARTITION", "KIND", "LOG"), rows)


@app.command(
    epilog=examples(
        "stele store orphans adopt bugs/x",
        "stele store orphans adopt bugs/x --topic-id 7",
        "stele store orphans adopt bugs/x --partitions 8",
    )
)
def adopt(
    topic: TopicName,
    topic_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Which one, where several had that name.", min=1)
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(help="How many it had: those that no store reports are lost, and begin empty.", min=1, max=1024),
    ] = None,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Bring a topic back from the replicas that stores hold of it: its records are written anew, and it is read and written as before.

    How many partitions it had is known only from those that stores report; start all datanodes first."""

    async def work(client: Client) -> TopicInfo:
        return await client.admin.adopt_orphans(topic, topic_id=topic_id or 0, partitions=partitions or 0)

    adopted = with_client(server, directory, work, f"adopting {topic}")
    report(f"{topic}: adopted with the id {adopted.id} and {counted(adopted.partitions, 'partition')}")


@app.command(epilog=examples("stele store orphans rm dn1 7", "stele store orphans rm 2 7 --yes"))
def rm(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Name or id of a store.")],
    group_id: Annotated[int, typer.Argument(metavar="GROUP", help="Group that it holds, as `ls` lists it.", min=1)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Remove one replica that no record speaks for.  Its files stay in the store's trash for a while."""

    async def look(client: Client) -> OrphanInfo | None:
        listed = await client.admin.list_orphans()
        return next((o for o in listed if store in (o.store, str(o.store_id)) and o.group == group_id), None)

    found = with_client(server, directory, look)
    if found is None:
        raise InvalidArgument(f"store {store} holds no orphan of group {group_id}; `stele store orphans ls` lists them")
    what = f"{found.topic}-{found.partition} (group {found.group}, {size(found.log_bytes)}) on {found.store}"
    confirm(f"Remove {what} with all of its messages?", yes)

    async def remove(client: Client) -> None:
        await client.admin.remove_orphan(found)

    with_client(server, directory, remove, f"removing {what}")
    report(f"{what}: removed")
