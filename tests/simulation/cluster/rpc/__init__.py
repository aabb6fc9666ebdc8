"""gRPC under virtual time: the product's ``Transport`` over a simulated network.

``network.py`` is hosts, ports, connections and their faults; ``flow.py`` the flow control of one stream; ``client.py`` and ``server.py``
stand for gRPC's compiled core, below and beside the Python of ``grpc.aio``, of which the client's half is used as it is; ``transport.py``
is what a process is given.  tests/integration/rpc/test_simulated.py puts the same scenarios through this and through gRPC.
"""
