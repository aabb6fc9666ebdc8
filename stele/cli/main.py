"""The command ``stele``."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from stele.cli import (
    broker,
    bundle,
    cluster,
    consume,
    events,
    explain,
    health,
    nameserver,
    namespace,
    operation,
    partition,
    produce,
    stop_safety,
    store,
    subscription,
    topic,
)
from stele.cli import (
    metadata as metadata_commands,
)
from stele.cli.options import SteleGroup, examples, output_failed

app = typer.Typer(
    name="stele",
    cls=SteleGroup,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "stele cluster up",
        "stele topic create demo/hello --partitions 4",
        "stele produce demo/hello --count 1000",
        "stele consume demo/hello --subscription me --timeout 2",
        "stele cluster kill dn1",
        "stele health",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        print(metadata.version("stele"))
        raise typer.Exit


@app.callback()
def stele(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A replicated, partitioned message log that you can kill."""


app.add_typer(cluster.app, name="cluster")
app.add_typer(namespace.app, name="namespace")
app.add_typer(topic.app, name="topic")
app.command(epilog=produce.EPILOG, short_help="Send messages: lines of stdin, or made-up ones.")(produce.produce)
app.command(epilog=consume.EPILOG, short_help="Print messages as they come, and acknowledge them.")(consume.consume)
app.add_typer(subscription.app, name="subscription")
app.add_typer(partition.app, name="partition")
app.add_typer(store.app, name="store")
app.add_typer(operation.app, name="operation")
app.add_typer(broker.app, name="broker")
app.add_typer(bundle.app, name="bundle")
app.add_typer(nameserver.app, name="nameserver")
app.add_typer(metadata_commands.app, name="metadata")
app.command("safe-to-stop", epilog=stop_safety.EPILOG, short_help="Say whether a process can be stopped now.")(
    stop_safety.safe_to_stop
)
app.command(epilog=events.EPILOG, short_help="Show what happened in the cluster.")(events.events)
app.command(epilog=explain.EPILOG, short_help="Say why: from the first sign to the first write after it.")(
    explain.explain
)
app.command(epilog=health.EPILOG)(health.health)


def main() -> None:
    """Entry point: the exit status says whether it went well."""
    _occupy_standard_streams()
    try:
        app()
    except SystemExit as ended:
        try:
            if sys.stdout is not None:  # it is None where it was closed from the start
                sys.stdout.flush()  # here and not by the interpreter, which would complain, and change the status
        except OSError as e:
            sys.exit(output_failed(e))
        sys.exit(ended.code)


def _occupy_standard_streams() -> None:
    """Whoever started the command may have closed them: no file or socket of ours must take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


if __name__ == "__main__":
    main()
