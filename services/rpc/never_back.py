"""Whether an answer of a nameserver may be taken by who has taken newer ones.  Pure.

Guarantee: what is taken is never older than what was taken before, whichever nameserver gave it, as long as anybody has something as new:
an older answer is refused for ``REFUSED_MAX_S``, in which others are asked.  Where in all that time nobody had anything as new
(ZooKeeper was given an older copy of its data, or the only nameserver that knew more is gone) the newest that there is is taken:
nobody waits for ever.

A revision is (epoch of the nameservers' leadership, ZooKeeper's last transaction in the view).  The epoch comes first because recovered
metadata goes on above every epoch that was ever seen, while the transactions of an older copy may be counted anew.
"""

from __future__ import annotations

from stele.services.pb import nameserver_pb2

REFUSED_MAX_S = 3.0  # less than a look-up may take: it then ends with an answer

Revision = tuple[int, int]


def revision_of(as_of: nameserver_pb2.Revision) -> Revision:
    return as_of.epoch, as_of.zxid


class NeverBack:
    """``if never_back.takes(revision, now_s): …``; otherwise ask another nameserver, or wait for a newer answer."""

    def __init__(self) -> None:
        self.taken: Revision = (0, 0)
        self.went_back_from: Revision | None = None  # by the last answer that was taken
        self._refused_since_s: float | None = None
        self._newest_refused: Revision = (0, 0)

    def takes(self, revision: Revision, now_s: float) -> bool:
        self.went_back_from = None
        if revision < self.taken:
            if self._refused_since_s is None:
                self._refused_since_s, self._newest_refused = now_s, revision
            self._newest_refused = max(self._newest_refused, revision)
            refused_s = now_s - self._refused_since_s
            # The newest of those refused may be of somebody who is gone as well: it is not waited for any longer than what was taken.
            if refused_s < REFUSED_MAX_S or (revision < self._newest_refused and refused_s < 2 * REFUSED_MAX_S):
                return False
            self.went_back_from = self.taken
        self.taken, self._refused_since_s = revision, None
        return True
