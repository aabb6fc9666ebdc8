"""``stele subscription``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from stele.cli.output import OutputFormat, report, show, show_json
from stele.client import Client
from stele.model import SubscriptionInfo
from stele.services.errors import InvalidArgument, SubscriptionNotFound

app = group("Subscriptions: positions, backlogs, consumers.")
SubscriptionName = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Name of the subscription.")]
_COLUMNS = ("SUBSCRIPTION", "PARTITION", "TYPE", "ACKNOWLEDGED BELOW", "BACKLOG", "LAG", "OUT", "CONSUMERS")


def _row(s: SubscriptionInfo) -> tuple[object, ...]:
    return s.subscription, s.partition, s.type, s.ack_floor, s.backlog, _lag([s]), s.unacked, s.consumers


def _lag(parts: Sequence[SubscriptionInfo]) -> str:
    """The longest that is known of those that are behind."""
    known = [s.lag_ms for s in parts if s.lag_ms is not None]
    return f"{max(known) / 1000:.1f} s" if known else ""


def parse_place(place: str) -> int | str:
    """``earliest``, ``latest`` or an offset."""
    if place in ("earliest", "latest"):
        return place
    if place.isdecimal() and len(place) < 20:
        return int(place)
    raise InvalidArgument(f"{place!r} is no place in a topic: earliest, latest or an offset from 0 on")


def report_no_longer_kept(place: int | str | None, positions: Mapping[int, int]) -> None:
    """One line where retention has removed what is at ``place``."""
    later = [f"partition {p} begins at {first}" for p, first in sorted(positions.items()) if first > _offset(place)]
    if later:
        report(f"offset {place} is no longer kept: {', '.join(later)}")


def _offset(place: int | str | None) -> float:
    return place if isinstance(place, int) else math.inf


@app.command(epilog=examples("stele subscription ls shop/orders", "stele subscription ls shop/orders -o json"))
def ls(
    topic: TopicName,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the subscriptions of a topic, summed over its partitions.

    LAG is the age of the oldest message that is not acknowledged, by the time that its producer gave it."""

    async def work(client: Client) -> list[SubscriptionInfo]:
        return await client.admin.list_subscriptions(topic)

    found = with_client(server, directory, work)
    names = sorted({s.subscription for s in found})
    rows = []
    for name in names:
        parts = [s for s in found if s.subscription == name]
        kind = next((s.type for s in parts if s.type), "")
        consumers = sorted({c for s in parts for c in s.consumers})
        backlog, unacked = sum(s.backlog for s in parts), sum(s.unacked for s in parts)
        rows.append((name, kind, len(parts), backlog, _lag(parts), unacked, consumers))
    show(output, found, ("SUBSCRIPTION", "TYPE", "PARTITIONS", "BACKLOG", "LAG", "OUT", "CONSUMERS"), rows)


@app.command(epilog=examples("stele subscription info shop/orders billing"))
def info(
    topic: TopicName,
    subscription: SubscriptionName,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one subscription, partition by partition."""

    async def work(client: Client) -> list[SubscriptionInfo]:
        return [s for s in await client.admin.list_subscriptions(topic) if s.subscription == subscription]

    found = with_client(server, directory, work)
    if not found:
        raise SubscriptionNotFound(f"{topic} has no subscription {subscription!r}")
    show(output, found, _COLUMNS, map(_row, found))


@app.command(epilog=examples("stele subscription rm shop/orders billing --yes"))
def rm(
    topic: TopicName,
    subscription: SubscriptionName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Remove a subscription: its position is forgotten, messages stay."""
    confirm(f"Remove the subscription {subscription} of {topic}?", yes)

    async def work(client: Client) -> None:
        await client.admin.delete_subscription(topic, subscription)

    with_client(server, directory, work, f"removing {subscription}")
    report(f"{subscription}: removed from {topic}")


@app.command(
    epilog=examples(
        "stele subscription seek shop/orders billing --to earliest",
        "stele subscription seek shop/orders billing --to 1200 --partition 0",
        "stele subscription seek shop/orders billing --timestamp-ms 1767225600000",
    )
)
def seek(
    topic: TopicName,
    subscription: SubscriptionName,
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="earliest, latest or an offset.")] = "",
    timestamp_ms: Annotated[
        int | None,
        typer.Option("--timestamp-ms", help="Everything from this unix time on (perhaps a second before).", min=0),
    ] = None,
    partition: Annotated[int | None, typer.Option("--partition", help="Only this partition.", min=0)] = None,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Move a subscription for all of its consumers: everything from there on is delivered, acknowledged or not."""
    if bool(to) == (timestamp_ms is not None):
        raise InvalidArgument("give either --to or --timestamp-ms")
    place = parse_place(to) if to else None

    async def work(client: Client) -> dict[int, int]:
        return await client.admin.seek_subscription(
            topic, subscription, place, timestamp_ms=timestamp_ms, partition=partition
        )

    positions = with_client(server, directory, work, f"moving {subscription}")
    if output is OutputFormat.JSON:
        show_json(positions)
    report_no_longer_kept(place, positions)
    report(f"{subscription}: " + ", ".join(f"partition {p} at {offset}" for p, offset in sorted(positions.items())))
