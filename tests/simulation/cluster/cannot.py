"""Mutants that neither proof plays, each with the reason, and with where it is shown instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class _Because:
    reason: str
    mutants: tuple[str, ...]


_REASONS = (
    _Because(
        "One replicated group shows it, each order of events by hand: tests/unit/raft.",
        (
            "elections.OvertakesItsVotes",
            "elections.TakesOnWhileItHandsOver",
            "elections.AsksBeforeItHoldsAll",
            "elections.DoesNotListen",
            "elections.DeafToSilence",
            "elections.EndsWithoutAwake",
            "replication.LeavesProposalsUnanswered",
            "replication.GoesBackByOne",
            "replication.FallsSilentOnceItOffers",
            "replication.KeepsToWhatWasAcknowledged",
            "replication.CountsWhatWasLost",
            "replication.BelievesLateRefusals",
            "replication.WaitsForEverForAFetch",
        ),
    ),
    _Because(
        "About what one log leaves on one disk, whatever the order of events between processes: tests/unit/log, `make crash`, "
        "`make power-loss`.",
        (
            "log.ForgetsToSyncFiles",
            "log.ForgetsToSyncFolders",
            "log.DamageIsNoVote",
            "log.WritesInPlace",
            "log.LeavesEntries",
            "log.LeavesATransfer",
            "log.CutsWithoutAWord",
            "log.RemovesBeforeNaming",
            "log.TruncatesOldestFirst",
            "snapshots.NamesBeforeSyncing",
            "snapshots.drops_before_the_snapshot",
            "snapshots.resets_before_installing",
            "snapshots.AcceptsACutSnapshot",
            "snapshots.resets_for_its_own",
            "snapshots.SnapshotsBeforeTheSync",
            "snapshots.starts_without_its_beginning",
        ),
    ),
    _Because(
        "No fault changes bytes that were synced. Shown on real files: tests/unit/log, tests/unit/datanode, tests/integration/datanode.",
        (
            "log.CutsAtDamage",
            "log.MendsWithAnything",
            "partition.BelievesDamagedHeaders",
            "reader.TakesDamageForNothing",
            "groups.GivesWhatIsNotCommitted",
            "gate.StopsAtDamage",
            "gate.DeletesDamage",
            "store.KeepsTheQuarantined",
            "store.BeginsOverWhatItSetAside",
            "store.StopsAtWhatCannotBeMoved",
        ),
    ),
    _Because(
        "About how much, how often or how many at once: a run of some seconds fills no such bound.",
        (
            "replication.TakesAnyLength",
            "replication.ReleasesWhatIsNotStored",
            "resolver.NeverBacksOff",
            "resolver.BacksOffWithoutCap",
            "resolver.BacksOffWithoutJitter",
            "resolver.RestartsTheBackoff",
            "resolver.LogsEveryAttempt",
            "resolver.NeverLogs",
            "gate.LoadsAllAtOnce",
            "gate.LoadsOneByOne",
            "redelivery.RedeliversAtOnce",
            "appends.RefusesTheWholeAppend",
            "appends.BelievesThatItLeads",
        ),
    ),
    _Because(
        "A removed store that is asked for once more, or let in, costs calls and lines of a log, and no answer is another one: "
        "tests/unit/services/test_r2_resolver_policy.py, tests/integration/raft/test_transport_links.py.",
        (
            "resolver.ForgetsTombstones",
            "resolver.RetriesTombstones",
            "links.DialsTheRemoved",
            "links.TakesBackTheRemoved",
        ),
    ),
    _Because(
        "No simulated datanode changes its address: tests/unit/services/test_r2_resolver_policy.py.",
        ("resolver.KeepsTheAddress", "resolver.AsksWithoutPause"),
    ),
    _Because(
        "No simulated peer lies: tests/unit/raft/test_door.py.",
        ("replication.TakesWhateverComes",),
    ),
    _Because(
        "What a user hands over, or what a run is too short for: tests/unit/stele, tests/unit/datanode.",
        (
            "batches.takes_by_reference",
            "batches.looks_at_the_header_alone",
            "retention.AgesByTheWallClock",
            "retention.CountsTheDowntime",
            "retention.BelievesEveryTime",
            "groups.EmptiesItsTrash",
            "moves.TakesSilenceForLoss",
        ),
    ),
    _Because(
        "A name is missing only until a process has registered once, and who loses a race to create it loses to a process that lives: "
        "the outcome is the same. tests/integration/coordination/test_names.py.",
        ("names.AbsentIsDifferent", "names.LostRaceIsAnError"),
    ),
    _Because(
        "Its session has to end, and another one to lead, between two answers to one who is about to lead: "
        "tests/integration/coordination/test_election.py.",
        ("ownership.LeadsByWhatItDecidedBefore",),
    ),
    _Because(
        "Nobody in the product calls it: tests/integration/coordination/test_metadata.py.",
        ("members.PutDropsItsOptions", "members.RetryDropsItsOptions"),
    ),
    _Because(
        "A wait inside a callback would stop the simulator, whose threads are events: tests/integration/coordination.",
        ("members.WorksInCallbacks",),
    ),
    _Because(
        "The store's own lock for each group stands before the registry's gate, and the directory's lock behind it: one alone switched "
        "off changes nothing. Shown on the registry by itself: tests/unit/raft/test_registry.py.",
        ("groups.Ungated", "groups.UnregistersByName", "groups.PidFile"),
    ),
    _Because(
        "The port of a datanode that loads is closed (R4.1), so nobody asks it: tests/integration/datanode.",
        ("gate.AnswersWhileLoading",),
    ),
    _Because(
        "At-least-once allows a message that comes again, and a count that begins anew: tests/unit/broker/test_subscription.py.",
        ("redelivery.TimesWhatWaits", "redelivery.CountsInMemory"),
    ),
    _Because(
        "Behind what never takes an older word (services/rpc/never_back.py) nobody lags any more who could be believed: "
        "tests/unit/stele/test_routing.py, tests/unit/broker/test_ownership.py.",
        ("incarnations.BelievesWhoeverLags", "ownership.BelievesWhoeverSpeaks"),
    ),
    _Because(
        "What it forgets is found again at its next start, and deleted then: tests/unit/datanode/test_store.py.",
        ("store.ForgetsWhatItCannotDelete",),
    ),
    _Because(
        "No operator of the simulator removes an orphan: tests/integration/nameserver.",
        ("catalog.TrustsTheMirror",),
    ),
    _Because(
        "No operator of the simulator drains a broker or splits a bundle: tests/unit/nameserver/test_bundle_assignment.py.",
        ("ownership.drains_the_process", "ownership.splits_under_the_old_epoch"),
    ),
    _Because(
        "The node that a create meets is another's only while that one holds the name, and whoever lacks the name creates nothing: "
        "tests/integration/coordination/test_members.py.",
        ("members.TrustsTheWrite",),
    ),
    _Because(
        "No fault puts another folder in the place of one that is in use: tests/unit/datanode/test_store.py, test_storage.py.",
        ("store.BelievesAnyFolder", "groups.LooksAtNoPath"),
    ),
    _Because(
        "Every store of a run is known to every nameserver before it is given a replica, so that none is ever looked for in vain: "
        "tests/unit/services/test_r2_resolver_policy.py, tests/unit/nameserver/test_view.py.",
        (
            "resolver.MatchesText",
            "resolver.NotFoundIsTombstone",
            "catalog.UnknownIsTombstone",
            "catalog.TombstoneIsUnknown",
        ),
    ),
    _Because(
        "It is made of what a run does not hand to the part that it stands in for: tests/integration/nameserver, "
        "tests/unit/nameserver/test_reconcile.py.",
        ("catalog.IdsFromTheLiving", "catalog.counts_the_loading_as_ready"),
    ),
    _Because(
        "ZooKeeper is asked once more before anything is deleted: tests/unit/nameserver/test_moves.py.",
        ("moves.deletes_what_is_not_named",),
    ),
    _Because(
        "Whichever voter leads a partition is as good as another; that leaders come to rest is seen of the product alone (quiet.py): "
        "tests/unit/nameserver/test_leader_balance.py.",
        ("leaders.evens_out_any_difference", "leaders.WaitsNoLonger"),
    ),
    _Because(
        "The few partitions of a run are hardly ever uneven: tests/unit/nameserver/test_replica_balance.py.",
        ("moves.evens_out_any_difference", "moves.moves_what_is_not_in_order"),
    ),
    _Because(
        "A leader refuses a change after which too few would answer: tests/unit/nameserver/test_resizing.py, tests/unit/raft.",
        ("resizing.keeps_the_first",),
    ),
    _Because(
        "No run gives a topic more partitions yet: tests/unit/nameserver/test_growth.py, tests/integration/stele/test_added_partitions.py.",
        ("growth.shows_at_once", "growth.begins_the_shown_anew", "growth.BeginsAsItWasTold"),
    ),
    _Because(
        "Disks here lose whole folders, not the ends of logs: tests/unit/raft/test_lost_tail.py, `lost tail` of `make sim`.",
        ("gate.WaitsForTheStuck",),
    ),
    _Because(
        "The simulated connection to ZooKeeper stands in the place of the one that pings: tests/integration/coordination/test_stalls.py.",
        ("members.PingsWhateverTheLoopDoes",),
    ),
    _Because(
        "A broker that stands still while its bundle goes to another one and comes back, and is asked before it hears of that: once in "
        "5,000 runs (seed 4706).  tests/integration/broker/test_incarnations.py.",
        ("incarnations.GoesOnUnderItsOldEpoch",),
    ),
    _Because(
        "A nameserver that hears of a topic's partitions, and of the topic's deletion and creation later, while no other one answers: "
        "once in 2,000 runs (seed 612).  tests/unit/nameserver/test_view.py.",
        ("catalog.GoesByName",),
    ),
    _Because(
        "When a cursor is set anew its consumers are closed at the broker, and whoever comes back has dropped what it held: "
        "tests/unit/broker/test_subscription.py.",
        ("incarnations.TakesAcksOfAnyGeneration",),
    ),
    _Because(
        "No sync succeeds where a folder has vanished (datanode/in_place.py), so whoever writes notices it, and at the end of a run every "
        "process whose folder was lost starts anew: tests/unit/raft/test_registry.py.",
        ("groups.NeverLooks",),
    ),
    _Because(
        "No nameserver listens to a store that loads (nameserver/storewatch.py), so nothing is concluded from what it lacks: "
        "tests/unit/nameserver/test_reconcile.py.",
        ("catalog.gives_to_the_loading",),
    ),
    _Because(
        "A topic waits for three stores that serve, of at most five, and one of these at least has replicas of the topic before it; no "
        "new store registers while others load: tests/integration/nameserver/test_older_copy.py.",
        ("catalog.HearsOnlyWhoServes",),
    ),
    _Because(
        "While no id is given out twice (`catalog.BelievesTheOlderCopy`), nothing has the number of another topic's group: "
        "tests/unit/nameserver/test_strays.py, tests/integration/datanode/test_replicas.py.",
        ("catalog.counts_strangers", "catalog.SetsApartOnce", "groups.ObeysForAnyTopic"),
    ),
    _Because(
        "Nearly everything that is planned is done at once, and whatever else changes of a topic or a store has it planned for again: "
        "tests/unit/nameserver/test_plan_scope.py.",
        ("catalog.PlansOnce",),
    ),
    _Because(
        "Clients and brokers repeat in order all that is not answered, so what follows a repetition goes on where that ends and no gap is "
        "told: tests/unit/datanode/test_foresight.py.",
        ("appends.ForeseesFromWhatItDidNotAsk",),
    ),
    _Because(
        "Nobody asks whether a process can be stopped in a simulated cluster: tests/unit/nameserver/test_stop_safety.py.",
        (
            "stops.takes_registered_for_well",
            "stops.counts_what_is_registered",
            "stops.waits_for_nobody",
            "stops.counts_drained_brokers",
            "stops.counts_who_answers",
        ),
    ),
    _Because(
        "Every simulated process is of one version: tests/unit/nameserver/test_finalization.py, tests/unit/coordination/test_records.py, "
        "tests/integration/nameserver/test_upgrade.py.",
        (
            "formats.counts_the_registered_alone",
            "formats.goes_by_the_newest",
            "formats.WritesWhatItKnows",
            "formats.JoinsUnasked",
            "formats.forgets_the_unknown",
        ),
    ),
    _Because(
        "The simulated ZooKeeper asks nobody who comes: tests/integration/coordination/test_access.py, on a real one.",
        ("access.TrustsAnyServer", "access.LeavesItToAll"),
    ),
    _Because(
        "No simulated server answers a four-letter word, or takes a connection and then stands still: "
        "tests/integration/coordination/test_lost_data.py, test_session.py, on a real one.",
        ("zookeepers.TakesOneForAll", "zookeepers.WaitsForTheSilent"),
    ),
)

CANNOT: Mapping[str, str] = MappingProxyType({name: b.reason for b in _REASONS for name in b.mutants})
"""By mutant."""


def grouped() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Reasons, each with its mutants."""
    for because in _REASONS:
        yield because.reason, because.mutants
