"""``stele topic``."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import (
    DEFAULT_DIRECTORY,
    Directory,
    Output,
    Server,
    TopicName,
    confirm,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, moment, say, show, show_facts, show_json, show_rows
from stele.client import Client
from stele.model import PartitionInfo, TopicInfo

app = group("Topics: create, list, look at, remove.")


@app.command(
    epilog=examples(
        "stele topic create shop/orders --partitions 4 --replication 3",
        "stele topic create shop/orders --partitions 4 --if-absent",
    )
)
def create(
    topic: TopicName,
    partitions: Annotated[int, typer.Option("--partitions", "-p", help="Number of partitions.", min=1)] = 1,
    replication: Annotated[
        int, typer.Option("--replication", "-r", help="Replicas of each partition (0: the namespace's default).", min=0)
    ] = 0,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Success if it exists with the same shape.")] = False,
    server: Server = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create a topic and wait until every partition has a leader."""

    async def work(client: Client) -> TopicInfo:
        return await client.admin.create_topic(topic, partitions, replication, if_absent)

    made = with_client(server, directory, work, f"creating {topic}")
    if output is OutputFormat.JSON:
        show_json(made)
    say(f"{made.topic}: {made.partitions} partitions, {made.replication} replicas each")


@app.command(epilog=examples("stele topic ls", "stele topic ls shop -o json"))
def ls(
    namespace: Annotated[str, typer.Argument(metavar="[NS]", help="Only topics of this namespace.")] = "",
    server: Server = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List topics."""

    async def work(client: Client) -> list[TopicInfo]:
        return await client.admin.list_topics(namespace)

    topics = with_client(server, directory, work)
    rows = [(t.topic, t.partitions, t.replication, t.state, moment(t.created_ms)) for t in topics]
    show(output, topics, ("TOPIC", "PARTITIONS", "REPLICATION", "STATE", "CREATED"), rows)


@app.command(epilog=examples("stele topic info shop/orders", "stele topic info shop/orders -o json"))
def info(
    topic: TopicName,
    server: Server = "",
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
        ("replication", found.replication),
        ("created", moment(found.created_ms)),
        ("messages", sum(p.high_watermark for p in partitions)),
    ]
    show_facts(output, found, facts)
    rows = [
        (p.partition, p.leader_store_id, p.broker, [r.store_id for r in p.replicas], p.high_watermark)
        for p in partitions
    ]
    show_rows(("PARTITION", "LEADER", "BROKER", "REPLICAS", "NEXT OFFSET"), rows)


@app.command(epilog=examples("stele topic rm shop/orders", "stele topic rm shop/orders --yes"))
def rm(
    topic: TopicName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = "",
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
    say(f"{topic}: removed")
