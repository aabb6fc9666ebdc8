"""Tests without processes, sockets or ZooKeeper, in folders named like the parts that they test.

Cores are tested event by event (``broker/test_subscription.py``), by tables of cases
(``coordination/test_decisions.py``), against a model under random events (``broker/test_pipeline_properties.py``),
and storage on a disk that forgets (``log/test_power_loss.py``). ``raft`` moves replicas by hand and compares what
they say with golden transcripts; ``layout`` tests the tree itself.

They are quick: run all of them, ``make test-unit``, before anything slower.
"""
