"""One part at a time with real neighbours: a real ZooKeeper, real gRPC, real files; in folders named like the parts.

Nothing of ZooKeeper, gRPC or Raft is replaced.  Where a neighbour's faults must be chosen by the test, a stand-in
speaks the real wire (``broker/in_memory_datanodes.py``, ``nameserver/stand_ins.py``); the real ones meet in
``stele`` and in tests/fault.  A worker of the suite starts one ZooKeeper for all of its tests and one more for each
test that kills it (tests/conftest.py); each test has a cluster name of its own.

``coordination`` is where to begin: names, members and elections, each rule both ways.
"""
