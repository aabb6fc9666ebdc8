"""``stele namespace``: groups of topics, and what their topics are given."""

from __future__ import annotations

from typing import Annotated

import typer

from stele.cli.options import (
    DEFAULT_DIRECTORY,
    Directory,
    Output,
    ServerOption,
    confirm,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, report, show, show_facts, show_json, size
from stele.cli.topic import RetentionBytes, RetentionTime, bounds
from stele.client import Client
from stele.model import NamespaceInfo
from stele.services.errors import InvalidArgument, NamespaceNotFound
from stele.services.units import shown_span
from stele.services.wording import counted

app = group("Namespaces: groups of topics, and what their topics are given that ask for nothing else.")

NamespaceName = Annotated[str, typer.Argument(metavar="NS", help="Name of a namespace.")]
ReplicationOption = Annotated[
    int, typer.Option("--replication", "-r", help="Replicas of each partition of a topic that does not say.", min=0)
]


@app.command(epilog=examples("stele namespace create shop", "stele namespace create shop --retention 7d --bundles 32"))
def create(
    namespace: NamespaceName,
    replication: ReplicationOption = 0,
    bundles: Annotated[
        int, typer.Option("--bundles", help="Parts that its topics are spread over brokers in, at first.", min=0)
    ] = 0,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Success if it exists with the same settings.")
    ] = False,
    retention_bytes: RetentionBytes = "",
    retention: RetentionTime = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Create a namespace.  The first topic of a name creates one with the defaults."""
    size_bytes, age_ms = bounds(retention_bytes, retention)

    async def work(client: Client) -> bool:
        return await client.admin.create_namespace(
            namespace,
            bundles=bundles,
            replication=replication,
            retention_bytes=size_bytes or 0,
            retention_ms=age_ms or 0,
            if_absent=if_absent,
        )

    created = with_client(server, directory, work, f"creating the namespace {namespace}")
    report(f"{namespace}: {'created' if created else 'is there already'}")


@app.command(epilog=examples("stele namespace ls", "stele namespace ls -o json"))
def ls(
    server: ServerOption = "", directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE
) -> None:
    """List namespaces."""

    async def work(client: Client) -> list[NamespaceInfo]:
        return await client.admin.list_namespaces()

    found = with_client(server, directory, work)
    rows = [(n.namespace, n.topics, n.replication, n.bundles, *_shown(n)) for n in found]
    show(output, found, ("NAMESPACE", "TOPICS", "REPLICATION", "BUNDLES", "KEPT FOR", "KEPT BYTES"), rows)


@app.command(epilog=examples("stele namespace info shop", "stele namespace info shop -o json"))
def info(
    namespace: NamespaceName,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one namespace."""

    async def work(client: Client) -> NamespaceInfo:
        return await _find(client, namespace)

    found = with_client(server, directory, work)
    span, size_bytes = _shown(found)
    facts = [
        ("namespace", found.namespace),
        ("topics", found.topics),
        ("replication", found.replication),
        ("bundles", found.bundles),
        ("kept for", span or "ever"),
        ("kept bytes", size_bytes or "no bound"),
    ]
    show_facts(output, found, facts)


@app.command(
    "set", epilog=examples("stele namespace set shop --retention 3d", "stele namespace set shop --replication 5")
)
def set_(
    namespace: NamespaceName,
    replication: ReplicationOption = 0,
    retention_bytes: RetentionBytes = "",
    retention: RetentionTime = "",
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Change what its new topics are given.  What is not named stays; so do the topics that there are."""
    size_bytes, age_ms = bounds(retention_bytes, retention)
    if size_bytes is None and age_ms is None and not replication:
        raise InvalidArgument("nothing to change: give --replication, --retention or --retention-bytes")

    async def work(client: Client) -> NamespaceInfo:
        return await client.admin.alter_namespace(
            namespace, replication=replication, retention_bytes=size_bytes, retention_ms=age_ms
        )

    altered = with_client(server, directory, work, f"altering the namespace {namespace}")
    if output is OutputFormat.JSON:
        show_json(altered)
    span, size_shown = _shown(altered)
    kept = f"kept for {span or 'ever'}{f' and up to {size_shown} per partition' if size_shown else ''}"
    report(f"{namespace}: new topics have {counted(altered.replication, 'replica')}, and messages are {kept}")


@app.command(epilog=examples("stele namespace rm shop", "stele namespace rm shop --yes"))
def rm(
    namespace: NamespaceName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Remove a namespace that has no topic."""

    async def look(client: Client) -> NamespaceInfo:
        return await _find(client, namespace)

    async def remove(client: Client) -> None:
        await client.admin.delete_namespace(namespace)

    with_client(server, directory, look)
    confirm(f"Remove the namespace {namespace} with its settings?", yes)
    with_client(server, directory, remove, f"removing the namespace {namespace}")
    report(f"{namespace}: removed")


async def _find(client: Client, namespace: str) -> NamespaceInfo:
    found = next((n for n in await client.admin.list_namespaces() if n.namespace == namespace), None)
    if found is None:
        raise NamespaceNotFound(
            f"there is no namespace {namespace}; `stele namespace ls` lists them", namespace=namespace
        )
    return found


def _shown(n: NamespaceInfo) -> tuple[str, str]:
    """For how long, and how many bytes, what its topics hold is kept; nothing: without a bound."""
    return shown_span(n.retention_ms) if n.retention_ms else "", size(n.retention_bytes) if n.retention_bytes else ""
