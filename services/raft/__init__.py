"""Raft for many groups of one store: replicas that agree on a log, on the caller's event loop and storage.

Guarantee: an entry that was acknowledged is in the log of every later leader, whatever crashes, pauses, cuts and
power losses come in between.  Nothing here knows what entries mean: the caller gives a state machine
(``state_machine.py``) and storage (``storage.py``).

``registry.py`` is how it is used: the groups of one store, created once, deleted for good, behind the gate over
elections.  A ``group.py`` is one replica as futures on the loop; its turns come from ``ticker.py``, its flushes go
through ``journal.py``, ``snapshotting.py`` takes and installs its snapshots, ``transport.py`` carries messages
(``links.py``, ``liveness.py``, ``snapshot_transfer.py``).

``engine.py`` is the place to begin to read: one replica without clock, socket, thread or disk, and on one page which
correction stands in which file and function.  It owns the parts and decides in what order they are asked:
``election.py``, ``replication.py`` with a ``progress.py`` for each follower, ``follower.py``, ``snapshot_offer.py``,
``read_index.py``, ``quiescence.py``, ``proposals.py``, ``applier.py``, ``recovery.py``, ``catch_up.py``,
``outbox.py``; ``membership.py`` and ``quorum.py`` are functions of values.  ``pysyncobj_adapter.py`` alone knows the
library, of which terms, states and the voting rule remain.

Used by datanodes, which give it their logs and partitions; by the simulator, which gives it time, wire and disks of
its own; by the benchmarks.  The rules: docs/reference/raft.md (H1 to H18).
"""
