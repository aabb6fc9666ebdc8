"""Golden transcripts: what replicas are told, and what they say and become, as text that can be read and compared.

Guarantee: a transcript is a function of its commands.  Clock and randomness are the bench's; nothing else decides.

A file of ``transcripts/`` is a row of blocks: commands, ``----``, what came of them.  ``1->2 …`` is a message when it leaves store 1,
after the sync that it waits for; ``1: …`` is what has changed about store 1.  Lines that begin with ``#`` are for the reader.

    python -m tests.unit.raft.transcript               compares every file with what happens now
    python -m tests.unit.raft.transcript --rewrite     writes what happens now; read the difference before you commit it

Commands (``1`` is a store, times are seconds):

    new 3 [spare=1] [nodes]    stores 1..3, linked to each other, and spare ones; with ``nodes`` they also know whose node is alive
    wait 0.5                   time passes in steps of 10 ms; nobody is given a turn
    due 1                      time passes until the next deadline of store 1, which gets its turn then
    turn 1 …                   a turn each: tick, flush where syncing is on, messages out
    deliver 1->2 [3]           what is on the wire, or so many messages of it
    again 1->2                 what was delivered last on this wire arrives once more
    drop 1->2                  what is on the wire is lost
    run 0.3 [without=3]        everybody, every 50 ms: turns, then everything on the wires
    propose 1 a b              commands for the machine
    read 1                     a linearizable read
    change 1 voters=1,2 learners=3
    transfer 1 [2]             leadership
    link 1-2 up|down           both sides learn of it
    gone 1 2                   store 1 learns that the process of store 2 is gone
    cut 1-2, mend 1-2          the wire and the nodes' words between two stores are lost; neither side is told
    sync 1 on|off, flush 1     the disk
    gate 1 open|closed         whether the store may lead
    crash 1, lose 1            restarted from what was synced; with its log lost as well
    shorten 1 5                restarted with its log ending at entry 5, and nothing on its disk says so
    marked 1                   that it recovers is durable
    recovered 1                that it holds everything again is durable
    compact 1                  a snapshot of what is applied, and the log behind it
    fetch 1                    it fetches and installs the snapshot that it was offered
    fail 1                     the replica ends
    state [1 …]                everything about the stores
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import structlog

from stele.services.errors import GroupStopped, SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.engine import Engine
from stele.services.raft.storage import Members
from tests.unit.raft.bench import Bench

FOLDER = Path(__file__).parent / "transcripts"
STEP_S = 0.05
SILENCE_S = 1.0  # Timing.election_min_s
KINDS = ("", " no-op", " members")


class Recorder(Bench):
    """A bench whose stores' messages and changes are written down."""

    def __init__(self, count: int, spare: int, nodes: bool) -> None:
        self.lines: list[str] = []
        self.nodes = nodes
        self.active: dict[tuple[int, int], float] = {}
        self.reported: set[tuple[int, int]] = set()  # (who, whose node it was told is silent)
        self.cut: set[tuple[int, int]] = set()
        self.seen: dict[int, str] = {}
        self.reads = 0
        self.delivered: dict[tuple[int, int], list[pb.RaftMessage]] = {}
        super().__init__(count, spare=spare)

    def start(self, i: int) -> Engine:
        engine = super().start(i)
        if self.nodes:
            for j in self.ids:
                self.active[i, j] = self.active[j, i] = self.now
                self.reported -= {(i, j), (j, i)}
            engine.quiescence.node_active_at = lambda store: self.active.get((i, store), float("-inf"))
        return engine

    def deliver(self, a: int, b: int, count: int | None = None) -> list[pb.RaftMessage]:
        delivered = super().deliver(a, b, count)
        if delivered:
            self.delivered[a, b] = delivered
        return delivered

    # --- what is written down -------------------------------------------------------------------------------------------

    def turn(self, i: int) -> None:
        before = {wire: len(messages) for wire, messages in self.wires.items()}
        super().turn(i)
        for to in self.ids:
            for message in list(self.wires[(i, to)])[before.get((i, to), 0) :]:
                self.lines.append(f"{i}->{to} {shown(message)}")
        for wire in self.cut:
            self.wires[wire].clear()

    def look(self) -> None:
        """What has changed about the stores since it was looked last."""
        for i in self.ids:
            engine = self.engines[i]
            state = f"{engine.state} term {engine.term} leader {engine.leader or '-'} commit {engine.commit_index}"
            state += f" applied {engine.applied_index}{' asleep' if engine.asleep else ''}"
            if self.seen.get(i) != state:
                self.seen[i] = state
                self.lines.append(f"{i}: {state}")

    def about(self, i: int) -> None:
        engine, journal = self.engines[i], self.engines[i].journal
        log = ", ".join(
            f"{entry.index}/{entry.term}{KINDS[entry.kind]}"
            for entry in journal.read(journal.first_index, journal.last_index, 1 << 20)
        )
        due = engine.next_deadline()
        self.lines += [
            f"{i}: {self.seen[i]}",
            f"   voters {list(engine.members.voters)} learners {list(engine.members.learners)}"
            f" vote {journal.voted_for or '-'}{' recovering' if engine.recovering else ''}"
            f"{' unmarked' if engine.recovery.unmarked else ''}{' holds again' if engine.recovery.holds_again else ''}"
            f"{' caught up' if engine.caught_up else ''}",
            f"   log {journal.first_index}..{journal.last_index} synced {journal.synced_index} [{log}]"
            f" snapshots {[s.index for s in journal.snapshots]}",
            f"   machine {b' '.join(self.machines[i].applied).decode()!r}"
            f" next deadline {f'{due - self.now:+.6f}' if due != float('inf') else 'none'}",
        ]
        if engine.is_leader:
            members = sorted({*engine.members.voters, *engine.members.learners} - {i})
            held = ", ".join(f"{m} holds {engine.match_index(m)}" for m in members)
            self.lines.append(f"   {held}; offered {engine.offered_index or '-'}")

    # --- what is done -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float, without: tuple[int, ...]) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.tell_of_nodes()
            for i in self.ids:
                if i not in without:
                    self.turn(i)
            for a in self.ids:
                for b in self.ids:
                    if a != b and a not in without and b not in without:
                        self.deliver(a, b)

    def tell_of_nodes(self) -> None:
        """As the transport does: of silence once, and of the first word after it."""
        for i, j in ((i, j) for i in self.ids for j in self.ids if self.nodes and i != j):
            if (j, i) not in self.cut:
                self.active[i, j] = self.now
                if (i, j) in self.reported:
                    self.reported.discard((i, j))
                    self.engines[i].peer_active(j)
            elif self.now - self.active[i, j] >= SILENCE_S and (i, j) not in self.reported:
                self.reported.add((i, j))
                self.engines[i].peer_silent(j)

    def link(self, a: int, b: int, up: bool) -> None:
        for i, j in ((a, b), (b, a)):
            if up:
                self.engines[i].connected(j)
            else:
                self.engines[i].disconnected(j)
                self.wires[(i, j)].clear()

    def ask(self, i: int, command: str) -> None:
        def done(result: object, error: SteleError | None) -> None:
            self.lines.append(f"{i}: {command} {'ended: ' + type(error).__name__ if error else f'= {result}'}")

        try:
            if command.startswith("read"):
                self.engines[i].read_index(done)
            else:
                self.engines[i].propose(command.encode(), done)
        except SteleError as e:
            self.lines.append(f"{i}: {command} refused: {type(e).__name__}")

    def change_to(self, i: int, members: Members) -> None:
        def done(result: object, error: SteleError | None) -> None:
            self.lines.append(f"{i}: change {'ended: ' + type(error).__name__ if error else 'done'}")

        try:
            self.engines[i].change_members(members, done)
        except SteleError as e:
            self.lines.append(f"{i}: change refused: {e}")

    def lose(self, i: int) -> None:
        platter = self.platters[i]
        platter.synced.entries.clear()
        platter.unsynced.clear()
        platter.snapshots.clear()
        platter.synced.base = platter.synced.base_term = 0
        platter.recovering = True
        self.crash(i)

    def shorten(self, i: int, keep: int) -> None:
        platter = self.platters[i]
        del platter.synced.entries[keep - platter.synced.base :]
        platter.unsynced.clear()
        self.crash(i)

    def mark(self, i: int) -> None:
        self.platters[i].recovering = True
        self.engines[i].recovery.marked()

    def end_recovery(self, i: int) -> None:
        self.platters[i].recovering = False
        self.engines[i].recovered()


def shown(message: pb.RaftMessage) -> str:
    """A message as one line."""
    body = message.WhichOneof("body")
    said = getattr(message, body)
    line = f"term {message.term} {type(said).__name__}"
    match body:
        case "request_vote":
            line += f"{' pre-vote' if said.pre_vote else ''}{' transfer' if said.transfer else ''}"
            line += f" last {said.last_log_index}/{said.last_log_term}"
        case "vote_answer":
            line += (
                f"{' pre-vote' if said.pre_vote else ''} {'yes' if said.granted else 'no'} for term {said.voted_term}"
            )
        case "append_entries":
            line += f" #{said.request} behind {said.prev_log_index}/{said.prev_log_term} commit {said.commit_index}"
            kinds = Counter({(run.term, run.kind): run.count for run in said.runs})
            if said.payloads:
                runs = ", ".join(f"{count} of term {term}{KINDS[kind]}" for (term, kind), count in kinds.items())
                line += f" entries {len(said.payloads)} ({runs})"
            line += (
                f"{f' recovered at {said.recovered_at}' if said.recovered_at else ''}{' sleep' if said.sleep else ''}"
            )
        case "append_answer":
            line += f" #{said.request} of term {said.request_term}"
            line += (
                f" holds {said.match_index}"
                if said.success
                else f" conflict at {said.conflict_index}/{said.conflict_term}"
            )
            line += " recovering" if said.recovering else ""
        case "snapshot_offer":
            line += f" #{said.request} index {said.snapshot.index}/{said.snapshot.term} of {said.snapshot.size} bytes"
            line += f" voters {list(said.snapshot.members.voters)}"
            line += f" recovered at {said.recovered_at}" if said.recovered_at else ""
    return line


def carry_out(bench: Recorder, line: str) -> None:
    name, *rest = line.split()
    options = dict(word.split("=") for word in rest if "=" in word)
    words = [word for word in rest if "=" not in word]

    def pair(word: str, between: str) -> tuple[int, int]:
        a, b = word.split(between)
        return int(a), int(b)

    def ids(word: str) -> tuple[int, ...]:
        return tuple(int(i) for i in word.split(",") if i)

    match name:
        case "wait":
            for _ in range(round(float(words[0]) * 100)):
                bench.now += 0.01
                bench.tell_of_nodes()
        case "due":
            bench.now = bench.engines[int(words[0])].next_deadline()
            bench.tell_of_nodes()
            bench.turn(int(words[0]))
        case "turn":
            for word in words:
                bench.turn(int(word))
        case "deliver":
            bench.deliver(*pair(words[0], "->"), int(words[1]) if words[1:] else None)
        case "again":
            a, b = pair(words[0], "->")
            for message in bench.delivered[a, b]:
                bench.engines[b].receive(a, message)
            bench.turn(b)
        case "drop":
            bench.wires[pair(words[0], "->")].clear()
        case "run":
            bench.run(float(words[0]), ids(options.get("without", "")))
        case "propose":
            for word in words[1:]:
                bench.ask(int(words[0]), word)
            bench.turn(int(words[0]))
        case "read":
            bench.reads += 1
            bench.ask(int(words[0]), f"read {bench.reads}")
            bench.turn(int(words[0]))
        case "change":
            bench.change_to(int(words[0]), Members(ids(options["voters"]), ids(options.get("learners", ""))))
            bench.turn(int(words[0]))
        case "transfer":
            begun = bench.engines[int(words[0])].transfer_leadership(int(words[1]) if words[1:] else None)
            bench.lines.append(f"{words[0]}: {'hands over' if begun else 'hands over to nobody'}")
            bench.turn(int(words[0]))
        case "link":
            bench.link(*pair(words[0], "-"), words[1] == "up")
        case "gone":
            bench.engines[int(words[0])].peer_gone(int(words[1]))
        case "cut" | "mend":
            a, b = pair(words[0], "-")
            bench.cut = bench.cut | {(a, b), (b, a)} if name == "cut" else bench.cut - {(a, b), (b, a)}
        case "sync":
            bench.sync[int(words[0])] = words[1] == "on"
        case "flush":
            bench.flush(int(words[0]))
            bench.turn(int(words[0]))
        case "gate":
            bench.may_lead[int(words[0])] = words[1] == "open"
        case "crash":
            bench.crash(int(words[0]))
        case "lose":
            bench.lose(int(words[0]))
        case "shorten":
            bench.shorten(int(words[0]), int(words[1]))
        case "marked":
            bench.mark(int(words[0]))
        case "recovered":
            bench.end_recovery(int(words[0]))
        case "compact":
            bench.compact(int(words[0]))
        case "fetch":
            installed = bench.fetch(int(words[0]))
            bench.lines.append(f"{words[0]}: {'installed' if installed else 'of no use'}")
        case "fail":
            bench.engines[int(words[0])].fail(GroupStopped("the replica ends", group=7))
            bench.turn(int(words[0]))
        case "state":
            for i in [int(word) for word in words] or bench.ids:
                bench.look()
                bench.about(i)
        case _:
            raise ValueError(f"no such command: {line}")


def blocks(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """What stands above each ``----``: comments and commands apart."""
    for block in text.split("\n\n"):
        above = block.strip("\n").split("----")[0].strip("\n").splitlines()
        comments = [line for line in above if line.startswith("#")]
        yield comments, [line for line in above if line and not line.startswith("#")]


def played(text: str) -> str:
    """``text`` with what its commands bring about now."""
    found: list[str] = []
    bench: Recorder | None = None
    for comments, commands in blocks(text):
        lines = [*comments]
        if commands:
            lines += [*commands, "----"]
        for command in commands:
            if command.startswith("new "):
                words = command.split()
                spare = next((int(word.removeprefix("spare=")) for word in words if word.startswith("spare=")), 0)
                bench = Recorder(int(words[1]), spare, "nodes" in words)
            else:
                assert bench is not None, "a transcript begins with `new`"
                carry_out(bench, command)
        if commands and bench is not None:
            bench.look()
            lines += bench.lines
            bench.lines = []
        found.append("\n".join(lines))
    return "\n\n".join(found) + "\n"


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rewrite = "--rewrite" in sys.argv[1:]
    paths = sorted(FOLDER.glob("*.txt"))
    changed = 0
    for path in paths:
        text = path.read_text()
        now = played(text)
        if now == text:
            continue
        changed += 1
        if rewrite:
            path.write_text(now)
        print(f"{path.name} {'is rewritten' if rewrite else 'differs'}")
    print(f"{len(paths) - changed} of {len(paths)} transcripts are as they were")
    return 1 if changed and not rewrite else 0


if __name__ == "__main__":
    sys.exit(main())
