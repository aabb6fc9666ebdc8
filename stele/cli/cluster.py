"""``stele cluster``: a cluster of real processes on this machine."""

from __future__ import annotations

import asyncio
import enum
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stele import arguments
from stele.cli.options import (
    DEFAULT_DIRECTORY,
    DIRECTORY_VARIABLE,
    FAILED,
    INTERRUPTED,
    Directory,
    Output,
    ServerOption,
    confirm,
    examples,
    group,
    with_client,
)
from stele.cli.output import OutputFormat, progress, report, show, show_json, stderr
from stele.client import SERVER_VARIABLE, Client
from stele.local.compose_recipe import COMPOSE
from stele.local.state import ClusterSpec, StateDirectory
from stele.model import ClusterInfo, FinalizedUpgrade
from stele.services.errors import InvalidArgument, SteleError
from stele.services.extras import require
from stele.sync import connect

if TYPE_CHECKING:
    from stele.local.cluster import LocalCluster

FOLLOW_INTERVAL_S = 0.2
FORMAT_TIMEOUT_S = 2.0

app = group("Run a cluster of real processes on this machine.")


class Recipe(enum.StrEnum):
    COMPOSE = "compose"


ProcessName = Annotated[str, typer.Argument(metavar="NAME", help="Process: zk1, ns1, dn1, br1, …")]


@app.command(
    epilog=examples(
        "stele cluster up",
        "stele cluster up --datanodes 5 --brokers 3 --dir /tmp/stele",
        "stele cluster up --zookeepers 3",
        "STELE_ZOOKEEPER=zk.example:2181 stele cluster up",
    )
)
def up(
    nameservers: Annotated[int | None, typer.Option(help="Number of nameservers (3).", min=1, max=99)] = None,
    datanodes: Annotated[int | None, typer.Option(help="Number of datanodes (3).", min=0, max=99)] = None,
    brokers: Annotated[int | None, typer.Option(help="Number of brokers (2).", min=1, max=99)] = None,
    zookeepers: Annotated[
        int | None, typer.Option(help="Number of ZooKeepers (1): 3 outlive the death of one.  It stays.", min=1, max=7)
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Start what does not run and wait until all of it is ready.  Can be repeated: what runs is left alone; larger numbers add
    processes."""
    cluster = _local(directory)
    have = cluster.files.load() if cluster.exists else None
    spec = ClusterSpec(
        nameservers=nameservers if nameservers is not None else (have.count("ns") if have else 3),
        datanodes=datanodes if datanodes is not None else (have.count("dn") if have else 3),
        brokers=brokers if brokers is not None else (have.count("br") if have else 2),
        zookeepers=zookeepers if zookeepers is not None else (have.zookeepers if have else 1),
    )
    names = spec.names()
    with _shown("starting", spec.zookeepers + len(names), "ready") as step:
        started = cluster.up(spec, step)
    flag = "" if directory == DEFAULT_DIRECTORY else f" --dir {directory}"
    what = f"{len(names)} processes and ZooKeeper at {cluster.zookeeper_hosts}, files in {cluster.directory}"
    if not started:
        report(f"it was up: {what}; nothing was started")
    elif have is None or set(names) <= set(started):
        report(f"ready: {what}")
    else:
        report(f"ready: {what}; started {', '.join(started)}, the others were up")
    report(f"reach it:  stele topic create demo/hello --partitions 4{flag}")
    report(f'from anywhere, and from Python:  eval "$(stele cluster env{flag})"')
    report(f"stop it:   stele cluster down{flag}      (its data stays; `stele cluster destroy{flag}` removes it)")


@app.command(
    epilog=examples(
        'eval "$(stele cluster env)"; stele topic ls',
        'eval "$(stele cluster env --dir /tmp/stele)"; python -c "import stele; stele.sync.connect()"',
        "stele cluster env -o json | jq -r .STELE_SERVER",
    )
)
def env(directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE) -> None:
    """Print the variables that lead a shell to the local cluster, to be evaluated there: every `stele` command, from any directory, and
    `stele.connect()` without an address then reach it."""
    files = StateDirectory(directory)
    variables = {SERVER_VARIABLE: files.load().bootstrap, DIRECTORY_VARIABLE: str(files.path)}
    if output is OutputFormat.JSON:
        show_json(variables)
    else:
        for name, value in variables.items():
            print(f"export {name}={shlex.quote(value)}")


@app.command(epilog=examples("stele cluster status", "stele cluster status -o json | jq '.[] | select(.ready | not)'"))
def status(directory: Directory = DEFAULT_DIRECTORY, output: Output = OutputFormat.TABLE) -> None:
    """Show every process.  Exit status 1 unless all of them run and are ready."""
    shown = _local(directory).status()
    rows = [(p.name, p.role, p.state, p.ready, p.endpoint, p.pid or "", p.detail) for p in shown]
    show(output, shown, ("NAME", "ROLE", "STATE", "READY", "ENDPOINT", "PID", "WAITS FOR"), rows)
    if any(p.role == "nameserver" and p.ready for p in shown):
        _report_format(directory)
    unwell = [p for p in shown if not p.healthy]
    if unwell:
        listed = ", ".join(f"{p.name} ({p.state if p.state != 'running' else 'not ready'})" for p in unwell)
        report(
            f"{len(unwell)} of {len(shown)} processes are not well: {listed}; `stele cluster up` starts what is dead"
        )
        raise typer.Exit(FAILED)


def _report_format(directory: Path) -> None:
    """What the cluster's records are written in, where a nameserver says so in time."""

    async def work(client: Client) -> ClusterInfo:
        async with asyncio.timeout(FORMAT_TIMEOUT_S):
            return await client.admin.cluster()

    try:
        found = with_client("", directory, work, timeout_s=FORMAT_TIMEOUT_S)
    except (SteleError, TimeoutError):
        return
    if found.record_format:
        newer = found.known_format > found.record_format
        way_on = (
            f"; its processes know {found.known_format}: `stele cluster finalize-upgrade` raises it" if newer else ""
        )
        report(f"record format {found.record_format}{way_on}")


@app.command(
    "finalize-upgrade",
    epilog=examples(
        "stele cluster finalize-upgrade --dry-run", "stele cluster finalize-upgrade --yes --server ns1:7000"
    ),
)
def finalize_upgrade(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show who knows which format, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = "",
    directory: Directory = DEFAULT_DIRECTORY,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Raise the cluster to the record format that all of its processes know, once every one is of the new version.

    Until then newer processes write nothing that older ones would lose, and what takes a newer format is refused.  From then on no older
    process can join, and there is no way back.  It is refused while a process knows less, or is recorded and not registered.  With
    --dry-run exit status 1 if it would be."""
    if not dry_run:
        confirm("Raise the cluster's record format, so that no older version can join any more?", yes)

    async def work(client: Client) -> FinalizedUpgrade:
        return await client.admin.finalize_upgrade(dry_run=dry_run)

    found = with_client(server, directory, work, "asking" if dry_run else "finalizing")
    rows = [(m.name, m.kind, m.knows or "", m.version, m.hindrance) for m in found.members]
    if output is OutputFormat.JSON:
        show_json(found)
    elif dry_run:
        show(output, found.members, ("NAME", "KIND", "KNOWS", "VERSION", "HINDERS"), rows)
    if found.format == found.before:
        report(f"the cluster is at record format {found.format}, and no process knows a higher one")
    elif not dry_run:
        report(f"the cluster is at record format {found.format} now, after {found.before}")
    elif hindering := [m.name for m in found.members if m.hindrance]:
        report(f"the cluster stays at record format {found.before} because of {', '.join(hindering)}")
        raise typer.Exit(FAILED)
    else:
        report(f"the cluster would rise from record format {found.before} to {found.format}; nothing was changed")


@app.command(epilog=examples("stele cluster kill dn2", "stele cluster kill br1 --signal TERM"))
def kill(
    name: ProcessName,
    signal_name: Annotated[str, typer.Option("--signal", help="Signal to send.")] = "KILL",
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Send a signal to one process: KILL unless told otherwise.  It stays dead until `start` or `up`."""
    number = _signal(signal_name)
    _local(directory).kill(name, number)
    report(f"{name}: {signal.Signals(number).name} sent")


@app.command(epilog=examples("stele cluster start dn2"))
def start(name: ProcessName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Start one process again, on its old ports and data, and wait until it is ready."""
    with _shown(f"starting {name}", 1, "ready") as step:
        ready = _local(directory).start(name, progress=step)
    report(f"{name}: ready" if ready else f"{name}: started; it serves once most of the ZooKeepers run")


@app.command(
    epilog=examples(
        "stele cluster restart --rolling",
        "stele cluster restart --rolling --with-zookeeper",
        "stele cluster restart --recipe compose > restart.sh; sh restart.sh",
    )
)
def restart(
    rolling: Annotated[
        bool, typer.Option("--rolling", help="One process after the other, each once it is safe to stop.")
    ] = False,
    recipe: Annotated[
        Recipe | None, typer.Option("--recipe", help="Only print a script that does the same to: compose.")
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", help="How long each may take to be safe to stop, and to be whole again.", min=0
        ),
    ] = 300.0,
    with_zookeeper: Annotated[
        bool, typer.Option("--with-zookeeper", help="ZooKeepers, too, before all others: of several, one by one.")
    ] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Restart every process but ZooKeeper while clients go on: nameservers, the leading one last, datanodes, brokers.  Each hands over
    what it has before it ends; what is not safe to stop in time ends the command, with the reasons.  Ctrl-C ends it once nothing is
    stopped."""
    arguments.timeout_s(wait_s, "--wait")
    if recipe is not None:
        sys.stdout.write(COMPOSE)
        return
    if not rolling:
        raise InvalidArgument(
            "say --rolling; `stele cluster down` and `stele cluster up` restart all processes at once"
        )
    cluster = _local(directory)
    from stele.local.rolling import Interrupted, RollingRestart, check_ensemble

    if with_zookeeper:
        check_ensemble(cluster)
    with _asked_to_end() as interrupted, connect(cluster.bootstrap) as client:
        restart = RollingRestart(cluster, client, report, wait_s, interrupted, with_zookeeper)
        try:
            restart.run()
        except Interrupted:
            done = ", ".join(restart.restarted) or "nothing"
            report(f"ended before its time: {done} restarted, everything runs")
            raise typer.Exit(INTERRUPTED) from None
    report(f"restarted, one after the other: {', '.join(restart.restarted)}")


@app.command(epilog=examples("stele cluster pause dn1", "stele cluster pause br1; sleep 5; stele cluster resume br1"))
def pause(name: ProcessName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Stop one process from running (SIGSTOP): it keeps its connections and answers nobody."""
    _local(directory).pause(name)
    report(f"{name}: paused; `stele cluster resume {name}` lets it go on")


@app.command(epilog=examples("stele cluster resume dn1"))
def resume(name: ProcessName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Let a paused process go on (SIGCONT)."""
    _local(directory).resume(name)
    report(f"{name}: resumed")


@app.command(
    epilog=examples(
        "stele cluster logs ns1", "stele cluster logs dn1 -n 200 -f", "stele cluster logs -f | grep elected"
    )
)
def logs(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Process; without it: all of them.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines to begin with.", min=0)] = 20,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Print the logs of one process, or of all with their names in front."""
    cluster = _local(directory)
    chosen = [name] if name else cluster.names()
    paths = {n: cluster.log_path(n) for n in chosen}
    width = max(map(len, chosen))
    read = {n: _print_end(path, lines, _prefix(n, width, bool(name))) for n, path in paths.items()}
    while follow:
        sys.stdout.flush()
        time.sleep(FOLLOW_INTERVAL_S)
        for n, path in paths.items():
            read[n] = _print_new(path, read[n], _prefix(n, width, bool(name)))


@app.command(epilog=examples("stele cluster down", "stele cluster down --now"))
def down(
    now: Annotated[bool, typer.Option("--now", help="Kill at once instead of handing work over.")] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Stop every process: brokers, datanodes, nameservers, ZooKeeper.  Data stays; `up` brings it back."""
    cluster = _local(directory)
    with _shown("stopping", len(cluster.names()), "stopped") as step:
        cluster.down(step, now=now)
    report(f"stopped; data stays in {cluster.directory}")


@app.command(epilog=examples("stele cluster destroy", "stele cluster destroy --yes --dir /tmp/stele"))
def destroy(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Stop every process and remove the directory with all data."""
    cluster = _local(directory)
    names = cluster.names()
    confirm(f"Remove the cluster in {cluster.directory} with all of its data?", yes)
    with _shown("stopping", len(names), "stopped") as step:
        cluster.destroy(step)
    report(f"removed {cluster.directory}")


def _local(directory: Path) -> LocalCluster:
    """The cluster in a directory.  Raises ToolMissing where only the client is installed."""
    require("server", "stele cluster")
    from stele.local.cluster import LocalCluster

    return LocalCluster(directory)


@contextmanager
def _shown(text: str, total: int, done: str) -> Iterator[Callable[[str, str], None]]:
    """Progress of processes: a bar on a terminal, else one line per process that is done."""
    interactive = stderr().is_terminal
    with progress(text, total) as advance:

        def step(name: str, doing: str) -> None:
            if doing == done:
                advance()
                if not interactive:
                    report(f"{name}: {done}")

        yield step


@contextmanager
def _asked_to_end() -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked for it: nothing is cut short."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if not asked:
            os.write(2, b"ends once nothing is stopped\n")
        asked.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _signal(name: str) -> int:
    try:
        return (
            signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
            if not name.isdecimal()
            else signal.Signals(int(name))
        )
    except (KeyError, ValueError):
        raise InvalidArgument(f"{name!r} is no signal; examples: KILL, TERM, STOP, CONT, INT") from None


def _prefix(name: str, width: int, alone: bool) -> bytes:
    return b"" if alone else f"{name:<{width}} ".encode()


def _print_end(path: Path, lines: int, prefix: bytes) -> int:
    """Prints the last lines of a file; its size."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    _print(content.splitlines(keepends=True)[-lines:] if lines else [], prefix)
    return len(content)


def _print_new(path: Path, since_bytes: int, prefix: bytes) -> int:
    """Prints whole lines that a file has gained; how far it was read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < since_bytes:
                since_bytes = 0  # written anew
            file.seek(since_bytes)
            gained = file.read()
    except OSError:
        return since_bytes
    whole = gained[: gained.rfind(b"\n") + 1]
    _print(whole.splitlines(keepends=True), prefix)
    return since_bytes + len(whole)


def _print(lines: list[bytes], prefix: bytes) -> None:
    for line in lines:
        sys.stdout.buffer.write(prefix + line if line.endswith(b"\n") else prefix + line + b"\n")
