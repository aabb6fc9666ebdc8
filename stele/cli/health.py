"""``stele health``."""

from __future__ import annotations

import typer

from stele.cli.options import DEFAULT_DIRECTORY, FAILED, Directory, Output, ServerOption, examples, with_client
from stele.cli.output import OutputFormat, report, show
from stele.client import Client
from stele.health import HealthCheck, judge

EPILOG = examples("stele health", "stele health -o json", "until stele health >/dev/null 2>&1; do sleep 1; done")


def health(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """Check the whole cluster.  Exit status 1 unless everything is well."""

    async def work(client: Client) -> list[HealthCheck]:
        admin = client.admin
        return judge(
            await admin.cluster(), await admin.list_stores(), await admin.list_brokers(), await admin.list_partitions()
        )

    checks = with_client(server, directory, work)
    show(output, checks, ("CHECK", "STATE", "DETAIL"), [(c.name, "ok" if c.ok else "FAILED", c.detail) for c in checks])
    if not all(c.ok for c in checks):
        report("not healthy; `stele events` shows what happened, `stele cluster status` the local processes")
        raise typer.Exit(FAILED)
