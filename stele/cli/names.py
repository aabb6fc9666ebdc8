"""``stele metadata names``: the names of processes, and the end of those that never come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stele.cli.options import DEFAULT_DIRECTORY, Directory, Output, confirm, examples, group
from stele.cli.output import OutputFormat, report, show
from stele.cli.tree import ClusterOption, ZookeeperOption, on_tree

if TYPE_CHECKING:
    from stele.services.coordination.session import Session

app = group("Names of processes, as they stand in ZooKeeper.")


@app.callback(epilog=examples("stele metadata names ls", "stele metadata names rm br7"))
def names() -> None:
    """Names of processes, as they stand in ZooKeeper."""


@app.command(
    epilog=examples(
        "stele metadata names ls", "stele metadata names ls -o json | jq -r '.[] | select(.live | not).name'"
    )
)
def ls(
    zookeeper: ZookeeperOption = "",
    cluster: ClusterOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List every name that a process was registered under, with where it was last, and whether it lives."""
    on = on_tree(zookeeper, cluster, directory)
    from stele.services.coordination.name_register import list_names

    found = on(list_names, "reading")
    rows = [(n.name, n.endpoint, n.live, n.holder, n.store_id or "", n.store_state) for n in found]
    show(output, found, ("NAME", "ENDPOINT", "LIVE", "REGISTERED AS", "STORE", "STATE"), rows)


@app.command(epilog=examples("stele metadata names rm br7", "stele metadata names rm ns4 --yes"))
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a process that never comes back.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    zookeeper: ZookeeperOption = "",
    cluster: ClusterOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Remove the name of a process that never comes back.  It is refused while a live process bears it, or a store that is not removed:
    that goes by `stele store decommission` and `stele store remove-tombstone` first."""
    on = on_tree(zookeeper, cluster, directory)
    from stele.services.config import PROCESS_NAMES, is_process_name
    from stele.services.coordination.name_register import remove_name
    from stele.services.errors import InvalidArgument

    if not is_process_name(name):
        raise InvalidArgument(f"no process has such a name: {PROCESS_NAMES}")
    confirm(f"Remove the name {name}?", yes)

    async def work(session: Session) -> None:
        await remove_name(session, name)

    on(work, f"removing {name}")
    report(f"{name}: removed")
