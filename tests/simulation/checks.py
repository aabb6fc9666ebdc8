"""What must hold after every event.  What the run knows of the truth is kept here, outside every process.

* Nobody begins to lead behind a closed gate (R4.2).
* At most one leader in a term, and it holds every entry committed before its term.
* An entry is committed first by a leader, once the disks of a majority of the members hold it synced; it never changes afterwards.
* Every replica that applies an entry comes to the same outcome.
* What a client was told for certain to have failed is never committed.
* The invariants of engine, log and partition.
* No campaign while word of the current leader waits to be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.datanode.commands import Outcome
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.state import RaftState
from stele.services.raft.storage import Entry

if TYPE_CHECKING:
    from tests.simulation.process import Process, Store
    from tests.simulation.world import World

STATE_EVERY = 8  # applied entries between two comparisons of whole states


class Violation(AssertionError):
    """A safety or liveness property does not hold.  ``kind`` names it in a few words."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Checks:
    """``committed``, ``outcomes`` and ``states`` are by log index and the same for everybody, for ever."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.leaders: dict[int, int] = {}  # term → store
        self.committed: dict[int, Entry] = {}
        self.committed_in: dict[int, int] = {}  # index → term of the leader that committed it first
        self.top = 1  # entry 1 is everyone's own beginning
        self.outcomes: dict[int, Outcome] = {}
        self.states: dict[int, bytes] = {}
        self.elections = 0
        self.refused: set[tuple[int, int]] = (
            set()
        )  # index and term of entries of which a client was told that they came to nothing

    # --- after each handle of a process -----------------------------------------------------------------------------------

    def opened(self, process: Process) -> None:
        """Its group runs."""
        assert process.group is not None
        store, recovering = process.store, process.group.engine.recovering
        if store.must_notice and not recovering:
            raise Violation("loss not noticed", f"store {store.id} does not see that the end of its log is gone")
        store.must_notice = False
        process.recovering_seen = recovering
        if not recovering:
            self._whole(store)

    def after(self, process: Process) -> None:
        """Cheap: most of the time nothing that matters has changed."""
        group = process.group
        assert group is not None
        engine = group.engine
        if engine.failed:
            self._failed(process, engine)
            return
        commit = engine.commit_index
        journal = engine.journal
        state = engine.core.state
        if state is RaftState.LEADER:
            if process.led_term != engine.term:
                self._became_leader(process, engine)
        elif state is RaftState.CANDIDATE and process.campaign_term != engine.term:
            self._campaigned(process, engine)
        process.links.read_in_handle = False
        if process.registry is not None and process.registry.messages_refused:  # everybody here is honest
            raise Violation("message refused", f"store {process.store.id} refused what another replica said")
        if engine.asleep != process.asleep_seen:
            process.asleep_seen = engine.asleep
            self._world.counts["falls asleep"] += engine.asleep
        if engine.applied_index < process.applied_seen:
            raise Violation(
                "state went back",
                f"store {process.store.id} had applied {process.applied_seen} entries and stands at {engine.applied_index}",
            )
        process.applied_seen = engine.applied_index
        if commit != process.commit_seen:
            self._committed(process, engine, process.commit_seen, commit)
            process.commit_seen = commit
        position = journal._position
        self._validate(process, "engine", engine.validate)
        if position != process.position_seen:
            self._validate(process, "log", journal._log.validate)
            process.position_seen = position
        if engine.recovering != process.recovering_seen:
            process.recovering_seen = engine.recovering
            self._world.counts["recoveries by a leader's word"] += engine.recovering
        if process.store.lost_log and not engine.recovering:
            self._whole(process.store)

    @staticmethod
    def _whole(store: Store) -> None:
        store.lost_log = False
        store.promised.clear()

    def _failed(self, process: Process, engine: Any) -> None:
        if not process.store.broken and not process.closed:
            raise Violation("replica failed", f"store {process.store.id} failed without a reason: {engine.failed}")

    def _validate(self, process: Process, what: str, validate: Any) -> None:
        try:
            validate()
        except AssertionError as e:
            raise Violation("invariant", f"{what} of store {process.store.id}: {e}") from e

    def _became_leader(self, process: Process, engine: Any) -> None:
        store, term = process.store.id, engine.term
        process.led_term = term
        if not process.registry.may_lead:
            raise Violation("gate", f"store {store} begins to lead in term {term} behind a closed gate")
        other = self.leaders.setdefault(term, store)
        if other != store:
            raise Violation("two leaders", f"stores {other} and {store} lead in term {term}")
        self.elections += 1
        journal = engine.journal
        for index in range(max(2, journal.first_index), self.top + 1):
            if self.committed_in[index] >= term:  # deposed before it knew that it was elected
                break
            entry = self.committed[index]
            if index > journal.last_index or journal.term_at(index) != entry.term:
                held = f"term {journal.term_at(index)}" if index <= journal.last_index else "nothing"
                raise Violation(
                    "leader incomplete",
                    f"store {store} leads in term {term} and holds {held} at {index}, where an entry of term {entry.term} "
                    f"was committed",
                )

    def _committed(self, process: Process, engine: Any, seen: int, commit: int) -> None:
        journal = engine.journal
        if commit < seen:
            raise Violation("commit went back", f"store {process.store.id} commits {commit} after {seen}")
        if commit > journal.last_index:
            raise Violation(
                "commit beyond log", f"store {process.store.id} commits {commit} and holds {journal.last_index} entries"
            )
        index = max(seen + 1, 2, journal.first_index)
        while index <= commit:
            for entry in journal.read(index, commit, 1 << 20):
                known = self.committed.get(entry.index)
                if known is None:
                    self._first_commit(process, engine, entry)
                elif known.term != entry.term or known.payload != entry.payload or known.kind != entry.kind:
                    raise Violation(
                        "committed entry changed",
                        f"store {process.store.id} commits {_named(entry)} at {entry.index}, where {_named(known)} was "
                        f"committed",
                    )
                index = entry.index + 1
        if commit > self.top:
            if not engine.is_leader:
                raise Violation(
                    "committed without a leader", f"store {process.store.id} is the first to commit {commit}"
                )
            self._durable(process, engine, commit)
            self.top = commit

    def _first_commit(self, process: Process, engine: Any, entry: Entry) -> None:
        if not engine.is_leader:
            raise Violation(
                "committed without a leader",
                f"store {process.store.id}, {engine.state} in term {engine.term}, is the first to commit {_named(entry)} at "
                f"{entry.index}",
            )
        self.committed[entry.index] = entry
        if (entry.index, entry.term) in self.refused:
            self._dishonest(entry)
        self.committed_in[entry.index] = engine.term

    def refused_for_certain(self, index: int, term: int) -> None:
        """A client has a definite error for what was proposed as this entry: one index and one term are one entry."""
        self.refused.add((index, term))
        entry = self.committed.get(index)
        if entry is not None and entry.term == term:
            self._dishonest(entry)

    def _dishonest(self, entry: Entry) -> None:
        raise Violation(
            "definite error",
            f"a client was told that {_named(entry)} at {entry.index} has failed for certain; it is committed",
        )

    def _durable(self, process: Process, engine: Any, index: int) -> None:
        """A majority holds ``index`` durably, or did before it lost it and stands aside until it holds it again (R4.5)."""
        term = engine.journal.term_at(index)
        voters = self._world.voters(engine)
        stores = [self._world.stores[s] for s in voters]
        holding = [s.id for s in stores if s.durable.holds(index, term) or s.promised.get(index) == term]
        if len(holding) * 2 <= len(voters):
            raise Violation(
                "committed without a majority",
                f"store {process.store.id} commits entry {index} of term {term} in term {engine.term}; of {voters} only "
                f"{holding} hold it durably",
            )

    def restored(self, process: Process, index: int, state: bytes) -> None:
        """A machine became a snapshot's state."""
        if self.states.setdefault(index, state) != state:
            raise Violation("states differ", f"store {process.store.id} restores another state after entry {index}")

    # --- applying -----------------------------------------------------------------------------------------------------------

    def applied(self, process: Process, index: int, payload: bytes, outcome: Outcome) -> None:
        known = self.outcomes.get(index)
        if known is None:
            self.outcomes[index] = outcome
            self._world.workload.first_applied(index, payload, outcome)
        elif known != outcome:
            raise Violation(
                "states differ", f"store {process.store.id} comes to {outcome} at {index}, another to {known}"
            )
        if process.machine is None:
            return
        partition = process.machine.partition
        self._validate(process, "partition", partition.validate)
        if index % STATE_EVERY == 0:
            state = partition.encode_snapshot()
            if self.states.setdefault(index, state) != state:
                raise Violation("states differ", f"store {process.store.id} holds another state after entry {index}")

    # --- elections ------------------------------------------------------------------------------------------------------------

    def _campaigned(self, process: Process, engine: Any) -> None:
        """H14: the clock alone is no reason to campaign while the leader's word waits to be read.  Answers of others that have no
        leader either are one: those were read in this very handle."""
        process.campaign_term = engine.term
        if process.links.read_in_handle:
            return
        for sender, stream, frame in process.links.unread:
            if not stream.alive:
                continue
            for data in frame:
                waiting = pb.RaftMessage.FromString(data)
                if waiting.WhichOneof("body") == "append_entries" and waiting.term >= engine.term - 1:
                    raise Violation(
                        "campaign in spite of a leader",
                        f"store {process.store.id} campaigns for term {engine.term} while word of store {sender}, leader of "
                        f"term {waiting.term}, waits to be read",
                    )


def _named(entry: Entry) -> str:
    return f"an entry of term {entry.term}, kind {entry.kind}, {len(entry.payload)} bytes"
