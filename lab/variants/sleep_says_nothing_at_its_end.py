"""Wrong on purpose: a sleeping leader's replica ends, or is deposed, without a word to those who sleep under it."""

from stele.services.raft.engine import Engine


class SaysNothingAtItsEnd(Engine):
    def _say_awake(self) -> None:
        self.asleep = False
