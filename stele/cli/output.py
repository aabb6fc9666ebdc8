"""How results and errors are shown: data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 10_000  # a listing that goes into a pipe is never wrapped
_COLOURS = {
    "ok": "green",
    "yes": "green",
    "running": "green",
    "ready": "green",
    "up": "green",
    "dead": "red",
    "paused": "yellow",
}


class OutputFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


def stderr() -> Console:
    """Made anew each time: tests and pagers replace the stream."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def report(text: str) -> None:
    """One line for a person."""
    stderr().print(Text(text))


def show_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table without lines; in a pipe each row is one line."""
    interactive = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if interactive else PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def show_json(value: object) -> None:
    json.dump(_plain(value), sys.stdout, indent=2)
    sys.stdout.write("\n")


def show_json_line(value: object) -> None:
    sys.stdout.write(json.dumps(_plain(value), separators=(",", ":")) + "\n")


def show(
    output: OutputFormat, items: Sequence[object], columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """A listing: ``items`` whole as JSON, or ``rows`` as a table."""
    if output is OutputFormat.JSON:
        show_json(list(items))
    else:
        show_rows(columns, rows)


def show_facts(output: OutputFormat, item: object, facts: Iterable[tuple[str, object]]) -> None:
    """One thing: whole as JSON, or its facts line by line."""
    if output is OutputFormat.JSON:
        show_json(item)
        return
    listed = [(f"{name}:", value) for name, value in facts]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        sys.stdout.write(f"{name:<{width}}  {_cell(value).plain}\n")


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner while something may take longer than a moment; silent where nobody watches."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(text)):
        yield


@contextlib.contextmanager
def progress(text: str, total: int | None) -> Iterator[Any]:
    """A bar on stderr; ``advance(n)`` moves it.  Nothing where nobody watches."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _=1: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda n=1: bar.advance(task, n)


def shown(text: str, chars_max: int) -> str:
    """What a terminal can show of a text, in one line of bounded length."""
    printable = text.encode("utf-8", "backslashreplace").decode()
    return printable if len(printable) <= chars_max else printable[: chars_max - 1] + "…"


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def moment(time_ms: int) -> str:
    """A point in time, local, to the millisecond."""
    if not time_ms:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000)) + f".{time_ms % 1000:03d}"


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("-")
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value)) or "-"
    return Text(str(value), style=_COLOURS.get(str(value), ""))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value
