"""A whole cluster as real processes on this machine, under one directory: what ``stele cluster`` and `make demo` run.

``cluster.py`` is the place to begin: ``LocalCluster(Path(".stele"))`` starts what does not run, waits until it is
ready, kills, pauses, starts again, stops.  ``processes.py`` is one process, recognised by more than its pid;
``state.py`` is what is remembered on disk; ``zookeeper.py`` finds, installs and runs a ZooKeeper, and is a program
too: ``python -m stele.local.zookeeper --ensure``.

Used by the command, the lab and the tests, from a thread: everything blocks.  It watches nothing: what dies stays
dead until ``start`` or ``up``.  Not for production: one ZooKeeper, on loopback.
"""
