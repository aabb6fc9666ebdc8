"""What code says that also runs inside programs of others: the client, and what it shares with the roles.

Guarantee: nothing is written anywhere unless the program asks for it, and nobody's logging is configured: events go to the standard
logger ``stele``, as ``event key=value``.  A program that wants to see them does as with any library::

    logging.basicConfig()
    logging.getLogger("stele").setLevel("DEBUG")

In a process of Stele's own, ``services/logs.py`` gives the same events the form of all other lines, with their facts as fields.
Importing structlog, which the roles use, takes longer than all of the client: it loads what draws tracebacks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

NAME = "stele"
logging.getLogger(NAME).addHandler(logging.NullHandler())  # else the standard library writes warnings to stderr


@dataclass(frozen=True, slots=True)
class LibraryEvent:
    """The message of a log record: an event with its facts."""

    event: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{key}={value}" for key, value in self.facts.items())])


class LibraryLog:
    """Events of one part, at the logger ``stele.<part>``."""

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(f"{NAME}.{part}")

    def debug(self, event: str, **facts: object) -> None:
        self._logger.debug(LibraryEvent(event, facts), stacklevel=2)

    def info(self, event: str, **facts: object) -> None:
        self._logger.info(LibraryEvent(event, facts), stacklevel=2)

    def error(self, event: str, error: BaseException, **facts: object) -> None:
        """A fault of this program, with where it happened."""
        self._logger.error(LibraryEvent(event, {**facts, "error": repr(error)}), exc_info=error, stacklevel=2)

    def warning(self, event: str, **facts: object) -> None:
        self._logger.warning(LibraryEvent(event, facts), stacklevel=2)
