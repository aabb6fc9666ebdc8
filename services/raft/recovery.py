"""A replica whose log was lost, until it holds again what it may have acknowledged (R4.5).

Guarantee: while ``recovering`` it neither votes, campaigns nor counts.  It cannot know which entries it stood for: a vote of
its could elect a leader that lacks one of them, and an acknowledgement given before the loss is worth nothing after it.

Its answers say ``recovering``; the leader takes note of where its own log ends then, tells it in every AppendEntries, and does not
count it.  What the replica had acknowledged was in this leader's log by then, or was never committed.
"""

from __future__ import annotations


class Recovery:
    __slots__ = ("holds_again", "recovering")

    def __init__(self, recovering: bool) -> None:
        self.recovering = recovering
        self.holds_again = False  # all that was lost is back: the caller makes that durable, then calls ``end``

    def on_verified(self, until_index: int, held_index: int) -> None:
        """The log is the leader's up to ``held_index``, durably; ``until_index`` is what it has to reach, 0 if the leader does
        not know yet."""
        if self.recovering and until_index and held_index >= until_index:
            self.holds_again = True

    def end(self) -> None:
        """PERSIST BEFORE VOTE: that it holds everything again is durable; otherwise a restart would take it for one that lost its log, or,
        worse, for one that did not while entries are missing."""
        self.recovering = self.holds_again = False

    def validate(self) -> None:
        assert self.recovering or not self.holds_again
