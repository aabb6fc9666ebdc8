"""Wrong on purpose: a follower that sleeps on although its leader's node has fallen silent."""

from stele.services.raft.engine import Engine


class DeafToSilence(Engine):
    def peer_silent(self, store_id: int) -> None:
        return None
