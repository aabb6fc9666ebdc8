"""The tests, by what they need and what they may break.

======================  ===========================================================================================
``unit``                pure cores, storage on a simulated disk, replicas moved by hand; no process, no ZooKeeper.
                        ``unit/layout`` holds the architecture: who may import whom, what documents say of the code
``simulation``          whole replicas under virtual time, with faults drawn from a seed
``integration``         one part with real neighbours: a real ZooKeeper, real gRPC, real files
``fault``               whole clusters of processes, killed, paused, starved of disk, and talked to badly
``fuzz``                the decoders of what stands on disk, against damaged bytes
``e2e``                 the cluster in containers, where a Docker engine answers
``support``             what they share: a cluster in a test, disks that forget, waiting with a deadline
======================  ===========================================================================================

Guarantee: every wait has a deadline and says what it waited for; no test needs another one, or an order.  A rule of
docs/reference (R4.2, H7) is tested twice: the product holds, and a part that is wrong on purpose fails the same
scenario (``support/both_ways.py``).

Begin with ``unit/coordination/test_decisions.py`` (a table of cases), then
``integration/coordination/test_names.py`` (the same rules against ZooKeeper, both ways), then
``fault/test_kills.py``.  How to run one: CONTRIBUTING.md.
"""
