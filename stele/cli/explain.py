"""``stele explain``."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, moment, report, show_json, show_rows
from stele.client import Client
from stele.model import CauseChain, ChainStep, Explained
from stele.services.errors import InvalidArgument

EPILOG = examples(
    "stele explain shop/orders/0",
    "stele explain shop/orders --at '2026-01-01 12:00:00'",
    "stele explain br1 -o json",
)
FORGOTTEN = "not known any more"
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M")


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PARTITION|TOPIC|BROKER", help="namespace/topic/number or a group, namespace/topic, or a name."
        ),
    ],
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Only what had begun by then: local time as `stele events` shows it, or unix seconds.",
        ),
    ] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say why a leader leads, an owner owns, a broker has or lost its bundles: each event, what it followed from, how long it took."""
    at_ms = _time_ms(at)

    async def work(client: Client) -> Explained:
        return await client.admin.explain(what, at_ms=at_ms)

    said = with_client(server, directory, work)
    if output is OutputFormat.JSON:
        show_json(said)
        return
    for unheard in said.unheard:
        report(f"did not answer, and what it alone saw is missing: {unheard}")
    for i, chain in enumerate(said.chains):
        if i:
            sys.stdout.write("\n")
        _show(chain)


def _show(chain: CauseChain) -> None:
    began = next((s.event.time_ms for s in chain.steps if s.event is not None), 0)
    since = f", since {moment(began)}" if began else f": {FORGOTTEN}"
    sys.stdout.write(f"{chain.subject}: {chain.about}{since}\n")
    if chain.steps:
        show_rows(("AT MS", "EVENT", "OF", "CAUSE", "FACTS", "TOOK", "WAITED FOR"), [_row(s) for s in chain.steps])
    if chain.steps and not chain.write_known:
        sys.stdout.write("no write after it is known\n")


_FACTS = (
    "seen_by",
    "former",
    "leader",
    "successor",
    "term",
    "from",
    "to",
    "epoch",
    "owner_epoch",
    "operation",
    "endpoint",
)


def _row(step: ChainStep) -> tuple[object, ...]:
    event = step.event
    if event is None:
        return "", step.id, "", "", FORGOTTEN, "", ""
    facts = " ".join(f"{name}={event.facts[name]}" for name in _FACTS if event.facts.get(name))
    took = f"{step.after_ms} ms" if step.after_ms is not None else ""
    return step.at_ms, event.kind, event.subject, event.cause, facts, took, step.waited_for


def _time_ms(at: str) -> int:
    """0: none was given."""
    if not at:
        return 0
    try:
        return _checked(round(float(at) * 1000), at)
    except (ValueError, OverflowError):
        pass
    whole, _, ms = at.partition(".")
    for form in _FORMATS:
        try:
            seconds = time.mktime(time.strptime(whole, form))
        except (ValueError, OverflowError):
            continue
        return _checked(int(seconds * 1000) + (int(ms[:3].ljust(3, "0")) if ms.isascii() and ms.isdecimal() else 0), at)
    raise _refused(at)


def _checked(time_ms: int, at: str) -> int:
    if not 0 < time_ms < 1 << 62:
        raise _refused(at)
    return time_ms


def _refused(at: str) -> InvalidArgument:
    return InvalidArgument(f"--at is a time such as '2026-01-01 12:00:00' or unix seconds, not {at[:100]!r}")
