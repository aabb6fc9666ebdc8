"""What Stele's replication and storage cost, each figure a ratio against a named baseline of the same run: ``python -m benchmarks``.

======================  ==========================================================================================
``floor.py``            the machine: pwrite + fdatasync, a bare gRPC stream, the two of them put together
``log_floor.py``        the durable log against pwrite + fdatasync
``stock.py``            PySyncObj as it comes: three processes, TCP, FileJournal
``raft.py``             a group of three processes with the product's registry, transport and storage
``idle.py``             a thousand groups with nothing to do; the same opened after a restart
``failover.py``         the leader killed with -9, fifty times
======================  ==========================================================================================

``children.py`` starts and ends processes, ``node.py``, ``stock_node.py`` and ``floor_node.py`` are what runs in them, ``report.py`` knows
the targets and draws the table.
"""
