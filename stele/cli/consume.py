"""``stele consume``."""

from __future__ import annotations

import base64
import contextlib
import sys
from typing import Annotated, Any

import typer

from stele import arguments
from stele.cli.options import (
    DEFAULT_DIRECTORY,
    FAILED,
    Directory,
    Output,
    ServerOption,
    TopicName,
    examples,
    with_client,
)
from stele.cli.output import OutputFormat, moment, report, show_json_line
from stele.cli.subscription import parse_place, report_no_longer_kept
from stele.client import Client
from stele.consumer import TYPES, Consumer
from stele.model import Message
from stele.services.errors import InvalidArgument
from stele.services.wording import counted

CREDIT = 1000
UNFLUSHED_MAX = 500
EPILOG = examples(
    "stele consume shop/orders --subscription billing",
    "stele consume shop/orders -S audit --type exclusive --from latest -o json",
    "stele consume shop/orders -S batch --count 1000 --timeout 10 > orders.txt",
)


def consume(
    topic: TopicName,
    subscription: Annotated[
        str, typer.Option("--subscription", "-S", help="Name of the subscription; made if it is new.")
    ],
    kind: Annotated[
        str, typer.Option("--type", "-t", help=f"Type of the subscription: {', '.join(TYPES)}.")
    ] = "shared",
    start: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="Where a new subscription begins: earliest, latest or an offset."),
    ] = "earliest",
    count: Annotated[int | None, typer.Option("--count", "-n", help="End after so many messages.", min=1)] = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="End when nothing came for so long.", min=0)
    ] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Go on behind messages that can be read from no replica any more.")
    ] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print messages as they come, one line each (-o json: with everything that is known of them), and acknowledge what was printed.

    Ends with --count, --timeout or Ctrl-C.  Exit status 1 if --timeout passed before --count messages came, or before the subscription
    could be opened."""
    if timeout_s is not None:
        arguments.timeout_s(timeout_s, "--timeout")
    place = parse_place(start)
    if kind not in TYPES:
        raise InvalidArgument(f"subscription type {kind!r} is not accepted: {', '.join(TYPES)}")
    printed = 0

    async def work(client: Client) -> None:
        nonlocal printed
        credit = CREDIT if count is None else min(CREDIT, count)
        on_damage = "skip" if skip_damaged else "raise"
        consumer = client.consumer(topic, subscription, type=kind, start=place, credit=credit, on_damage=on_damage)
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(consumer.close)
            await (consumer.open() if timeout_s is None else consumer.open(timeout_s))
            report_no_longer_kept(place, consumer.began_at)
            unflushed: list[Message] = []
            try:
                while count is None or printed < count:
                    message = await consumer.receive(timeout_s=0)
                    if message is None or len(unflushed) >= UNFLUSHED_MAX:
                        _flush(consumer, unflushed)
                    if message is None:
                        message = await consumer.receive(timeout_s)
                    if message is None:
                        return
                    _print(message, output)
                    unflushed.append(message)
                    printed += 1
            finally:
                _flush(consumer, unflushed)
                if consumer.skipped:
                    report(f"skipped {counted(consumer.skipped, 'message')} that could be read from no replica")

    with_client(server, directory, work, timeout_s=timeout_s)
    if count is not None and printed < count:
        report(f"{printed} of {count} messages came before {timeout_s:g} s without one")
        raise typer.Exit(FAILED)


def _flush(consumer: Consumer, printed: list[Message]) -> None:
    """Acknowledged only AFTER it is out of our hands: a closed pipe leaves the messages to be delivered again."""
    sys.stdout.flush()
    for message in printed:
        consumer.ack_nowait(message)
    printed.clear()


def _print(message: Message, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        show_json_line(_whole(message))
    else:
        sys.stdout.buffer.write(message.value + b"\n")


def _whole(message: Message) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        **_text("key", message.key),
        **_text("value", message.value),
        "headers": {name: value.decode("utf-8", "backslashreplace") for name, value in message.headers.items()},
        "timestamp_ms": message.timestamp_ms,
        "time": moment(message.timestamp_ms),
        "redelivery_count": message.redelivery_count,
    }


def _text(name: str, value: bytes | None) -> dict[str, str | None]:
    """Text as it is, anything else as ``<name>_base64``."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode("ascii")}
