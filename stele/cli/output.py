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


def show_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], widths: Sequence[int] | None = None
) -> list[int]:
    """A table without lines; in a pipe each row is one line.  ``widths``: it goes on one that is shown already, whose columns these are,
    as returned."""
    interactive = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if interactive else PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, show_header=widths is None)
    cells = [[_cell(value) for value in row] for row in rows]
    if widths is None:
        widths = [max(len(c), *(row[i].cell_len for row in cells), 0) for i, c in enumerate(columns)]
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, overflow="fold", min_width=None if interactive else width)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    return list(widths)


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


class LongListing:
    """A listing that is shown page by page, as it comes: what is shown is what ``show`` shows of all pages together, but that columns
    are as wide as the first page needs."""

    def __init__(self, output: OutputFormat, columns: Sequence[str]) -> None:
        self._output, self._columns = output, columns
        self._widths: list[int] | None = None
        self._shown = 0

    def add(self, items: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
        if self._output is OutputFormat.JSON:
            for item in items:
                text = json.dumps(_plain(item), indent=2).replace("\n", "\n  ")
                sys.stdout.write(("[\n  " if self._shown == 0 else ",\n  ") + text)
                self._shown += 1
        else:
            self._widths = show_rows(self._columns, rows, self._widths)
        sys.stdout.flush()

    def end(self) -> None:
        if self._output is OutputFormat.JSON:
            sys.stdout.write("\n]\n" if self._shown else "[]\n")
        elif self._widths is None:
            show_rows(self._columns, ())


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
