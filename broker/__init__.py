"""A broker: the front door for producers and consumers of the topics whose bundles it owns.  It keeps nothing that it cannot lose.

What is in it, from the outside inwards::

    role.py                what the process opens, in which order, and how it goes
    server.py              the gRPC service: requests in, answers out, nothing decided
    owned_partitions.py    the partitions it serves, each under the owner epoch of its bundle
      produce.py           one partition's appends: carries out what pipeline.py decides
      dispatch.py          one partition's subscriptions: carries out what subscription.py decides
        consumer.py        one consumer's stream: what it is still to be sent
        log_reader.py      reads stored batches for all of them, through cache.py
    partition_client.py    a partition's replicas: finding the leader, calling it, reading from any
    datanode_clients.py    a datanode's streams and calls

The decisions know no clock and no socket, and hold the guarantees: ``pipeline`` (order and outcome of appends), ``subscription`` with
``ranges`` (who gets which message, what is acknowledged), ``ownership`` (which bundles, under which epoch), ``cache``.  Each says its
guarantee at its head.

Who may use it: nobody imports it but ``python -m stele.broker``, its tests and the mutants (lab/mutants).  It imports
``stele.services`` alone; datanodes and nameservers it knows by their messages.

Where to begin: docs/design.md, section 7 (the life of a message), then pipeline.py and subscription.py with their tests in
tests/unit/broker; tests/integration/broker runs a broker against datanodes in memory.
"""
