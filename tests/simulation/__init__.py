"""Whole replicas of the product under virtual time: what was acknowledged stays, whatever fails and in whatever order.

Guarantee: a run is a function of its seed and options, event for event, in any process; a violation is printed with
the fewest faults that show it and the command that replays it.

``world.py`` is a run and the place to begin.  ``plan.py`` draws what goes wrong, ``faults.py`` does it;
``scheduler.py`` and ``loop.py`` are time, ``network.py`` and ``transfer.py`` the wire, ``process.py`` a store with
the product's own registry, engine, journal and partition; ``workload.py`` and ``clients.py`` ask for things and
remember what they were promised; ``checks.py`` is what must hold after every event, ``durable.py`` what a disk holds
for certain, ``bounds.py`` what bounds memory, which ``pressure.py`` makes small.  ``companions.py`` are other groups on
the same stores, ``shared_links.py`` the links that all of them share.  ``runner.py`` spreads seeds
over processors, ``shrink.py`` makes a finding small, ``selfproof.py`` switches each correction off and demands that
it is noticed, ``stock.py`` runs the library uncorrected.

    python -m tests.simulation --runs 1000 --seed 0       as `make sim`
    python -m tests.simulation.selfproof H4               as `make sim-proof`

What it has shown, and what it does not show: docs/explanation/correctness.md.
"""
