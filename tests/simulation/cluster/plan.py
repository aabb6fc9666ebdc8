"""What goes wrong in a run of the cluster: a list made from the seed before the run begins, so that it can be printed, shortened and
replayed.  Each run draws which kinds of fault it has and how dense they are (swarm testing)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Hosts:
    """Who there is."""

    nameservers: tuple[str, ...]
    datanodes: tuple[str, ...]
    brokers: tuple[str, ...]
    clients: tuple[str, ...]
    zookeepers: tuple[str, ...]

    @property
    def servers(self) -> tuple[str, ...]:
        return self.nameservers + self.datanodes + self.brokers

    @property
    def everybody(self) -> tuple[str, ...]:
        return self.servers + self.clients


@dataclass(frozen=True, slots=True)
class Fault:
    """``number`` is its place in the plan of its seed; ``values`` are what its kind needs."""

    number: int
    at: float
    kind: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in self.values)
        return f"#{self.number} at {self.at:.3f} s: {self.kind} ({shown})"


_Draw = Callable[[random.Random, Hosts], tuple[Value, ...]]


def _server(rng: random.Random, hosts: Hosts) -> str:
    """Kinds of process alike: there are more of some."""
    return rng.choice(rng.choice((hosts.nameservers, hosts.datanodes, hosts.brokers)))


def _diskless(rng: random.Random, hosts: Hosts) -> str:
    return rng.choice(rng.choice((hosts.nameservers, hosts.brokers)))


def _short_or_long(rng: random.Random, longest_s: float) -> float:
    return rng.uniform(0.01, longest_s * 0.15) if rng.random() < 0.5 else rng.uniform(0.1, longest_s)


def _pair(rng: random.Random, hosts: Hosts) -> tuple[str, str]:
    first, second = rng.sample(hosts.everybody, 2)
    return first, second


# kind: weight, what it needs
_KINDS: dict[str, tuple[float, _Draw]] = {
    "kill": (4, lambda r, h: (_server(r, h), r.uniform(0.05, 3.0))),
    "terminate": (2, lambda r, h: (_server(r, h),)),
    "pause": (3, lambda r, h: (_server(r, h), _short_or_long(r, 8.0))),
    "stall": (2, lambda r, h: (_server(r, h), _short_or_long(r, 10.0))),
    "pause client": (1, lambda r, h: (r.choice(h.clients), _short_or_long(r, 6.0))),
    "cut": (3, lambda r, h: (*_pair(r, h), _short_or_long(r, 6.0))),
    "one-way cut": (2, lambda r, h: (*_pair(r, h), _short_or_long(r, 6.0))),
    "isolate": (2, lambda r, h: (_server(r, h), _short_or_long(r, 8.0))),
    "reset": (2, lambda r, h: _pair(r, h)),
    "slow link": (1, lambda r, h: (*_pair(r, h), 10 ** r.uniform(1, 3), _short_or_long(r, 5.0))),
    "wall clock jump": (1, lambda r, h: (r.choice(h.everybody), r.uniform(-5000.0, 5000.0))),
    "cut from zookeeper": (3, lambda r, h: (_server(r, h), _short_or_long(r, 8.0))),
    "deaf to zookeeper": (1, lambda r, h: (_server(r, h), _short_or_long(r, 6.0))),
    "session expired": (3, lambda r, h: (_server(r, h),)),
    "zookeeper connection lost": (3, lambda r, h: (_server(r, h), r.choice(("", "before", "after")))),
    "zookeeper restart": (1, lambda r, h: (r.randrange(len(h.zookeepers) + 1), r.uniform(0.1, 4.0))),
    "slow zookeeper": (1, lambda r, h: (10 ** r.uniform(0.5, 3.0), r.uniform(0.2, 4.0))),
    "older zookeeper": (1, lambda r, h: (r.random(), r.uniform(0.1, 2.0))),
    "wiped zookeeper": (1, lambda r, h: (r.uniform(0.1, 4.0),)),
    "full zookeeper": (1, lambda r, h: (10 ** r.uniform(-3.0, -0.5), r.uniform(0.2, 4.0))),
    "power loss": (2, lambda r, h: (_server(r, h), r.uniform(0.05, 3.0))),
    "power loss in disk operation": (2, lambda r, h: (r.choice(h.datanodes), r.randrange(40), r.uniform(0.05, 3.0))),
    "slow disk": (1, lambda r, h: (r.choice(h.datanodes), 10 ** r.uniform(0.5, 2.5), _short_or_long(r, 5.0))),
    "disk full": (1, lambda r, h: (r.choice(h.datanodes), 2 ** r.uniform(0, 16), _short_or_long(r, 6.0))),
    "disk error": (1, lambda r, h: (r.choice(h.datanodes), r.choice(WRITES), r.choice(NAMES), r.randrange(4))),
    "unreadable": (2, lambda r, h: (r.choice(h.datanodes), r.choice(READS), r.choice(ERRORS), r.randint(1, 8))),
    "read only": (1, lambda r, h: (r.choice(h.datanodes), _short_or_long(r, 4.0))),
    "older volume": (1, lambda r, h: (r.choice(h.datanodes), r.uniform(0.1, 3.0), r.uniform(0.05, 2.0))),
    "folder lost": (1, lambda r, h: (r.choice(h.datanodes), r.random(), r.random() < 0.5)),
    "zookeeper answer lost": (2, lambda r, h: (_server(r, h), r.choice(("before", "after")), r.randrange(4))),
    "double": (1, lambda r, h: (_diskless(r, h), r.uniform(1.0, 12.0))),
    "moved": (1, lambda r, h: (_diskless(r, h), r.uniform(1.0, 12.0))),
    "race": (1, lambda r, h: (r.choice(h.brokers), r.randint(2, 4), r.uniform(0.5, 4.0))),
    "leftover": (1, lambda r, h: (_server(r, h), r.uniform(0.05, 3.0))),
    "member deleted": (1, lambda r, h: (_server(r, h), _short_or_long(r, 2.0))),
}
WRITES: Final = ("create", "pwrite", "fdatasync", "rename", "fsync_dir", "truncate")
READS: Final = ("open", "pread", "listdir", "stat")
NAMES: Final = ("", "term", "group.json", ".seg", ".snap", "store.json")
ERRORS: Final = (errno.EIO, errno.EMFILE, errno.EACCES)
KINDS: Final = tuple(_KINDS)

# Several things at once (exact.py): drawn from a stream of their own, and less dense.
_EXACT: dict[str, _Draw] = {
    "still disk": lambda r, h: (r.choice(h.datanodes), 10 ** r.uniform(0.0, 1.5)),
    "deposed": lambda r, h: (10 ** r.uniform(-4.0, -2.0),),
    "owner expires": lambda r, h: (),
    "expires unheard": lambda r, h: (r.choice(h.brokers), r.uniform(2.0, 5.0)),
    "laggard alone": lambda r, h: (r.choice(h.nameservers), r.uniform(0.5, 2.0)),
    "usurped": lambda r, h: (_diskless(r, h), r.uniform(4.0, 12.0)),
    "answer lost at start": lambda r, h: (
        _server(r, h),
        r.uniform(0.05, 1.0),
        r.choice(("before", "after")),
        r.randrange(4),
    ),
    "unanswered double": lambda r, h: (_diskless(r, h), r.uniform(10.0, 14.0)),
    "answers lost": lambda r, h: (r.uniform(0.2, 1.5),),
    "stale route": lambda r, h: (r.uniform(0.5, 1.5),),
    "unheard of": lambda r, h: (r.uniform(2.0, 4.0),),
    "deletion unanswered": lambda r, h: (r.uniform(0.1, 1.0),),
    "refused": lambda r, h: (r.uniform(1.0, 4.0),),
    "returns unseen": lambda r, h: (r.choice(h.datanodes + h.brokers), r.choice(h.nameservers)),
    "gone": lambda r, h: (_server(r, h), r.uniform(8.0, 15.0)),
    "lost behind a laggard": lambda r, h: (r.random(), r.uniform(0.3, 1.5), r.uniform(3.0, 6.0)),
    "lost beside a still disk": lambda r, h: (r.random(), r.uniform(0.3, 1.0), r.uniform(3.0, 6.0)),
    "old leader": lambda r, h: (r.random(), r.uniform(2.6, 3.4)),
    "unreadable at start": lambda r, h: (r.choice(h.datanodes), r.uniform(0.05, 0.5), r.randint(1, 4), r.randint(1, 4)),
    "wiped under way": lambda r, h: (r.uniform(2.0, 6.0),),
    "older epochs": lambda r, h: (r.randint(3, 5), r.uniform(0.1, 1.0)),
    "older topics": lambda r, h: (r.randint(1, 2), r.uniform(0.1, 1.0)),
    "older half deleted": lambda r, h: (r.choice(h.datanodes), r.uniform(0.1, 1.0)),
    "another goes": lambda r, h: (),
    "still disks": lambda r, h: (r.uniform(8.2, 10.0),),
    "round fails": lambda r, h: (),
    "slow cold start": lambda r, h: (r.uniform(0.1, 1.0), 10 ** r.uniform(2.7, 3.6), 10.0),
    "cold start": lambda r, h: (r.uniform(0.1, 2.0), 10 ** r.uniform(1.0, 3.0), r.uniform(1.0, 5.0)),
}
EXACT: Final = tuple(_EXACT)
EXACT_FIRST_S: Final = (1.5, 4.0)
EXACT_GAP_S: Final = (2.5, 5.0)


RARE: Final = ("older zookeeper", "wiped zookeeper")  # after which the cluster starts anew
OLDER: Final = (
    "older zookeeper",
    "older epochs",
    "older topics",
    "older half deleted",
)  # after which an operator says that the older copy is to go on
FORGETS: Final = (*RARE, "wiped under way", "older epochs", "older topics", "older half deleted")  # what was recorded


def choose_kinds(rng: random.Random) -> list[str]:
    """The kinds of fault of a run."""
    return [kind for kind in KINDS if rng.random() < (0.1 if kind in RARE else 0.3)] or [rng.choice(KINDS)]


def choose_exact(rng: random.Random) -> list[str]:
    """Those of them that are exact; ``rng`` is theirs alone, so that the others of a seed stay as they are."""
    return ["still disk"] if rng.random() < 0.3 else []


def plan(rng: random.Random, hosts: Hosts, first_s: float, last_s: float, kinds: Sequence[str]) -> list[Fault]:
    """The faults of a run, of ``kinds``."""
    weights = [_KINDS[kind][0] for kind in kinds]
    mean_gap_s = 10 ** rng.uniform(-0.7, 0.4)
    found: list[Fault] = []
    at = first_s + rng.expovariate(1 / mean_gap_s)
    while at < last_s:
        kind = rng.choices(kinds, weights)[0]
        found.append(Fault(len(found), at, kind, _KINDS[kind][1](rng, hosts)))
        at += rng.expovariate(1 / mean_gap_s)
    return found


def exact(rng: random.Random, hosts: Hosts, last_s: float, kinds: Sequence[str], number: int) -> list[Fault]:
    """Those of ``kinds`` that are exact, each with time to do what it does; numbered from ``number`` on."""
    found: list[Fault] = []
    at = rng.uniform(*EXACT_FIRST_S)
    while at < last_s and kinds:
        kind = rng.choice(kinds)
        found.append(Fault(number + len(found), at, kind, _EXACT[kind](rng, hosts)))
        at += rng.uniform(*EXACT_GAP_S)
    return found
