"""The three states of a replica."""

from __future__ import annotations

from enum import Enum


class RaftState(Enum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
