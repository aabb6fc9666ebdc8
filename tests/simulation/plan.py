"""What goes wrong in a run: a list made from the seed before the run begins, so that it can be printed, shortened and replayed.

Each run draws which kinds of fault it has and how dense they are (swarm testing): runs that do everything at once find less than
runs that do a few things often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

LEADER: Final = 0  # in place of a store: whoever leads when the fault strikes


@dataclass(frozen=True, slots=True)
class Fault:
    """``number`` is its place in the plan of its seed; ``values`` are what its kind needs."""

    number: int
    at: float
    kind: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in self.values)
        return f"#{self.number} at {self.at:.3f} s: {self.kind} ({shown})"


_Draw = Callable[[random.Random, list[int]], tuple[float, ...]]


def _any(rng: random.Random, ids: list[int]) -> int:
    return LEADER if rng.random() < 0.4 else rng.choice(ids)


def _effects(rng: random.Random) -> int:
    return 0 if rng.random() < 0.3 else rng.randint(1, 40)


def _short_or_long(rng: random.Random, longest_s: float) -> float:
    return rng.uniform(0.01, longest_s * 0.15) if rng.random() < 0.5 else rng.uniform(0.1, longest_s)


_KINDS: dict[str, tuple[float, _Draw]] = {
    "kill": (3, lambda r, ids: (_any(r, ids), _effects(r), r.uniform(0.02, 1.5))),
    "power-loss": (3, lambda r, ids: (_any(r, ids), _effects(r), r.uniform(0.02, 1.5))),
    "power-loss in disk operation": (3, lambda r, ids: (_any(r, ids), r.randint(0, 12), r.uniform(0.02, 1.5))),
    "kill in disk operation": (1, lambda r, ids: (_any(r, ids), r.randint(0, 12), r.uniform(0.02, 1.5))),
    "pause": (3, lambda r, ids: (_any(r, ids), _short_or_long(r, 4.0))),
    "lost log": (1, lambda r, ids: (_any(r, ids), r.uniform(0.02, 1.5))),
    "lost tail": (1, lambda r, ids: (_any(r, ids), r.uniform(0.0, 1.0), r.uniform(0.02, 1.5))),
    "unguarded word": (1, lambda r, ids: (r.randrange(8), r.uniform(0.3, 1.5), r.randint(1, 60))),
    "clock drift": (1, lambda r, ids: (_any(r, ids), r.uniform(0.85, 1.15))),
    "clock jump": (1, lambda r, ids: (_any(r, ids), r.uniform(0.1, 4.0))),
    "disconnect": (3, lambda r, ids: (*r.sample(ids, 2), _short_or_long(r, 3.0))),
    "isolate": (3, lambda r, ids: (_any(r, ids), _short_or_long(r, 4.0))),
    "split": (2, lambda r, ids: (r.randint(1, (1 << len(ids)) - 2), _short_or_long(r, 4.0))),
    "one-way cut": (2, lambda r, ids: (*r.sample(ids, 2), _short_or_long(r, 3.0))),
    "slow link": (2, lambda r, ids: (*r.sample(ids, 2), 10 ** r.uniform(1, 3.3), r.uniform(0.2, 4.0))),
    "duplicate": (1, lambda r, ids: (r.uniform(0.05, 0.5), r.uniform(0.2, 4.0))),
    "disk full": (1, lambda r, ids: (_any(r, ids), r.randint(0, 4000), r.uniform(0.1, 2.0))),
    "disk error": (1, lambda r, ids: (_any(r, ids), r.randint(0, 2), r.randint(0, 5), r.uniform(0.1, 2.0))),
    "slow disk": (2, lambda r, ids: (_any(r, ids), 10 ** r.uniform(0.5, 2.5), r.uniform(0.2, 3.0))),
    "snapshot": (3, lambda r, ids: (_any(r, ids),)),
    "trim": (2, lambda r, ids: (r.random(),)),
    "compact": (3, lambda r, ids: (_any(r, ids),)),
    "broken transfers": (1, lambda r, ids: (r.uniform(0.05, 0.6), r.uniform(0.2, 4.0))),
    "add member": (3, lambda r, ids: (r.choice(ids),)),
    "add learner": (1, lambda r, ids: (r.choice(ids),)),
    "remove member": (2, lambda r, ids: (r.choice(ids),)),
    "comeback": (1, lambda r, ids: (r.randrange(8), r.uniform(1.2, 2.5), r.uniform(2.0, 4.0))),
    "changes in split": (2, lambda r, ids: (*r.sample(ids, 2), r.randint(1, (1 << len(ids)) - 2), r.uniform(0.5, 4.0))),
    "contested election": (1, lambda r, ids: (r.uniform(0.3, 0.9), r.uniform(0.5, 2.0))),
    "idle": (1, lambda r, ids: (r.uniform(0.5, 4.0),)),
    "leadership transfer": (2, lambda r, ids: ()),
    "closed gate": (1, lambda r, ids: (_any(r, ids), r.uniform(0.1, 3.0))),
}
CLOSED: Final = "closed in order"
"""Drawn by a stream of its own: what else a seed's run has is what it had before there was this kind."""
CLOSED_SHARE: Final = 0.2  # of the runs
CLOSED_FIRST: Final = 1000  # number of the first one in a plan
KINDS: Final = (*_KINDS, CLOSED)
SNAPSHOTS: Final = ("snapshot", "trim", "compact", "broken transfers")
MEMBERS: Final = ("add member", "add learner", "remove member", "changes in split")


def choose_kinds(rng: random.Random) -> list[str]:
    """The kinds of fault of a run.  Those that make sense together come together."""
    chosen = [kind for kind in _KINDS if kind not in SNAPSHOTS + MEMBERS and rng.random() < 0.35]
    if rng.random() < 0.5:
        chosen += SNAPSHOTS
    if rng.random() < 0.4:
        chosen += MEMBERS
    return chosen or [rng.choice(tuple(_KINDS))]


def plan(rng: random.Random, ids: list[int], seconds: float, kinds: Sequence[str]) -> list[Fault]:
    """The faults of a run, of ``kinds``, but for CLOSED."""
    kinds = [kind for kind in kinds if kind != CLOSED]
    if not kinds:
        return []
    weights = [_KINDS[kind][0] for kind in kinds]
    mean_gap_s = 10 ** rng.uniform(-1.2, 0.0)
    found: list[Fault] = []
    at = rng.uniform(0.2, 2.5)  # some runs get a leader before anything goes wrong
    while at < seconds:
        kind = rng.choices(kinds, weights)[0]
        found.append(Fault(len(found), at, kind, _KINDS[kind][1](rng, ids)))
        at += rng.expovariate(1 / mean_gap_s)
    return found


def plan_closed(rng: random.Random, ids: list[int], seconds: float) -> list[Fault]:
    found: list[Fault] = []
    at = rng.uniform(0.3, 2.5)
    while at < seconds:
        values = (_any(rng, ids), rng.random() < 0.3, rng.uniform(0.02, 1.5))
        found.append(Fault(CLOSED_FIRST + len(found), at, CLOSED, values))
        at += rng.expovariate(1 / 1.5)
    return found
