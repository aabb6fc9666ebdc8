"""What Stele's replication and storage cost, each figure a ratio against a named baseline of the same run: ``python -m
benchmarks``.

======================  ==========================================================================================
``log_floor.py``        the durable log against pwrite + fdatasync
``raft.py``             a group of three processes under load, against stock PySyncObj and the machine without Raft
``idle.py``             a thousand groups with nothing to do; the same opened after a restart
``failover.py``         the leader killed with -9, fifty times
======================  ==========================================================================================

Contestants take turns in one run, so that a slow moment of the machine meets all of them; figures of two runs are
not compared. ``clusters.py`` has the contestants as groups of three processes, ``loads.py`` what they carry;
``node.py``, ``stock_node.py`` and ``floor_node.py`` run in those processes, which ``children.py`` starts and ends;
``report.py`` knows the targets and draws the table. Begin with ``raft.py``.  ``results`` keeps runs that documents
quote; what the figures mean stands in docs/explanation/performance.md.

Nothing imports this package but its own test, tests/unit/test_benchmarks.py.
"""

from stele.services import own_process

own_process.settle()  # BEFORE any module in here imports gRPC
