"""A datanode: one store of the cluster, with a Raft replica of each partition that was put on it.

What is in it, from the middle outwards:

* ``partition.py``, the state of one partition as a machine over its log, without clock or I/O (``commands.py``: what the log holds and
  what applying it came to; ``cursor.py``, ``offsets.py``, ``producers.py``: its parts; ``snapshot_codec.py``: their bytes);
  ``retention.py``, likewise: what is to be done about a log's length;
* ``log/``, the durable log, snapshots and votes of a replica on files;
* ``replica.py``, the machine, its Raft group and those who wait for messages; ``batch_reader.py`` finds stored batches in the log again;
* ``store.py``, the replicas of this store; ``directory.py`` and ``storage.py``, their files; ``disk.py``, ``log_cleaner.py``, what keeps
  room on it;
* ``server.py`` with ``append.py``, ``fetch.py``, ``watch.py``: what others ask; ``store_events.py``: what happened here, and why;
  ``gate.py``: from when on; ``registration.py``: under which id; ``role.py``: the process, in the order in which it opens and goes.

Nobody imports it but its own ``__main__`` and tests: brokers, nameservers and other stores speak to it over gRPC
(proto/stele/v1/datanode.proto, raft.proto).  Begin with ``partition.py``, then ``replica.py``, then ``role.py``.
"""
