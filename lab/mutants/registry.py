"""Which mutant breaks which rule, and what must be seen to break.

The rules are those of docs/reference/failures.md (R1.1 to R5.10) and docs/reference/raft.md (H1 to H18).  Tests, the simulator's
proof and the index of rules read this table; none of them keeps a list of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """One part that is wrong on purpose.  What is wrong about it stands in its docstring."""

    name: str  # of its module in this package, and its own: names.UnknownIsAbsent
    rules: tuple[str, ...]  # that it breaks; none: a promise of docs/design.md that has no number
    breaks: str  # the promise that then no longer holds, in the words of the tests that show it
    instead_of: str = ""  # module:name of what it stands in for, where it is not derived from that
    and_breaks: tuple[str, ...] = ()  # what else, in other tests

    def load(self) -> Any:
        """The class or function itself.  Imported only now: the table can be read without the parts."""
        module, _, own = self.name.partition(".")
        return getattr(importlib.import_module(f"{__package__}.{module}"), own)

    @property
    def promises(self) -> tuple[str, ...]:
        """All that it breaks."""
        return (self.breaks, *self.and_breaks)

    @property
    def replaces(self) -> str:
        """``module:name`` of the part of the product that it stands in for."""
        if self.instead_of:
            return self.instead_of
        product = next(base for base in self.load().__mro__ if not base.__module__.startswith(f"{__package__}."))
        return f"{product.__module__}:{product.__qualname__}"

    @property
    def wrong(self) -> str:
        """What is wrong about it, on purpose, in one sentence."""
        first, _, _ = (self.load().__doc__ or "").partition("\n\n")
        return " ".join(first.split())


def _table(*mutants: Mutant) -> Mapping[str, Mutant]:
    return MappingProxyType({mutant.name: mutant for mutant in mutants})


# fmt: off
MUTANTS = _table(
    # --- the store
    Mutant("store.ForgetsWhatItCannotRead", (), "what a replica holds outlives trouble in reading it"),
    Mutant("store.KeepsTheQuarantined", (), "a deleted group does not come back"),
    Mutant("store.BeginsOverWhatItSetAside", ("R4.5",), "a replica that forgot its vote is not begun anew"),
    Mutant("store.StopsAtWhatCannotBeMoved", ("R4.5",), "one damaged replica costs no other"),
    Mutant("store.BelievesAnyFolder", (), "what stands in the place of a store's folder is taken for nothing"),
    Mutant("groups.LooksAtNoPath", ("R3.8",), "what is synced is where the folder's path leads"),
    Mutant("store.ForgetsWhatItCannotDelete", ("R3.4",), "what could not be deleted is known until it is"),
    Mutant("store.ForgetsWhatItDeleted", ("R3.6",), "a group that was deleted here does not begin anew"),
    Mutant("store.NeverTriesAgain", (), "a replica that failed in passing trouble runs again"),

    # --- names (F1)
    Mutant("controller.EndsWithItsFirstFault", (), "a leader goes on after a round that failed"),
    Mutant("mirror.OverlooksReturns", (), "a path that vanishes and comes back is followed again"),
    Mutant("names.UnknownIsAbsent", ("R1.1",), "a name of which nothing is known is left alone"),
    Mutant("names.AbsentIsDifferent", ("R1.2",), "a process that campaigns already gets a name that nobody holds"),
    Mutant("names.LostRaceIsAnError", ("R1.3",), "a lost race for a name is decided anew"),
    Mutant("names.PresentIsTaken", ("R1.4",), "who holds a name gets it again at the same endpoint"),
    Mutant("names.TakesFromTheLive", ("R1.5",), "a name is never taken from a live process"),
    Mutant("names.TakesOverBlindly", ("R1.6",), "of those that take a dead owner's name over one wins"),
    Mutant("names.NeverTakesOver", ("R1.6",), "of those that take a dead owner's name over one wins"),
    Mutant("names.ChecksThenWrites", ("R1.7",), "of many that race for a name exactly one wins"),
    Mutant("names.CampaignsFirst", ("R1.8",), "whoever is found can be dialled"),
    Mutant("names.TakesItsNameFirst", ("R1.8",), "whoever is found can be dialled"),
    Mutant("names.ShowsItselfNameless", ("R1.8",), "a member has its name"),
    Mutant("names.CampaignsUnseen", ("R1.8",), "a leader is a member"),
    Mutant("names.OwnPastIsAStranger", ("R1.9",), "a restarted process gets its own name back"),

    # --- members (F5)
    Mutant("members.PutDropsItsOptions", ("R5.1",), "what was put as ephemeral is ephemeral"),
    Mutant("members.RetryDropsItsOptions", ("R5.1",), "what was put as ephemeral is ephemeral"),
    Mutant("members.TrustsTheWrite", ("R5.2",), "the member node is of the session that registered"),
    Mutant("members.AdoptsALeftover", ("R5.3",), "a persistent leftover is replaced"),
    Mutant("members.AdoptsThePreviousSession", ("R5.4",), "a restarted process is registered again at once, under its new session"),
    Mutant("members.OwnNodeIsAStranger", ("R5.4", "R1.9"), "a restarted process is registered again at once, under its new session"),
    Mutant("members.OverwritesTheLive", ("R5.5",), "a live process keeps its member node"),
    Mutant("members.AssumesSuccess", ("R5.6",), "a create whose answer was lost is settled by reading"),
    Mutant("members.AssumesFailure", ("R5.6",), "a create whose answer was lost is settled by reading"),
    Mutant("members.RegistersOnce", ("R5.7",), "a live process is registered again when its node is gone"),
    Mutant("members.ComesBackAfterLeaving", ("R5.7",), "who unregistered stays away"),
    Mutant("members.WorksInCallbacks", ("R5.8",), "ZooKeeper's callback thread is never held up"),
    Mutant("members.StormsBack", ("R5.8",), "registrations are put back ever more slowly"),
    Mutant("members.RegistersForGood", ("R5.9",), "a killed process is gone within its session timeout"),

    Mutant("members.CreatesWithoutItsName", (), "who lost its name creates no member node"),
    Mutant("members.BelievesAnyTree", (), "nothing is done in the tree of another cluster"),
    Mutant("members.PingsWhateverTheLoopDoes", (), "a process whose event loop stands still loses its session"),

    # --- ownership and leadership (F5)
    Mutant("ownership.LeadershipWithoutEpoch", (), "a deposed leader's transactions are refused"),
    Mutant("ownership.LeadsByWhatItDecidedBefore", (), "who leads is not overtaken by who decided before"),
    Mutant("ownership.assigns_by_name", ("R5.9",), "no assignment names a broker that is gone",
           "stele.nameserver.bundle_assignment:assign"),
    Mutant("ownership.WritesUnchecked", ("R5.9",), "no assignment names a broker that is gone"),
    Mutant("ownership.keeps_the_epoch", ("R5.10",), "a broker that registered anew owns under a new epoch",
           "stele.nameserver.bundle_assignment:assign"),
    Mutant("ownership.forgets_what_was_seen", ("R5.10",), "a bundle is given above what its partitions have seen",
           "stele.nameserver.bundle_assignment:assign"),
    Mutant("ownership.drains_the_process", (), "a drained broker has no bundle",
           "stele.nameserver.bundle_assignment:assign"),
    Mutant("ownership.splits_under_the_old_epoch", ("R5.10",), "halves of a bundle have an epoch above it",
           "stele.nameserver.bundle_assignment:split"),
    Mutant("ownership.BorrowsEpoch", ("R5.10",), "a paused owner that wakes up gets nothing accepted"),
    Mutant("ownership.IgnoresEpoch", ("R5.10",), "a paused owner that wakes up gets nothing accepted"),

    # --- incarnations: what a name meant before
    Mutant("incarnations.TakesAcksOfAnyGeneration", (), "an acknowledgement from before a seek counts for nothing"),
    Mutant("incarnations.RepeatsAcksAfterASeek", (), "an acknowledgement from before a seek is not sent again"),
    Mutant("incarnations.AcksWhatItOnceHeld", (), "a message from before a seek cannot be acknowledged"),
    Mutant("incarnations.SendsAgainWhatMayBeStored", (), "what a former topic may have stored is not stored again"),
    Mutant(
        "incarnations.GoesOnUnderItsOldEpoch",
        (),
        "an owner that has not heard of its epoch yet does not go on under its old one",
    ),
    Mutant("incarnations.ServesWhoeverHasTheName", (), "what is meant for a former topic does not reach the new one"),
    Mutant("incarnations.BelievesWhoeverLags", (), "a nameserver that lags brings no former topic back"),

    # --- appends and dispatch
    Mutant("appends.RefusesTheWholeAppend", (), "what is stored is not called unstored"),

    Mutant("appends.ForeseesFromWhatItDidNotAsk", (), "what is told before an entry is what the entry would have told"),
    Mutant("appends.BelievesThatItLeads", (), "a gap is told by a replica that leads"),
    Mutant("appends.BelievesThatItLeadsStill", (), "a gap is told by a replica that leads"),
    Mutant("redelivery.RedeliversAtOnce", (), "messages that always fail hold up no others"),
    Mutant("redelivery.TimesWhatWaits", (), "a message that waits at its consumer keeps its place"),
    Mutant("redelivery.CountsInMemory", (), "how often a message failed outlives the broker"),

    Mutant("ownership.BelievesWhoeverSpeaks", (), "nothing is deleted on the word of one who cannot know"),
    Mutant("ownership.TakesWhatIsOlder", (), "what a client is told never goes back"),
    Mutant("ownership.ServesWhatIsBeingCreated", (), "nothing is acknowledged before it is recorded who has replicas"),
    Mutant("ownership.DeniesWhatItHasNotHeardOf", (), "a topic that was made is not denied"),
    Mutant("ownership.takes_what_nobody_can_have", (), "who is registered keeps what nobody else could take",
           "stele.nameserver.bundle_assignment:assign"),
    Mutant("ownership.NeverTooOld", (), "a nameserver that is out of touch does not answer as if it were not"),

    # --- the resolver (F2)
    Mutant("resolver.MatchesText", ("R2.1",), "what an error means does not hang on its text",
           and_breaks=("a store that starts late is reached as soon as it registers",)),
    Mutant("resolver.ForgetsTombstones", ("R2.3",), "a removed store is asked for once"),
    Mutant("resolver.RetriesTombstones", ("R2.3",), "a removed store is asked for once"),
    Mutant("links.DialsTheRemoved", ("R2.3",), "a store that was removed is not dialled again"),
    Mutant("links.TakesBackTheRemoved", ("R2.3",), "a store that was removed is not let in again"),
    Mutant("links.GivesEverybodyRoom", (), "groups that catch up at once do not break their link"),
    Mutant("resolver.NeverBacksOff", ("R2.4",), "retries are paced"),
    Mutant("resolver.BacksOffWithoutCap", ("R2.4",), "the pause between retries is bounded",
           and_breaks=("a store that starts late is reached as soon as it registers",)),
    Mutant("resolver.BacksOffWithoutJitter", ("R2.4",), "retries are spread"),
    Mutant("resolver.RestartsTheBackoff", ("R2.4",), "the pause does not start anew with each caller"),
    Mutant("resolver.LogsEveryAttempt", ("R2.4",), "failed attempts are logged at most once a minute"),
    Mutant("resolver.NeverLogs", ("R2.4",), "the first failed attempt is logged"),
    Mutant("resolver.NotFoundIsTombstone", ("R2.4",), "a store that starts late is reached as soon as it registers"),
    Mutant("resolver.KeepsTheAddress", ("R2.5",), "an address that is another store's is resolved again"),
    Mutant("resolver.AsksWithoutPause", ("R2.5",), "complaints about an address do not make a storm"),

    # --- the nameserver's catalog (F2, F3, F4)
    Mutant("catalog.UnknownIsTombstone", ("R2.1", "R2.2"), "a store that was never seen is unknown, not removed"),
    Mutant("catalog.TombstoneIsUnknown", ("R2.1", "R2.2"), "a removed store is known to be removed"),
    Mutant("catalog.IdsFromTheLiving", ("R2.2",), "a removed store's id is never given out again",
           "stele.nameserver.stores:take_next"),
    Mutant("catalog.HearsOnlyWhoServes", ("R2.2",), "an older copy of the records gives nothing out while stores load"),
    Mutant("catalog.WelcomesTheRemoved", ("R2.6",), "a removed store is refused registration"),
    Mutant("catalog.GoesByName", (), "what is sent to a topic is not stored in another one of its name"),
    Mutant("catalog.ReusesGroups", ("R3.6",), "a topic created anew gets new groups"),
    Mutant("catalog.begins_the_lost_anew", (), "a replica that was lost comes back as a learner",
           instead_of="stele.nameserver.reconcile:plan", and_breaks=("what was acknowledged outlives the loss of a replica",)),
    Mutant("catalog.joins_before_it_has_left", (), "a replica that was lost comes back as a learner",
           instead_of="stele.nameserver.reconcile:plan"),
    Mutant("catalog.gives_to_the_loading", ("R4.6",), "a loading store is given no replicas",
           "stele.nameserver.reconcile:plan"),
    Mutant("catalog.counts_the_loading_as_ready", ("R4.6",), "a loading store is given no replicas",
           "stele.nameserver.catalog:Catalog"),
    Mutant("catalog.TrustsTheMirror", (), "nothing is removed as an orphan that ZooKeeper has a record of"),
    Mutant("catalog.BelievesTheOlderCopy", (), "an older copy of the records gives nothing out"),
    Mutant("catalog.drops_orphans", (), "what no record speaks for is kept", "stele.nameserver.reconcile:plan"),
    Mutant("catalog.counts_strangers", (), "a replica of another topic is not counted, created over or deleted",
           "stele.nameserver.strays:set_apart"),
    Mutant("catalog.SetsApartOnce", (), "a replica of another topic is not counted, created over or deleted"),
    Mutant("catalog.TellsOfTheTouchedAlone", (), "a broker that is told what changed knows what concerns it"),
    Mutant("catalog.PlansOnce", (), "what is due is planned for until it is done"),
    Mutant("catalog.KeepsWhatIsDerived", (), "what is made of a change is what would be made of everything"),

    Mutant("moves.leaves_first", (), "a group has as many voters as before until the new replica counts",
           "stele.nameserver.reconcile:plan"),
    Mutant("moves.deletes_what_is_not_named", (), "a replica is deleted by a record that says so, never for want of one",
           "stele.nameserver.reconcile:plan"),
    Mutant("moves.counts_every_store", ("R2.7",), "a store goes only while enough others are up",
           "stele.nameserver.moves:check_may_go"),
    Mutant("moves.AsksTheMirror", ("R2.7",), "a store goes only while enough others are up"),
    Mutant("leaders.evens_out_any_difference", (), "leaders that are even stay where they are",
           "stele.nameserver.leader_balance:even_out", ("the lead goes only to a voter that follows",)),
    Mutant("leaders.WaitsNoLonger", (), "no trouble makes the lead go to and fro"),

    # --- whether a process can be stopped
    Mutant("stops.takes_registered_for_well", (), "what does not answer is never called safe",
           "stele.nameserver.stop_safety:store_reasons"),
    Mutant("stops.counts_what_is_registered", (), "no group is left without a majority that follows",
           "stele.nameserver.stop_safety:store_reasons", and_breaks=("what does not answer is never called safe",)),
    Mutant("stops.waits_for_nobody", (), "a replica that is only just back is waited for",
           "stele.nameserver.stop_safety:store_reasons"),
    Mutant("stops.counts_drained_brokers", (), "another broker can take the bundles",
           "stele.nameserver.stop_safety:broker_reasons"),
    Mutant("stops.counts_who_answers", (), "another nameserver waits to lead",
           "stele.nameserver.stop_safety:nameserver_reasons"),
    Mutant("moves.evens_out_any_difference", (), "replicas that are even stay where they are",
           "stele.nameserver.replica_balance:plan_balance"),
    Mutant("moves.moves_what_is_not_in_order", (), "a partition of which a replica is not in order is left alone",
           "stele.nameserver.replica_balance:plan_balance"),
    Mutant("moves.TakesSilenceForLoss", (), "nothing is built anew while most of the cluster is not heard"),

    Mutant("growth.shows_at_once", (), "no partition is shown that nobody leads", "stele.nameserver.reconcile:plan"),
    Mutant("growth.begins_the_shown_anew", (), "what was lost is not begun anew as a voter",
           "stele.nameserver.reconcile:plan"),

    Mutant("growth.BeginsAsItWasTold", (), "nothing sent to a new partition is lost to a subscription that was there"),

    Mutant("access.TrustsAnyServer", (), "nothing is sent to a server that the CA does not know"),
    Mutant("access.LeavesItToAll", (), "what is made with credentials is nobody else's"),
    Mutant("zookeepers.TakesOneForAll", (), "a server that is behind the others says nothing about them"),
    Mutant("zookeepers.WaitsForTheSilent", (), "servers that stand still leave a session the time to find another"),
    Mutant("formats.counts_the_registered_alone", (), "the cluster rises only to what everybody knows who may be in it",
           "stele.nameserver.finalization:finalization"),
    Mutant("formats.goes_by_the_newest", (), "the cluster rises only to what everybody knows who may be in it",
           "stele.nameserver.finalization:finalization"),
    Mutant("formats.WritesWhatItKnows", (), "nothing is written that an older process would lose"),
    Mutant("formats.JoinsUnasked", (), "nobody joins who does not know the cluster's record format"),
    Mutant("formats.forgets_the_unknown", (), "what a process does not know outlives its writes",
           "stele.services.coordination.records:decode"),

    Mutant("resizing.keeps_the_first", (), "replicas on stores that do not answer are given up first",
           "stele.nameserver.resizing:plan_resizes"),

    # --- groups on a store (F3)
    Mutant("groups.Ungated", ("R3.1", "R3.3"), "one group on a store has one replica"),
    Mutant("groups.UnregistersByName", ("R3.2",), "a late stop does not take its successor out"),
    Mutant("groups.RemovesFirst", ("R3.4", "R3.9"), "nothing of a group is left once it is deleted"),
    Mutant("groups.PidFile", ("R3.5",), "a directory is opened once", "stele.services.directory_lock:DirectoryLock"),
    Mutant("groups.ObeysForAnyTopic", (), "a replica is deleted for its own topic alone"),
    Mutant("groups.EmptiesItsTrash", (), "what was deleted is kept for a while"),
    Mutant("groups.NeverLooks", ("R3.7",), "a group whose directory vanished stops itself"),

    # --- the gate (F4)
    Mutant("gate.OpensPortFirst", ("R4.1",), "the client port is closed while groups load"),
    Mutant("gate.SkipsCatchingUp", ("R4.1",), "the client port is closed until every group has caught up"),
    Mutant("gate.CampaignsWhileLoading", ("R4.2",), "nobody leads behind a closed port"),
    Mutant("gate.WaitsForALeader", ("R4.3",), "a whole cluster starts cold"),
    Mutant("gate.WaitsForTheStuck", ("R4.3", "R4.5"), "a replica that comes no further does not hold its node"),
    Mutant("gate.LoadsAllAtOnce", ("R4.4",), "no more groups load at once than the bound allows"),
    Mutant("gate.LoadsOneByOne", ("R4.4",), "groups load in parallel"),
    Mutant("gate.StopsAtDamage", ("R4.5",), "one damaged group does not hold the node"),
    Mutant("gate.DeletesDamage", ("R4.5",), "a damaged group is set aside, never deleted"),
    Mutant("gate.RegistersWhenReady", ("R4.6",), "a loading node shows itself as alive"),
    Mutant("gate.AnswersWhileLoading", ("R4.7",), "an unready replica says so"),
    Mutant("gate.ClosesPortFirst", ("R4.8",), "a node that drains hands leadership over before its port closes"),

    # --- elections and sleep (H5, H14, H15)
    Mutant("elections.CountsVotesTwice", ("H5",), "one leader per term"),
    Mutant("elections.TurnsFirst", ("H14",), "a stall alone elects nobody"),
    Mutant("elections.CampaignsByTheClock", ("H14", "H15"), "a stall alone elects nobody"),
    Mutant("elections.WinsBehindTheGate", ("R4.2", "R4.8"), "nobody begins to lead behind a closed gate"),
    Mutant("elections.TakesOnWhileItHandsOver", ("R4.8",), "leadership passes without an election that fails"),
    Mutant("elections.AsksBeforeItHoldsAll", ("R4.8",), "what was proposed before a handover is answered"),
    Mutant("elections.OvertakesItsVotes", ("H15",), "a slow disk does not keep a group from electing"),
    Mutant("elections.VotesWithoutItsLog", ("R4.5",), "a replica that lost its log counts for nothing it promised"),
    Mutant("elections.RecoversAtAWord", ("R4.5",), "who lost entries is no voter until it holds them again"),
    Mutant("elections.DoesNotListen", ("R4.5",), "who lost entries is no voter until it holds them again"),
    Mutant("elections.DeafToSilence", (), "a sleeping group elects when its leader's node falls silent"),
    Mutant("elections.EndsWithoutAwake", (), "a sleeping group hears of its leader's end"),

    # --- proposals, replication, commitment and reads (H1 to H4, H6, H7, H9, H12, H13, H15, H16, H18)
    Mutant("replication.TruncatesWhatMatches", ("H1",), "what was acknowledged is not cut off"),
    Mutant("replication.MovesBack", ("H1",), "what was acknowledged is not cut off"),
    Mutant("replication.TrustsTheCommitIndex", ("H2",), "only what a message verified is committed"),
    Mutant("replication.TrustsTheOffer", ("H2",), "an offer commits nothing that it did not verify"),
    Mutant("replication.InstallsWhatIsOld", ("H3",), "a state machine never goes back"),
    Mutant("replication.CountsLateAnswers", ("H4",), "an answer counts in the term that asked for it"),
    Mutant("replication.changes_two_at_once", ("H6",), "membership changes one at a time",
           "stele.services.raft.membership:check_ready"),
    Mutant("replication.ForgetsTheLog", ("H6",), "a restarted replica has the members that its log says"),
    Mutant("replication.CountsItself", ("H7",), "a leader counts what it has synced"),
    Mutant("replication.PromisesFirst", ("H7", "R3.8"), "nothing is promised before it is synced"),
    Mutant("replication.BelievesItsCommitIndex", ("H9",), "nothing is committed that the log does not hold"),
    Mutant("replication.KeepsItsCommitIndex", ("H9",), "nothing is committed that the log does not hold"),
    Mutant("replication.LeavesProposalsUnanswered", ("H12",), "a proposal ends with the leadership that took it"),
    Mutant("replication.CallsTheUnknownDefinite", ("H12",), "an outcome that is not known is not called definite"),
    Mutant("replication.TakesAllThatIsProposed", (), "what a group has in flight is bounded"),
    Mutant("replication.TakesAnyLength", ("H13",), "an entry over the limit is refused"),
    Mutant("replication.TakesWhateverComes", ("H17",), "a message that no replica can have said costs no replica"),
    Mutant("replication.GoesBackByOne", ("H18",), "logs that conflict are matched in a few round trips"),
    Mutant("replication.FallsSilentOnceItOffers", ("H16",), "a long transfer silences nobody"),
    Mutant("replication.KeepsToWhatWasAcknowledged", ("R4.5",), "what a follower lost is sent again"),
    Mutant("replication.CountsWhatWasLost", ("R4.5",), "what was lost is not counted"),
    Mutant("replication.ReleasesWhatIsNotStored", (), "what a follower has not stored stays in flight"),
    Mutant("replication.BelievesLateRefusals", ("R4.5", "H1"), "a late refusal takes nothing back"),
    Mutant("replication.ReadsWithoutARound", ("H15",), "a read sees every write that was acknowledged before it"),
    Mutant("replication.ReadsBeforeItsOwnEntry", ("H15",), "a read sees every write that was acknowledged before it"),

    # --- the log, terms and disks (H7, H8)
    Mutant("log.ForgetsToSyncFiles", ("H7",), "what was promised survives a power loss",
           "stele.services.files:FileSystem"),
    Mutant("log.ForgetsToSyncFolders", ("H7",), "what was promised survives a power loss",
           "stele.services.files:FileSystem"),
    Mutant("log.CountsTheCache", ("H7",), "what was promised survives a power loss"),
    Mutant("log.CountsCachedNames", ("H7",), "what was promised survives a power loss"),
    Mutant("log.CutsAtDamage", ("H7",), "damage in the middle of a log is not taken for its end"),
    Mutant("log.DamageIsNoVote", ("H7",), "a replica that cannot read its vote does not start"),
    Mutant("log.WritesInPlace", ("H7",), "a power loss leaves the old vote or the new one"),
    Mutant("log.LeavesEntries", ("H7",), "what a failed sync lost is not taken for stored"),
    Mutant("log.LeavesATransfer", ("H7",), "what a failed sync lost is not taken for stored"),
    Mutant("log.SyncsAgain", ("H7",), "a sync that failed is never believed later"),
    Mutant("log.CutsWithoutAWord", ("R4.5",), "what was cut on purpose does not look lost"),
    Mutant("log.NeverLooksBack", ("R4.5",), "a log whose end is gone says so"),
    Mutant("replication.WaitsForEverForAFetch", (), "a log is compacted although one that lives cannot take a snapshot"),
    Mutant("partition.BelievesDamagedHeaders", (), "an offset is what it was before the damage"),
    Mutant("groups.GivesWhatIsNotCommitted", (), "only committed entries take the place of damaged ones"),
    Mutant("log.MendsWithAnything", (), "a mended part of a log is as long as the old one, and ends in its term"),
    Mutant("reader.TakesDamageForNothing", (), "a message is read at the offset that it was given"),
    Mutant("log.RemovesBeforeNaming", ("H8",), "a reset leaves the old log or the new one"),
    Mutant("log.TruncatesOldestFirst", ("H8",), "what was promised survives a power loss"),

    # --- snapshots (H8, H10)
    Mutant("snapshots.NamesBeforeSyncing", ("H8",), "what has a snapshot's name is a whole snapshot"),
    Mutant("snapshots.drops_before_the_snapshot", ("H8",), "a power loss during compaction loses nothing",
           "stele.services.raft.journal:Journal"),
    Mutant("snapshots.resets_before_installing", ("H8",), "a power loss during an install leaves log or snapshot",
           "stele.services.raft.journal:Journal"),
    Mutant("snapshots.ResetsFirst", ("H8",), "a log is emptied behind a durable snapshot"),
    Mutant("snapshots.AcceptsACutSnapshot", ("H10",), "a snapshot that is cut short is refused"),
    Mutant("snapshots.resets_for_its_own", ("H10",), "a log is not reset for a snapshot of the replica's own",
           "stele.datanode.log.start_point:decide"),
    Mutant("snapshots.SnapshotsBeforeTheSync", ("H10",), "a snapshot stands for entries that are synced here"),
    Mutant("snapshots.starts_without_its_beginning", ("H10",), "a log that begins behind 1 needs its snapshot",
           "stele.datanode.storage:opener"),

    # --- messages
    Mutant("batches.takes_by_reference", (), "a message is stored as it was when it was handed over",
           "stele.arguments:octets"),
    Mutant("batches.looks_at_the_header_alone", (), "nothing is stored that no consumer can read",
           "stele.services.batch:check"),
    Mutant("batches.GoesOnAsAnother", (), "what was given up is not stored behind what was sent later"),

    Mutant("calls.ForgetsItsAttempts", (), "what a call did itself it does not call undone"),

    # --- clocks
    Mutant("retention.AgesByTheWallClock", (), "what a retention keeps outlives any step of a clock"),
    Mutant("retention.CountsTheDowntime", (), "what a retention keeps outlives any step of a clock"),
    Mutant("retention.BelievesEveryTime", (), "one clock that is set wrong does not hide times that are right"),
)
# fmt: on

WITHOUT_A_MUTANT: Mapping[str, str] = MappingProxyType(
    {
        "H11": "What goes wrong is the test's own: a callback or a state machine that raises.",
    }
)
"""Rules that no mutant breaks, and why."""

WITHOUT_A_LINE: Mapping[str, str] = MappingProxyType(
    {
        "R3.9": "What R3.1 to R3.8 come to; no line of its own.",
    }
)
"""Rules that no line of the product names, and why."""
