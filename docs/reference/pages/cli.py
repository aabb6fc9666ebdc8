"""cli.md: every command of `stele`, from the tree of commands itself."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from pages import code, table
from stele.cli import options
from stele.cli.main import app
from stele.services.config import ROLES

HEAD = """# The command `stele`

```
{usage}
```

{tree}

A command talks to the cluster that `--server` or `STELE_SERVER` names, else to the local one in `--dir` (`.stele`), which
`stele cluster up` starts. With `-o json` what it finds goes to standard output as JSON; progress and remarks go to standard error.
What loses something asks first; where nobody can answer, it wants `--yes`.

The processes of a cluster are started with {roles}.
`--help` lists their settings, as does [configuration.md](configuration.md).

## Exit status

{status}
"""
SHARED_BY = 5  # commands from which on an option is described once
STATUS = (
    (0, "it went well"),
    (options.FAILED, "it failed, or what was asked is not so; one line on standard error says what and what to do"),
    (options.USAGE, "the command was not understood"),
    (options.INTERRUPTED, "Ctrl-C"),
    (options.PIPE_CLOSED, "whoever read its output went away"),
)

Row = tuple[str, str]  # an option or argument, and what it is


def page() -> str:
    root = get_command(app)
    found = list(commands(root, "stele"))
    seen = Counter(row for _, command in found for row in options_of(command))
    shared = [row for row, count in seen.items() if count >= SHARED_BY]
    lines = [
        HEAD.format(
            usage=examples(root.epilog),
            tree="\n".join(table(("command", "what it does"), (link(name, command) for name, command in found))),
            roles=", ".join(f"`python -m stele.{role}`" for role in ROLES),
            status="\n".join(table(("status", "meaning"), ((str(number), text) for number, text in STATUS))),
        ),
        "## Options of many commands",
        "",
        *table(("option", "what it is"), shared),
    ]
    for name, command in found:
        lines += ["", *section(name, command, shared)]
    return "\n".join(lines)


def commands(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """The leaves of the tree in the order of its help, each with its full name."""
    if isinstance(command, TyperGroup):
        names = command.list_commands(command.context_class(command))
        for inner in names:
            yield from commands(command.commands[inner], f"{name} {inner}")
    elif isinstance(command, TyperCommand):
        yield name, command


def link(name: str, command: TyperCommand) -> tuple[str, str]:
    first = command.short_help or paragraphs(command)[0].partition(".  ")[0]
    return f"[`{name}`](#{name.replace(' ', '-')})", f"{first.removesuffix('.')}."


def section(name: str, command: TyperCommand, shared: list[Row]) -> list[str]:
    own = [row for row in arguments_of(command) + options_of(command) if row not in shared]
    others = [row[0] for row in options_of(command) if row in shared]
    lines = [f"## {name}", "", "\n\n".join(paragraphs(command)), ""]
    if own:
        lines += [*table(("argument or option", "what it is"), own), ""]
    lines += [f"{'Also' if own else 'Options'}: {', '.join(others)}.", ""] if others else []
    return [*lines, "```", examples(command.epilog), "```"]


def paragraphs(command: TyperCommand) -> list[str]:
    return [" ".join(part.split("\n")) for part in inspect.cleandoc(command.help or "").split("\n\n")]


def examples(epilog: str | None) -> str:
    return "\n".join(line.strip() for line in (epilog or "").splitlines() if line.startswith("  "))


def arguments_of(command: TyperCommand) -> list[Row]:
    return rows(command, [param for param in command.params if isinstance(param, TyperArgument)])


def options_of(command: TyperCommand) -> list[Row]:
    return rows(command, [param for param in command.params if isinstance(param, TyperOption)])


def rows(command: TyperCommand, params: Sequence[TyperArgument | TyperOption]) -> list[Row]:
    """Parameters as the command's own help has them, with what is accepted in words."""
    context = command.context_class(command, info_name=command.name)
    records = [record for param in params if (record := param.get_help_record(context))]
    return [(code(named(head)), in_words(text)) for head, text in records]


def named(head: str) -> str:
    """An option with its value, an argument by its name alone."""
    return head.replace(" range>", ">") if head.startswith("-") else head.partition(" <")[0]


def in_words(text: str) -> str:
    text = re.sub(r"(\d+)<=x<=(\d+)", r"\1 to \2", " ".join(text.split()))
    return re.sub(r"x>=([\d.]+)", r"from \1 on", text)
