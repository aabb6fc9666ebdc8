"""Which partitions another replica is to lead, so that no store leads more than its share.  Pure: the time comes with each look.

Guarantee: the lead goes only to a voter that follows, on a store that is up, ready, heard and has room, and only from a store that leads at
least two more than the one that gains by it: what is even stays as it is.  Nothing is transferred while more than one store is not heard.
A partition that was transferred has to be led twice as long as before until it is transferred again: no trouble makes it go to and fro.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Mapping
from dataclasses import dataclass

from stele.nameserver.absence import is_cold
from stele.nameserver.catalog import Catalog, TopicState
from stele.nameserver.effects import TransferLeadership
from stele.nameserver.reconcile import led_by, successors
from stele.nameserver.reports import LeaderReport, Reports, is_heard

DOUBLINGS_MAX = 6


@dataclass(frozen=True, slots=True)
class LeaderBalanceLimits:
    """``after_s``: how long a partition was led by one replica, and a store was heard, before it takes part; 0: nothing is evened out."""

    after_s: float = 10.0
    transfers_max: int = 8


class Steadiness:
    """Since when each partition is led as it is, and each store heard, as one leading nameserver sees it.  One per term of office."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._leaders: Mapping[int, LeaderReport] | None = None  # as they were at the last look
        self._led_since: dict[
            int, tuple[tuple[int, int], float]
        ] = {}  # group → (its leader's store, the term), since when
        self._heard_since: dict[int, tuple[int, float]] = {}  # store → which registration of it, since when
        self._doublings: dict[int, int] = {}  # group → how often what it has to wait for was doubled

    def look(
        self, catalog: Catalog, reports: Reports, leaders: Mapping[int, LeaderReport], now_s: float
    ) -> tuple[frozenset[int], frozenset[int]]:
        """The groups and the stores that have been steady for long enough.  Called while ZooKeeper is in step."""
        led = self._led_since
        if leaders is not self._leaders:  # or each is led as it was
            led, self._leaders = {}, leaders
            for group, leader in leaders.items():
                key = (leader.store_id, leader.term)
                known = self._led_since.get(group)
                led[group] = known if known is not None and known[0] == key else (key, now_s)
        heard: dict[int, tuple[int, float]] = {}
        for store_id, member in catalog.live_stores.items():
            if is_heard(reports, store_id):
                seen = self._heard_since.get(store_id)
                heard[store_id] = (
                    seen if seen is not None and seen[0] == member.joined_zxid else (member.joined_zxid, now_s)
                )
        self._led_since, self._heard_since = led, heard
        for group in list(self._doublings):
            if group not in led or now_s - led[group][1] >= 2 * self._wait_s(group):
                del self._doublings[group]
        return (
            frozenset(g for g, (_, since) in led.items() if now_s - since >= self._wait_s(g)),
            frozenset(s for s, (_, since) in heard.items() if now_s - since >= self._after_s),
        )

    def transferred(self, group: int) -> None:
        """It waits for twice as long from now on, whether the transfer came to anything or not, until it has been steady for a while."""
        self._doublings[group] = min(self._doublings.get(group, 0) + 1, DOUBLINGS_MAX)

    def hold(self, group: int) -> None:
        """An operator has said who is to lead it: it is left alone for as long as it can be."""
        self._doublings[group] = DOUBLINGS_MAX

    def forget(self) -> None:
        """Nothing is known of the time that has passed."""
        self._leaders = None
        self._led_since.clear()
        self._heard_since.clear()

    def _wait_s(self, group: int) -> float:
        return self._after_s * float(1 << self._doublings.get(group, 0))


def even_out(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    groups: Container[int],
    stores: Container[int],
    transfers_max: int,
) -> list[TransferLeadership]:
    """The transfers that may begin now, of ``groups`` and to ``stores`` alone, no more than ``transfers_max``.

    Where none can go from a store that leads many to one that leads few, one goes to a store between them and another from there.
    Whichever of the transfers come to nothing, the others make the counts no more uneven."""
    if is_cold(catalog, reports):
        return []
    led = led_by(leaders)
    takers = [led.get(s, 0) for s in catalog.serving_stores if s in stores]
    if not led or not takers or max(led.values()) < min(takers) + 2:
        return []  # no transfer would make it more even
    of_topic = Counter(
        (k.store_id, p.topic) for g, k in leaders.items() if (p := catalog.partitions.get(g)) is not None
    )
    offers = _offers(catalog, reports, leaders, groups, stores)
    found: list[TransferLeadership] = []
    # What a store gains or gives may come to nothing: whoever gains gives nothing more in the same plan, and whoever gives gains nothing.
    gained: set[int] = set()
    gave: set[int] = set()
    while len(found) < transfers_max and (path := _path(led, offers, gained, gave)):
        for source, to in path:
            gave.add(source)
            gained.add(to)
        # Of a path that is too long its end: each transfer for itself makes the counts no more uneven.
        for source, to in path[len(found) - transfers_max :]:
            group = _chosen(catalog, of_topic, offers[source][to], source, to)
            for others in offers[source].values():
                others.discard(group)
            topic = catalog.topics[catalog.partitions[group].topic]
            of_topic[source, topic.name] -= 1
            of_topic[to, topic.name] += 1
            found.append(TransferLeadership(source, group, topic.topic_id, to, "balance"))
            led[source], led[to] = led.get(source, 0) - 1, led.get(to, 0) + 1
    return found


def _offers(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    groups: Container[int],
    stores: Container[int],
) -> dict[int, dict[int, set[int]]]:
    """By the store that leads and the one that could instead, the groups."""
    offers: dict[int, dict[int, set[int]]] = {}
    for group, leader in leaders.items():
        partition = catalog.partitions.get(group)
        if group not in groups or partition is None or partition.target or not leader.confirmed:
            continue
        topic = catalog.topic_of(partition)
        if topic is None or topic.state != TopicState.READY or not reports[leader.store_id].holds(group):
            continue
        for to in successors(partition, leader.store_id, catalog, reports, {}):
            if to in stores:
                offers.setdefault(leader.store_id, {}).setdefault(to, set()).add(group)
    return offers


def _path(
    led: Mapping[int, int],
    offers: Mapping[int, Mapping[int, set[int]]],
    gained: Container[int],
    gave: Container[int],
) -> list[tuple[int, int]]:
    """From the store that leads the most to the nearest that leads at least two less, over such as lead less and less; else from the next
    one; nothing: all is even."""
    for first in sorted(offers, key=lambda s: (-led.get(s, 0), s)):
        came_from: dict[int, int] = {first: 0}
        looked_at = deque([first])
        while looked_at:
            source = looked_at.popleft()
            if source in gained:
                continue
            able = [
                s
                for s, offered in offers.get(source, {}).items()
                if offered and s not in came_from and s not in gave and led.get(s, 0) < led.get(source, 0)
            ]
            for to in sorted(able, key=lambda s: (led.get(s, 0), s)):
                came_from[to] = source
                if led.get(to, 0) + 2 <= led.get(first, 0):
                    return _steps_to(to, came_from)
                looked_at.append(to)
    return []


def _steps_to(last: int, came_from: Mapping[int, int]) -> list[tuple[int, int]]:
    path: list[tuple[int, int]] = []
    while source := came_from[last]:
        path.insert(0, (source, last))
        last = source
    return path


def _chosen(catalog: Catalog, of_topic: Mapping[tuple[int, str], int], offered: set[int], source: int, to: int) -> int:
    """Of the partitions that could go, one of the topic that ``source`` leads most of beside ``to``: each topic is to be spread."""

    def surplus(group: int) -> int:
        topic = catalog.partitions[group].topic
        return of_topic.get((source, topic), 0) - of_topic.get((to, topic), 0)

    return min(offered, key=lambda group: (-surplus(group), group))
