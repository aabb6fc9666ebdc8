"""``stele operation``: decommissions, moves and changes of topics that are under way."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, group, with_client
from stele.cli.output import OutputFormat, report, show, show_facts, size
from stele.client import Client
from stele.model import OperationInfo
from stele.services.errors import InvalidArgument

app = group("Operations: decommissions, moves and changes of topics that are under way.")

OperationId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Operation, as `ls` lists it: decommission-STORE, move-GROUP, alter-TOPIC or rebalance."
    ),
]


async def _list(client: Client) -> tuple[list[OperationInfo], dict[int, str]]:
    return await client.admin.list_operations(), {s.store_id: s.name for s in await client.admin.list_stores()}


def _about(o: OperationInfo, names: dict[int, str]) -> str:
    if o.kind in ("move", "alter"):
        return f"{o.topic}-{o.partition}" if o.kind == "move" else o.topic
    return names.get(o.store_id, str(o.store_id)) if o.store_id else "every store"


def _named(stores: tuple[int, ...], names: dict[int, str]) -> tuple[str, ...]:
    return tuple(names.get(s, str(s)) for s in stores)


def _moved(o: OperationInfo) -> str:
    """With the rate since it began."""
    rate = f", {size(o.bytes_moved / o.lasts_ms * 1000)}/s" if o.bytes_moved and o.lasts_ms else ""
    return f"{size(o.bytes_moved)}{rate}"


@app.command(epilog=examples("stele operation ls", "stele operation ls -o json"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List what is under way, with the step that it is at."""
    operations, names = with_client(server, directory, _list)
    rows = [
        (o.id, _about(o, names), o.cause, o.replicas_left, size(o.bytes_left), o.step, len(o.problems))
        for o in operations
    ]
    show(output, operations, ("ID", "ABOUT", "CAUSE", "LEFT", "BYTES LEFT", "STEP", "PROBLEMS"), rows)


@app.command(epilog=examples("stele operation info decommission-1", "stele operation info move-17 -o json"))
def info(
    operation: OperationId,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one operation, and what stands in its way."""
    operations, names = with_client(server, directory, _list)
    found = next((o for o in operations if o.id == operation), None)
    if found is None:
        raise InvalidArgument(f"there is no operation {operation!r}; `stele operation ls` lists them")
    facts = [
        ("operation", found.id),
        ("about", _about(found, names)),
        ("cause", found.cause),
        ("step", found.step),
        ("joining", _named(found.joining, names)),
        ("leaving", _named(found.leaving, names)),
        ("replicas left", found.replicas_left),
        ("bytes left", size(found.bytes_left)),
        ("bytes moved", _moved(found)),
        ("lasts", f"{found.lasts_ms / 1000:.1f} s" if found.lasts_ms else ""),
        *(("problem", problem) for problem in found.problems),
    ]
    show_facts(output, found, facts)


@app.command(epilog=examples("stele operation cancel decommission-1", "stele operation cancel move-17"))
def cancel(operation: OperationId, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Cancel one: a store that is decommissioned is up again, a move that was ordered is turned back.  Moves of a decommission
    or a rebalance that have begun end."""

    async def work(client: Client) -> None:
        await client.admin.cancel_operation(operation)

    with_client(server, directory, work, f"cancelling {operation}")
    report(f"{operation}: cancelled")
