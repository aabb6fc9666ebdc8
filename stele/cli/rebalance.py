"""``stele partition rebalance``: no store has more replicas than its share."""

from __future__ import annotations

from typing import Annotated

import typer

from stele import arguments
from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, report, show_json, show_rows
from stele.cli.progress import ChangedLines, DryRun, WaitTimeout, show_moves, step_of
from stele.client import Client
from stele.model import RebalancePlan
from stele.services.wording import counted


def rebalance(
    wait: Annotated[
        bool, typer.Option("--wait", help="Return once replicas are even, showing how far they are.")
    ] = False,
    timeout_s: WaitTimeout = 86_400.0,
    dry_run: DryRun = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Even replicas out over the stores that take some: the shortest logs first, a few at a time.  It goes on if this command ends."""
    arguments.timeout_s(timeout_s, "--timeout")

    async def work(client: Client) -> tuple[RebalancePlan, dict[int, str]]:
        names = {s.store_id: s.name for s in await client.admin.list_stores()}
        return await client.admin.rebalance(dry_run=dry_run), names

    plan, names = with_client(server, directory, work, "evening replicas out")
    if output is OutputFormat.JSON:
        show_json(plan)
    else:
        _show(plan, names)
    if dry_run:
        return
    report(f"{counted(len(plan.moves), 'replica')} to move; `stele operation info rebalance` shows how far it is")
    if not wait:
        return

    async def follow(client: Client) -> None:
        progress = ChangedLines()
        async for o in client.admin.rebalancing(timeout_s):
            progress.tell(step_of(o))

    with_client(server, directory, follow, "waiting until replicas are even")
    report("replicas are even")


def add_to(app: typer.Typer) -> None:
    """The command, in the group of partitions."""
    app.command(epilog=examples("stele partition rebalance --dry-run", "stele partition rebalance --wait"))(rebalance)


def _show(plan: RebalancePlan, names: dict[int, str]) -> None:
    show_moves(plan.moves, names)
    if plan.stays:
        stays = [
            (
                names.get(s.store_id, s.store_id),
                s.count,
                s.why,
                ", ".join(s.partitions) + (", …" if s.count > len(s.partitions) else ""),
            )
            for s in plan.stays
        ]
        show_rows(("STAY ON", "REPLICAS", "WHY", "OF"), stays)
    if plan.waits_for:
        report(f"nothing moves now: {plan.waits_for}")
    if not plan.moves and not plan.stays:
        report("no store holds a replica")
