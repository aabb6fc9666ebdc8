"""What a broker believes to own, from routing facts that may be old."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.broker.ownership import Ownership, PartitionRoute, RoutingTable
from stele.services.pb import nameserver_pb2
from tests.support.both_ways import holds_and_mutant_fails, promise


def routing(*assignments: tuple[str, str, int]) -> nameserver_pb2.Routing:
    made = nameserver_pb2.Routing()
    for bundle, broker, epoch in assignments:
        made.bundles.add(bundle=bundle, broker=broker, epoch=epoch)
    return made


def test_owns_what_it_is_assigned() -> None:
    own = Ownership("br1")
    assert own.observe(routing(("ns/a", "br1", 1), ("ns/b", "br2", 1))) == {"ns/a"}
    assert own.epoch("ns/a") == 1
    assert own.epoch("ns/b") is None
    assert own.is_known("ns/b")
    assert not own.is_known("ns/c")
    assert own.owned == {"ns/a": 1}


def test_loses_what_goes_to_another_and_keeps_what_is_not_mentioned() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br1", 1), ("ns/b", "br1", 1)))
    assert own.observe(routing(("ns/a", "br2", 2))) == {"ns/a"}
    assert own.owned == {"ns/b": 1}
    assert own.observe(routing(("ns/a", "", 3))) == set()  # nobody's: never was ours since


def test_an_older_word_brings_nothing_back() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br2", 2)))
    assert own.observe(routing(("ns/a", "br1", 1))) == set()
    assert own.epoch("ns/a") is None


def test_a_nameserver_that_misses_this_broker_for_a_moment_takes_nothing() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br1", 4)))
    assert own.observe(routing(("ns/a", "", 4))) == set()
    assert own.epoch("ns/a") == 4


def test_a_nameserver_that_knows_an_assignment_before_its_broker_keeps_nobody_from_owning() -> None:
    own = Ownership("br1")
    assert own.observe(routing(("ns/a", "", 8))) == set()
    assert own.observe(routing(("ns/a", "br1", 8))) == {"ns/a"}
    assert own.epoch("ns/a") == 8
    assert own.observe(routing(("ns/a", "", 9))) == {"ns/a"}  # it goes to somebody
    assert own.observe(routing(("ns/a", "br1", 8))) == set()
    assert own.owned == {}
    assert own.observe(routing(("ns/a", "br1", 9))) == {"ns/a"}


def test_renewed_under_a_higher_epoch() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br1", 1)))
    assert own.observe(routing(("ns/a", "br1", 2))) == {"ns/a"}
    assert own.epoch("ns/a") == 2


def test_void_until_assigned_under_a_higher_epoch() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br1", 3), ("ns/b", "br2", 3)))
    assert own.void() == {"ns/a"}
    assert own.void() == set()
    own.observe(routing(("ns/a", "br1", 3)))
    assert own.epoch("ns/a") is None
    own.observe(routing(("ns/a", "br1", 4)))
    assert own.epoch("ns/a") == 4


def test_fenced_ends_ownership_until_the_assignment_of_that_epoch() -> None:
    own = Ownership("br1")
    own.observe(routing(("ns/a", "br1", 3)))
    assert not own.fenced("ns/a", 3)
    assert not own.fenced("ns/unknown", 9)
    assert own.fenced("ns/a", 7)
    assert not own.fenced("ns/a", 8)
    own.observe(routing(("ns/a", "br1", 6)))
    assert own.epoch("ns/a") is None
    assert own.observe(routing(("ns/a", "br1", 8))) == {"ns/a"}
    assert own.epoch("ns/a") == 8


@given(st.permutations([("ns/a", f"br{e % 3}", e) for e in range(1, 8)]))
def test_whatever_the_order_of_the_words_the_highest_epoch_counts(words: list[tuple[str, str, int]]) -> None:
    own = Ownership("br1")
    highest = 0
    for word in words:
        own.observe(routing(word))
        own.validate()
        highest = max(highest, word[2])
        assert own.epoch("ns/a") == (highest if highest % 3 == 1 else None)


def topics(
    *partitions: tuple[str, int, int], state: str = "ready", stores: dict[int, str] | None = None
) -> nameserver_pb2.Routing:
    made = nameserver_pb2.Routing()
    for topic, partition, group in partitions:
        t = next((t for t in made.topics if t.topic.topic == topic), None) or made.topics.add()
        t.topic.topic, t.topic.state = topic, state
        t.topic.partitions = max(t.topic.partitions, partition + 1)
        route = t.partitions.add(partition=partition, group=group, bundle="ns/a", leader_store_id=2)
        route.replicas.add(store_id=1)
        route.replicas.add(store_id=2)
    for store_id, endpoint in (stores or {}).items():
        made.datanodes.add(store_id=store_id).address.endpoint = endpoint
    return made


def test_routes() -> None:
    routes = RoutingTable()
    assert not routes.seen
    assert routes.observe(topics(("ns/t", 0, 10), ("ns/t", 1, 11), stores={1: "a:1"}), 0) == set()
    assert routes.get("ns/t", 1) == PartitionRoute("ns/t", 1, 11, (1, 2), 2, "ns/a", 0)
    assert [r.group for r in routes.of_topic("ns/t")] == [10, 11]
    assert routes.partitions == {"ns/t": 2}
    assert routes.endpoints == {1: "a:1"}
    routes.observe(topics(stores={2: "b:1"}), 1)
    assert routes.endpoints == {1: "a:1", 2: "b:1"}, "a store keeps its last address"


def test_a_topic_that_is_missing_is_kept_for_a_while() -> None:
    routes = RoutingTable(absent_grace_s=3)
    routes.observe(topics(("ns/t", 0, 10)), 0)
    assert routes.observe(topics(), 1) == set()
    assert routes.observe(topics(("ns/t", 0, 10)), 2) == set()
    assert routes.observe(topics(), 10) == set()
    assert routes.observe(topics(), 13) == {("ns/t", 0)}
    assert routes.get("ns/t", 0) is None
    assert routes.partitions == {}


def test_a_deleted_topic_goes_at_once() -> None:
    routes = RoutingTable()
    routes.observe(topics(("ns/t", 0, 10)), 0)
    assert routes.observe(topics(("ns/t", 0, 10), state="deleting"), 0) == {("ns/t", 0)}


def test_a_recreated_topic_has_another_group() -> None:
    routes = RoutingTable()
    routes.observe(topics(("ns/t", 0, 10)), 0)
    assert routes.observe(topics(("ns/t", 0, 20)), 0) == {("ns/t", 0)}
    assert routes.get("ns/t", 0) is not None


def listing(*topics: str, age_ms: int = 0) -> nameserver_pb2.Routing:
    made = nameserver_pb2.Routing(age_ms=age_ms)
    for number, topic in enumerate(topics, 1):
        listed = made.topics.add(topic=nameserver_pb2.TopicInfo(topic=topic, id=number, partitions=1, state="ready"))
        listed.partitions.add(partition=0, group=number, bundle="a/0")
    return made


async def test_p4_what_a_nameserver_that_is_out_of_touch_does_not_list_is_not_deleted() -> None:
    async def scenario(kind: type[RoutingTable]) -> None:
        routes = kind()
        routes.observe(listing("a/old", "a/new"), 0.0)
        with promise("nothing is deleted on the word of one who cannot know"):
            for now_s in range(1, 60):
                assert routes.observe(listing("a/old", age_ms=now_s * 1000), float(now_s)) == set()
        assert routes.observe(listing("a/old"), 61.0) == set(), "only now the time begins"
        assert routes.observe(listing("a/old"), 64.0) == {("a/new", 0)}

    await holds_and_mutant_fails(scenario, RoutingTable, "ownership.BelievesWhoeverSpeaks")
