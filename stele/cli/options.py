"""What every command shares: where the cluster is, how work runs, how errors end a command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

from stele.cli.output import OutputFormat, report, shown, stderr, working
from stele.client import CONNECT_TIMEOUT_S, SERVER_VARIABLE, Client, connect
from stele.local.errors import NoCluster
from stele.local.state import StateDirectory
from stele.services import errors
from stele.services.errors import InvalidArgument, InvalidConfig, SteleError

T = TypeVar("T")
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # what all errors about usage are; not exported itself
LINE_CHARS_MAX = 400
ORDER = [
    "cluster",
    "namespace",
    "topic",
    "produce",
    "consume",
    "subscription",
    "partition",
    "store",
    "operation",
    "broker",
    "bundle",
    "nameserver",
    "metadata",
    "safe-to-stop",
    "events",
    "explain",
    "health",
]  # of the commands in the help: as one needs them
DIRECTORY_VARIABLE = "STELE_DIR"
TIMEOUT_MIN_S = 0.1
USAGE, FAILED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        envvar=SERVER_VARIABLE,
        metavar="HOST:PORT,…",
        help="Nameservers of the cluster.  Without it: the local cluster in --dir.",
    ),
]
Directory = Annotated[
    Path, typer.Option("--dir", envvar=DIRECTORY_VARIABLE, metavar="DIR", help="Directory of the local cluster.")
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print: table or json.")]
TopicName = Annotated[str, typer.Argument(metavar="NS/TOPIC", help="Topic, as namespace/topic.")]
DEFAULT_DIRECTORY = Path(".stele")

_WAY_OUT: dict[type[SteleError], str] = {
    errors.TopicNotFound: "`stele topic ls` lists the topics, `stele topic create` makes one",
    errors.TopicExists: "choose another name, or give --if-absent",
    errors.NamespaceNotFound: "`stele namespace ls` lists what there is",
    errors.SubscriptionNotFound: "`stele subscription ls NS/TOPIC` lists the subscriptions",
    errors.NameNotFound: "`stele metadata names ls` lists the names of processes",
    errors.NotEnoughStores: "start more datanodes, or ask for fewer replicas with --replication",
    errors.ConsumerBusy: "stop the other consumer, or use --type shared or failover",
    errors.MessageTooLarge: "send smaller messages",
    errors.BatchCorrupt: "`stele subscription seek` leads past it",
    errors.Unreachable: "is the cluster up? `stele cluster status` shows the local one, --server names another",
    errors.NoLeader: "wait a moment; `stele health` says what is missing",
    errors.Timeout: "`stele health` says what is missing",
    errors.DirectoryBusy: "stop the process that uses it",
    NoCluster: "or name another one: --dir a local one, --server or STELE_SERVER any",
}


class SteleGroup(TyperGroup):
    """The root command: an error is one line with the way out; Ctrl-C and a closed pipe are quiet."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def make_context(self, *given: Any, **options: Any) -> Any:
        try:
            return super().make_context(*given, **options)
        except UsageError as e:
            _fail_usage(e)
        except OSError as e:  # its help could not be written
            sys.exit(output_failed(e))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SteleError as e:
            fail(e)
        except UsageError as e:
            _fail_usage(e)
        except OSError as e:
            sys.exit(output_failed(e))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(INTERRUPTED) from None


def _fail_usage(error: Any) -> NoReturn:
    """Ends the command with one line about how it was called; a group without a command shows its help."""
    if not error.format_message().strip() or type(error).__name__ == "NoArgsIsHelpError":
        raise error
    command = error.ctx.command_path if error.ctx is not None else "stele"
    what = shown(" ".join(error.format_message().split()), LINE_CHARS_MAX)
    stderr().print(f"[bold red]error:[/] {_escaped(what)}; `{command} --help` says what is accepted")
    sys.exit(USAGE)


def fail(error: SteleError) -> None:
    """Ends the command with one line about ``error``."""
    way_out = next((text for kind, text in _WAY_OUT.items() if isinstance(error, kind)), "")
    what = shown(" ".join(error.message.split()), LINE_CHARS_MAX)
    stderr().print(f"[bold red]error:[/] {_escaped(what)}" + (f"; {_escaped(way_out)}" if way_out else ""))
    is_usage = type(error) in (InvalidArgument, InvalidConfig)
    raise typer.Exit(USAGE if is_usage else FAILED)


def output_failed(error: OSError) -> int:
    """The status of a command that the system refused something: its output, mostly.  A closed pipe is quiet; all else is one line."""
    # What is still buffered cannot be written either; the interpreter would complain at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    with contextlib.suppress(OSError, ValueError):
        stderr().print(f"[bold red]error:[/] {_escaped(shown(what, LINE_CHARS_MAX))}")
    return FAILED


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def group(help: str) -> typer.Typer:
    """A group of commands that behaves like all others."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
    )


def servers_of(server: str, directory: Path) -> str:
    """The nameservers that a command talks to.  Raises NoCluster."""
    if server:
        return server
    return StateDirectory(directory).load().bootstrap


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs asynchronous work; Ctrl-C cancels it and lets it clean up."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def with_client(
    server: str,
    directory: Path,
    work: Callable[[Client], Awaitable[T]],
    doing: str = "",
    timeout_s: float | None = None,
) -> T:
    """Runs ``work`` with a connected client, under a spinner that says what is being done.  ``timeout_s``: for connecting, where the
    command gives less than is usual."""
    bound_s = CONNECT_TIMEOUT_S if timeout_s is None else min(max(timeout_s, TIMEOUT_MIN_S), CONNECT_TIMEOUT_S)

    async def connected() -> T:
        async with connect(servers_of(server, directory), timeout_s=bound_s) as client:
            return await work(client)

    if not doing:
        return run(connected())
    with working(doing):
        return run(connected())


def confirm(question: str, yes: bool) -> None:
    """Asks before something is lost; where nobody can answer, ``--yes`` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(f"{question} Nobody is there to answer: give --yes")
    if not typer.confirm(question, err=True):
        report("nothing was changed")
        raise typer.Exit(FAILED)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
