"""``stele store cordon|uncordon|decommission|recommission|remove-tombstone``: how a store goes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from stele import arguments
from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, report, show_json, show_rows
from stele.cli.progress import ChangedLines, DryRun, WaitTimeout, show_moves, step_of
from stele.client import Client
from stele.model import DecommissionPlan, SkippedStore, StoreInfo
from stele.services.errors import InvalidArgument
from stele.services.wording import counted

StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Name or id of a store.")]


async def find(client: Client, store: str) -> StoreInfo:
    """By name or id.  Raises InvalidArgument."""
    stores = await client.admin.list_stores()
    # A name may be that of a store that was removed and of its successor: the one that is not removed is meant.
    found = [s for s in stores if store in (s.name, str(s.store_id))]
    if not found:
        raise InvalidArgument(f"there is no store {store!r}; there are {', '.join(s.name for s in stores) or 'none'}")
    return min(found, key=lambda s: (s.state == "tombstone", -s.store_id))


def decommission(
    store: StoreName,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return once nothing of it is left, showing how far it is.")
    ] = False,
    timeout_s: WaitTimeout = 86_400.0,
    dry_run: DryRun = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take it back: the store is up again.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Take a store out of the cluster: leaders go, then replicas, one by one, to other stores.  It goes on if this command ends."""
    arguments.timeout_s(timeout_s, "--timeout")
    if cancel:
        recommission(store, server, directory)
        return

    async def work(client: Client) -> tuple[StoreInfo, DecommissionPlan, dict[int, str]]:
        found = await find(client, store)
        names = {s.store_id: s.name for s in await client.admin.list_stores()}
        return found, await client.admin.decommission_store(found.store_id, dry_run=dry_run), names

    found, plan, names = with_client(server, directory, work, f"decommissioning {store}")
    if output is OutputFormat.JSON:
        show_json(plan)
    elif dry_run:
        _show(plan, names)
    if dry_run:
        return
    held = counted(len(plan.moves) + len(plan.stays), "replica")
    report(f"{found.name}: {held} to move; `stele operation ls` shows how far it is")
    if not wait:
        return

    async def follow(client: Client) -> None:
        began_s, first, progress = time.monotonic(), 0, ChangedLines()
        async for o in client.admin.decommissioning(found.store_id, timeout_s):
            first = max(first, o.replicas_left)
            done, took_s = first - o.replicas_left, time.monotonic() - began_s
            left = f", about {took_s / done * o.replicas_left:.0f} s to go" if done and o.replicas_left else ""
            progress.tell(f"{found.name}: {step_of(o)}", left)

    with_client(server, directory, follow, f"waiting until nothing of {found.name} is left")
    report(f"{found.name}: decommissioned; `stele store remove-tombstone {found.store_id}` forgets it")


def recommission(store: StoreName, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Take a decommission back while it lasts: the store is up again, and what has moved stays where it is."""

    async def work(client: Client) -> StoreInfo:
        found = await find(client, store)
        await client.admin.recommission_store(found.store_id)
        return found

    found = with_client(server, directory, work, f"recommissioning {store}")
    report(f"{found.name}: up")


def remove_tombstone(
    store: Annotated[
        str, typer.Argument(metavar="[STORE]", help="Name or id of a tombstone; without it, of all tombstones.")
    ] = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Forget stores that were decommissioned.  Their ids stay known as removed, for ever."""

    async def work(client: Client) -> tuple[list[int], list[SkippedStore]]:
        chosen = [(await find(client, store)).store_id] if store else None
        return await client.admin.remove_tombstones(chosen)

    buried, skipped = with_client(server, directory, work, "removing tombstones")
    if output is OutputFormat.JSON:
        show_json({"buried": buried, "skipped": skipped})
    else:
        for store_id in buried:
            report(f"store {store_id}: forgotten")
        for s in skipped:
            report(f"{s.name} (id {s.store_id}) stays: {s.why}")
        if not buried and not skipped:
            report("there is no tombstone")
    if skipped:
        sys.exit(1)


def add_to(app: typer.Typer) -> None:
    """The three commands, in the group of stores."""
    lines = (
        "stele store decommission dn1 --wait",
        "stele store decommission 1 --dry-run",
        "stele store decommission dn1 --cancel",
    )
    app.command(epilog=examples(*lines))(decommission)
    app.command(epilog=examples("stele store recommission dn1"))(recommission)
    app.command(epilog=examples("stele store cordon dn1"))(cordon)
    app.command(epilog=examples("stele store uncordon dn1"))(uncordon)
    app.command("remove-tombstone", epilog=examples("stele store remove-tombstone", "stele store remove-tombstone 1"))(
        remove_tombstone
    )


def cordon(store: StoreName, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Give a store no new replicas.  It keeps and serves those that it has."""
    found = _cordon(store, True, server, directory)
    report(f"{found.name} (id {found.store_id}): cordoned; `stele store uncordon {found.name}` takes it back")


def uncordon(store: StoreName, server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Let a store be given replicas again."""
    found = _cordon(store, False, server, directory)
    report(f"{found.name} (id {found.store_id}): takes replicas again")


def _cordon(store: str, cordoned: bool, server: str, directory: Path) -> StoreInfo:
    async def work(client: Client) -> StoreInfo:
        found = await find(client, store)
        await client.admin.cordon_store(found.store_id, cordoned=cordoned)
        return found

    return with_client(server, directory, work, f"{'cordoning' if cordoned else 'uncordoning'} {store}")


def _show(plan: DecommissionPlan, names: dict[int, str]) -> None:
    show_moves(plan.moves, names)
    if plan.stays:
        stays = [(s.topic, s.partition, s.group, names.get(s.store_id, s.store_id), s.why) for s in plan.stays]
        show_rows(("TOPIC", "PARTITION", "GROUP", "STAYS ON", "WHY"), stays)
    if not plan.moves and not plan.stays:
        report("it holds no replica")
