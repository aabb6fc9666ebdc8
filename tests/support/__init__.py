"""What tests of several kinds share; nothing of the product imports it.

``cluster.py``      a local cluster of processes in a test: ``await cluster.kill("dn2")``
``eventually.py``   waiting with a deadline; there are no bare sleeps in tests
``both_ways.py``    a rule's scenario, played with the product and with a part that is wrong on purpose
``ledger.py``       what a test was told is stored, and whether it still is
``disks.py``        a disk that forgets what was not synced, as strictly as POSIX allows
``zookeeper.py``    real servers: one per worker, one per test that kills it
``bad_input.py``    what must hold whatever a caller says
"""
