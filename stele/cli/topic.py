"""``stele topic``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele import arguments
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
from stele.cli.output import LongListing, OutputFormat, moment, report, show_facts, show_json, show_rows, size
from stele.cli.paging import Limit, pages
from stele.cli.progress import ChangedLines, WaitTimeout, step_of
from stele.cli.units import bytes_of, ms_of
from stele.client import Client
from stele.listings import TOPICS_PER_PAGE
from stele.model import PartitionInfo, TopicInfo
from stele.services.errors import InvalidArgument
from stele.services.topics import Retention, check_retention
from stele.services.units import shown_span
from stele.services.wording import counted

app = group("Topics: create, list, look at, alter, remove.")
RetentionBytes = Annotated[
    str,
    typer.Option(
        "--retention-bytes",
        metavar="SIZE",
        help="Remove the oldest messages once a partition's log is longer, e.g. 1GiB; forever: never for its size.",
    ),
]
RetentionTime = Annotated[
    str,
    typer.Option(
        "--retention", metavar="TIME", help="Remove messages that are older, e.g. 7d; forever: never for their age."
    ),
]


@app.command(
    epilog=examples(
        "stele topic create shop/orders --partitions 4 --replication 3",
        "stele topic create shop/orders --partitions 4 --if-absent",
        "stele topic create shop/clicks --retention 7d --retention-bytes 1GiB",
    )
)
def create(
    topic: TopicName,
    partitions: Annotated[int, typer.Option("--partitions", "-p", help="Number of partitions.", min=1)] = 1,
    replication: Annotated[
        int, typer.Option("--replication", "-r", help="Replicas of each partition (0: the namespace's default).", min=0)
    ] = 0,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Success if it exists with the same shape.")] = False,
    retention_bytes: RetentionBytes = "",
    retention: RetentionTime = "",
    racks: Annotated[
        str,
        typer.Option(
            "--racks", metavar="RULE", help="Replicas on racks apart: prefer (as far as there are racks) or require."
        ),
    ] = "prefer",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create a topic and wait until every partition has a leader."""
    size_bytes, age_ms = bounds(retention_bytes, retention)

    async def work(client: Client) -> TopicInfo:
        return await client.admin.create_topic(
            topic, partitions, replication, if_absent, retention_bytes=size_bytes, retention_ms=age_ms, racks=racks
        )

    made = with_client(server, directory, work, f"creating {topic}")
    if output is OutputFormat.JSON:
        show_json(made)
    report(f"{made.topic}: {_shape(made)}, {_kept(made)}")


@app.command(
    epilog=examples(
        "stele topic alter shop/clicks --retention 3d",
        "stele topic alter shop/clicks --retention forever --retention-bytes 10GiB",
        "stele topic alter shop/orders --partitions 8 --wait",
        "stele topic alter shop/orders --replication 5 --wait",
    )
)
def alter(
    topic: TopicName,
    partitions: Annotated[
        int,
        typer.Option(
            "--partitions", "-p", help="More partitions; a key's messages may go to another one from then on.", min=0
        ),
    ] = 0,
    replication: Annotated[
        int, typer.Option("--replication", "-r", help="Replicas of each partition, more or fewer.", min=0)
    ] = 0,
    retention_bytes: RetentionBytes = "",
    retention: RetentionTime = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return once it is done, showing how far it is.")] = False,
    timeout_s: WaitTimeout = 86_400.0,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Change a topic: its partitions and their replicas, how long its messages are kept.  What is not named stays; it goes on if this
    command ends."""
    arguments.timeout_s(timeout_s, "--timeout")
    size_bytes, age_ms = bounds(retention_bytes, retention)
    if size_bytes is None and age_ms is None and not partitions and not replication:
        raise InvalidArgument("nothing to change: give --partitions, --replication, --retention or --retention-bytes")

    async def work(client: Client) -> TopicInfo:
        return await client.admin.alter_topic(
            topic,
            partitions=partitions,
            replication=replication,
            retention_bytes=size_bytes,
            retention_ms=age_ms,
        )

    altered = with_client(server, directory, work, f"altering {topic}")
    if output is OutputFormat.JSON:
        show_json(altered)
    report(f"{altered.topic}: {_shape(altered)}, {_kept(altered)}")
    if not wait:
        if altered.growing_to or replication:
            report("`stele operation ls` shows how far it is; new partitions show once each has a leader")
        return

    async def follow(client: Client) -> None:
        progress = ChangedLines()
        async for o in client.admin.altering(altered, timeout_s):
            progress.tell(f"{topic}: {step_of(o, with_bytes=False)}")

    with_client(server, directory, follow, f"waiting until {topic} is altered")
    report(f"{topic}: altered")


def _shape(topic: TopicInfo) -> str:
    grows = f", growing to {topic.growing_to}" if topic.growing_to else ""
    return f"{counted(topic.partitions, 'partition')}{grows}, {counted(topic.replication, 'replica')} each"


def bounds(retention_bytes: str, retention: str) -> tuple[int | None, int | None]:
    """Bytes and milliseconds; None: not given.  InvalidArgument, before anybody is asked."""
    size_bytes, age_ms = bytes_of("--retention-bytes", retention_bytes), ms_of("--retention", retention)
    check_retention(Retention(size_bytes or 0, age_ms or 0))
    return size_bytes, age_ms


def _kept(topic: TopicInfo) -> str:
    bounds = [f"for {shown_span(topic.retention_ms)}"] if topic.retention_ms else []
    if topic.retention_bytes:
        bounds.append(f"up to {size(topic.retention_bytes)} per partition")
    return f"messages are kept {', '.join(bounds) or 'for ever'}"


@app.command(
    epilog=examples("stele topic ls", "stele topic ls shop -o json", "stele topic ls --limit 1000 --after shop/orders")
)
def ls(
    namespace: Annotated[str, typer.Argument(metavar="[NS]", help="Only topics of this namespace.")] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
    limit: Limit = None,
    after: Annotated[
        str, typer.Option("--after", metavar="NS/TOPIC", help="Only topics behind this one, in the order of the list.")
    ] = "",
) -> None:
    """List topics, by name."""
    columns = ("TOPIC", "PARTITIONS", "REPLICATION", "KEPT FOR", "KEPT BYTES", "STATE", "CREATED")
    listing = LongListing(output, columns)

    async def work(client: Client) -> None:
        async def page(count: int, behind: str) -> list[TopicInfo]:
            return await client.admin.list_topics(namespace, limit=count, after=behind)

        async for topics in pages(page, lambda t: t.topic, TOPICS_PER_PAGE, limit, after):
            listing.add(topics, map(_row, topics))

    with_client(server, directory, work)
    listing.end()


def _row(t: TopicInfo) -> tuple[object, ...]:
    return (
        t.topic,
        f"{t.partitions} of {t.growing_to}" if t.growing_to else t.partitions,
        t.replication,
        shown_span(t.retention_ms) if t.retention_ms else "",
        size(t.retention_bytes) if t.retention_bytes else "",
        t.state,
        moment(t.created_ms),
    )


@app.command(epilog=examples("stele topic info shop/orders", "stele topic info shop/orders -o json"))
def info(
    topic: TopicName,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one topic: its shape and where its partitions are."""

    async def work(client: Client) -> tuple[TopicInfo, list[PartitionInfo]]:
        return await client.admin.describe_topic(topic), await client.admin.list_partitions(topic)

    found, partitions = with_client(server, directory, work)
    if output is OutputFormat.JSON:
        show_json({"topic": found, "partitions": partitions})
        return
    facts = [
        ("topic", found.topic),
        ("id", found.id),
        ("state", found.state),
        ("partitions", found.partitions),
        *([("growing to", found.growing_to)] if found.growing_to else []),
        ("replication", found.replication),
        ("created", moment(found.created_ms)),
        ("retention", _kept(found).removeprefix("messages are ")),
        ("messages", sum(p.high_watermark - p.log_start for p in partitions)),
    ]
    show_facts(output, found, facts)
    rows = [
        (p.partition, p.leader_store_id, p.broker, [r.store_id for r in p.replicas], p.log_start, p.high_watermark)
        for p in partitions
    ]
    show_rows(("PARTITION", "LEADER", "BROKER", "REPLICAS", "FIRST OFFSET", "NEXT OFFSET"), rows)


@app.command(epilog=examples("stele topic rm shop/orders", "stele topic rm shop/orders --yes"))
def rm(
    topic: TopicName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Remove a topic with all of its messages and subscriptions."""

    async def look(client: Client) -> TopicInfo:
        return await client.admin.describe_topic(topic)

    async def remove(client: Client) -> None:
        await client.admin.delete_topic(topic)

    with_client(server, directory, look)
    confirm(f"Remove {topic} with all of its messages?", yes)
    with_client(server, directory, remove, f"removing {topic}")
    report(f"{topic}: removed")
