"""A replica that lost entries which it may have acknowledged, until it holds them again (R4.5).

Guarantee: while ``recovering`` it neither votes, campaigns nor counts.  It cannot know which entries it stood for: a vote of
its could elect a leader that lacks one of them, and an acknowledgement given before the loss is worth nothing after it.

It begins so if its storage says that its log, or the end of it, is gone; or it becomes so by the word of its leader, who remembers what it
acknowledged (services/raft/progress.py).  Its answers say ``recovering``; the leader takes note of where its own log ends then,
tells it in every message, and does not count it.  What the replica had acknowledged was in this leader's log by then, or was never
committed.
"""

from __future__ import annotations


class Recovery:
    __slots__ = ("_held", "holds_again", "recovering", "unmarked")

    def __init__(self, recovering: bool) -> None:
        self.recovering = recovering
        self.unmarked = False  # by its leader's word only: the caller makes that durable
        self.holds_again = False  # all that was lost is back: the caller makes that durable, then calls ``end``
        self._held = (0, 0)  # (term, index): up to here the log is durably that of the term's leader

    def on_told(self, term: int, until_index: int) -> None:
        """The leader of ``term`` misses what this replica acknowledged, and counts it again from ``until_index`` on; 0: it misses nothing.

        Not if the log reaches that far already: the message is older than the end of the recovery."""
        held = self._held[1] if self._held[0] == term else 0
        if until_index > held and not self.recovering:
            self.recovering = self.unmarked = True

    def on_verified(self, term: int, until_index: int, held_index: int) -> None:
        """The log is the leader's up to ``held_index``, durably; ``until_index`` is what it has to reach, 0 if the leader does
        not know yet."""
        self._held = max(self._held, (term, held_index))
        if self.recovering and until_index and held_index >= until_index:
            self.holds_again = True

    def marked(self) -> None:
        """That it recovers is durable."""
        self.unmarked = False

    def end(self) -> None:
        """PERSIST BEFORE VOTE: that it holds everything again is durable; otherwise a restart would take it for one that lost its log, or,
        worse, for one that did not while entries are missing."""
        self.recovering = self.unmarked = self.holds_again = False

    def validate(self) -> None:
        assert self.recovering or not (self.holds_again or self.unmarked)
