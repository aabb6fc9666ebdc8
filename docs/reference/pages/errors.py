"""errors.md: the error tree, from services/errors.py and stele/errors.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import stele.errors
import stele.services.errors
from pages import code, table
from stele.services.errors import SteleError

HEAD = """# Errors

Every failure that leaves a part is one of these classes, which all derive from `stele.SteleError`. Over gRPC the class travels as the
reason of a `google.rpc.ErrorInfo` of the domain `{domain}`, inside streams as the reason of a `stele.v1.Error`, with the facts as its
metadata. Switch on the class or the reason, never on the text.

- *definite*: the operation had no effect. *indefinite*: its outcome is not known; it may have happened.
- *retryable*: the same call may succeed later, unchanged. *terminal*: it never will; where the text says *for this replica*, another one
  may still serve it.
"""
SECTION = re.compile(r"^# --- (?P<title>.+?) -+$")
FACTS = re.compile(r"\bfacts? (?P<names>`\w+`(?:, `\w+`)*)")
# What the columns say already: the facts alone in brackets, and the closing words.
SAID = re.compile(r" \(facts? `\w+`(?:, `\w+`)*\)|\. (?:Definite|Indefinite), (?:retryable|terminal)(?= \([RHF]\d|\.$)")


def page() -> str:
    lines = [HEAD.format(domain=stele.services.errors.DOMAIN)]
    for title, errors in sections():
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        lines += table(("class", "reason", "it is", "gRPC", "facts", "meaning"), (row(error) for error in errors))
        lines += [""]
    return "\n".join(lines)


def sections() -> Iterator[tuple[str, list[type[SteleError]]]]:
    """The classes in the order and under the headings of their modules."""
    for module in (stele.services.errors, stele.errors):
        title, found = "The base" if module is stele.services.errors else "Of the client", list[type[SteleError]]()
        own = {inspect.getsourcelines(c)[1]: c for c in public(module)}
        for number, line in enumerate(inspect.getsource(module).splitlines(), 1):
            if heading := SECTION.match(line):
                if found:
                    yield title, found
                title, found = heading["title"], []
            elif number in own:
                found.append(own[number])
        yield title, found


def public(module: ModuleType) -> Iterator[type[SteleError]]:
    """The errors that a module defines, without bases that are never raised."""
    own = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
    return (v for v in own if issubclass(v, SteleError) and not v.__name__.startswith("_"))


def row(error: type[SteleError]) -> tuple[str, ...]:
    text = " ".join((inspect.getdoc(error) or "").replace("``", "`").split())
    facts = FACTS.search(text)
    return (
        code(error.__name__),
        code(error.reason),
        f"{'definite' if error.definite else 'indefinite'}, {'retryable' if error.retryable else 'terminal'}",
        code(error.code.name),
        facts["names"] if facts else "",
        SAID.sub("", text),
    )
