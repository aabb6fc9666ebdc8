"""Raft's times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """A follower campaigns after ``election_min_s..election_max_s`` without its leader; a leader without a majority for
    ``election_max_s`` steps down."""

    heartbeat_s: float = 0.15
    election_min_s: float = 1.0
    election_max_s: float = 2.0
    notice_s: float = 0.01  # how late followers may learn of a commit when nothing else is sent to them
    refused_min_s: float = 0.02  # a leader's process is known to be gone: campaign after this much, at random
    refused_max_s: float = 0.12
    retry_min_s: float = 0.2  # a candidate that got no majority (a split vote) tries again after this much, at random
    retry_max_s: float = 0.4
    idle_s: float = 1.0  # a group to which nothing has happened for this long falls asleep
    handover_s: float = 0.4  # a successor that has not caught up, or then not taken over, for this long is given up
