"""``stele metadata``: the records of a cluster, straight from ZooKeeper, whether or not a nameserver runs."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stele.cli import names
from stele.cli.options import (
    DEFAULT_DIRECTORY,
    FAILED,
    Directory,
    Output,
    confirm,
    examples,
    group,
)
from stele.cli.output import OutputFormat, report, show, show_json
from stele.cli.tree import ClusterOption, ZookeeperOption, on_tree
from stele.client import connect
from stele.services.errors import InvalidArgument, SteleError
from stele.services.extras import require
from stele.services.files import replace_file
from stele.services.wording import counted

if TYPE_CHECKING:
    from stele.services.coordination.copy_check import Inconsistency
    from stele.services.coordination.copy_document import MetadataCopy
    from stele.services.coordination.session import Session

T = TypeVar("T")
NAMESERVER_TIMEOUT_S = 3.0
COPY_BYTES_MAX = 1 << 30

CopyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `export` wrote.")]

app = group("The cluster's records in ZooKeeper: copy, check and restore them.")
app.add_typer(names.app, name="names")


@app.command(epilog=examples("stele metadata export stele.json", "stele metadata export | gzip > stele.json.gz"))
def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; replaced whole.  Without it: stdout.")
    ] = None,
    zookeeper: ZookeeperOption = "",
    cluster: ClusterOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Copy the cluster's records, as they are at one moment, into one JSON document.

    They are read straight from ZooKeeper, so no nameserver has to run.  The document has everything but what lives (names, members, the
    leader), which comes again by itself; messages lie with the datanodes and are not in it."""
    from_zookeeper = on_tree(zookeeper, cluster, directory)
    from stele.services.coordination.copy_document import to_json
    from stele.services.coordination.tree_reader import copy_of, read_tree

    async def work(session: Session) -> tuple[MetadataCopy, dict[str, str]]:
        nodes = await read_tree(session)
        return copy_of(session.cluster, nodes, time.time_ns() // 1_000_000, version("stele"))

    copy, wrong = from_zookeeper(work, "reading")
    if not copy.cluster_id:
        raise InvalidArgument(f"ZooKeeper holds no cluster {copy.cluster}: nothing was copied")
    if file is None:
        sys.stdout.write(to_json(copy))
    else:
        replace_file(file, to_json(copy).encode())
        report(f"{counted(len(copy.records), 'record')} of {copy.cluster} ({copy.cluster_id}) in {file}")
    for path, says in sorted(wrong.items()):
        report(f"left out: {path}: {says}")
    if wrong:
        raise typer.Exit(FAILED)


@app.command(
    epilog=examples(
        "stele metadata check", "stele metadata check stele.json", "stele metadata check -o json | jq length"
    )
)
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A copy that `export` wrote.  Without it: what ZooKeeper holds now."),
    ] = None,
    zookeeper: ZookeeperOption = "",
    cluster: ClusterOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say what in the cluster's records contradicts the rest: records that name what does not exist or was removed, ids that could be
    given out twice, bundles that overlap, epochs and ids below what the stores have seen.  Exit status 1 if there is anything.

    What ZooKeeper holds is compared with the stores' reports where a nameserver answers."""
    if file is not None:
        require("server", "stele metadata")
        from stele.services.coordination.copy_check import faults

        found = faults(_read(file))
    else:
        found = on_tree(zookeeper, cluster, directory)(_check_live, "checking")
    show(output, found, ("RECORD", "WHAT IS WRONG"), [(f.path, f.says) for f in found])
    if found:
        raise typer.Exit(FAILED)
    report("nothing contradicts the rest")


@app.command(
    "import",
    epilog=examples("stele metadata import stele.json --dry-run", "stele metadata import stele.json --yes"),
)
def import_(
    file: CopyFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    zookeeper: ZookeeperOption = "",
    cluster: ClusterOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Put a copy of the records back into a ZooKeeper that was wiped, or that holds older ones of the same cluster.

    It is refused where anything newer than the copy would be lost, or another cluster's.  No nameserver leads until all of it is there;
    one that is interrupted is taken up by the same command.  Ids are given out again once every store of the copy has said what it has
    seen.  Topics that are newer than the copy remain as orphans: `stele store orphans adopt` brings them back."""
    from_zookeeper = on_tree(zookeeper, cluster, directory)
    from stele.services.coordination.tree_import import import_copy, plan_import

    copy = _read(file)
    plan = from_zookeeper(lambda session: plan_import(session, copy), "comparing")
    counts = [(len(plan.created), "created"), (len(plan.changed), "changed"), (len(plan.removed), "removed")]
    what = ", ".join(f"{number} {how}" for number, how in counts)
    if dry_run:
        if output is OutputFormat.JSON:
            show_json(plan)
        else:
            report(f"records: {what}; nothing was changed")
        return
    resumed = ", going on with what was begun" if plan.resumed else ""
    confirm(f"Import the records of {copy.cluster} ({copy.cluster_id}): {what}{resumed}?", yes)
    done = from_zookeeper(lambda session: import_copy(session, copy), "importing")
    if output is OutputFormat.JSON:
        show_json(done)
    report(f"imported: {what}; start the datanodes, and `stele health` says which stores are waited for")


def _read(file: Path) -> MetadataCopy:
    from stele.services.coordination.copy_document import from_json

    try:
        if file.stat().st_size > COPY_BYTES_MAX:
            raise InvalidArgument(f"{file} is larger than any copy of a cluster's records")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise InvalidArgument(f"{file} cannot be read: {e}") from None
    return from_json(text, str(file))


async def _check_live(session: Session) -> list[Inconsistency]:
    from stele.services.coordination.copy_check import Inconsistency, faults
    from stele.services.coordination.members import live
    from stele.services.coordination.tree_reader import copy_of, read_tree

    copy, wrong = copy_of(session.cluster, await read_tree(session))
    found = [*(Inconsistency(path, says) for path, says in wrong.items()), *faults(copy)]
    nameservers = await live(session, "nameservers")
    try:
        servers = ",".join(n.advertised or n.endpoint for n in nameservers.values())
        if not servers:
            raise InvalidArgument("none is registered")
        async with (
            asyncio.timeout(2 * NAMESERVER_TIMEOUT_S),
            connect(servers, timeout_s=NAMESERVER_TIMEOUT_S) as client,
        ):
            found += [Inconsistency("", problem) for problem in (await client.admin.cluster()).problems]
    except (SteleError, TimeoutError) as e:
        report(f"no nameserver answered ({e}): the records were not compared with what the stores have seen")
    return found
