"""The whole cluster in one process under virtual time: nameservers, datanodes, brokers and clients of the SDK.

Guarantee: a run is a function of its options, event for event, in any process that hashes strings alike (PYTHONHASHSEED=0).

``world.py`` is a run and the place to begin; ``plan.py`` draws what goes wrong, ``faults.py`` does it; ``workload.py`` is what the clients
do, ``ledger.py`` what they were promised, ``checks.py`` what else must hold: ``durable.py`` of disks, ``applied.py`` of replicas,
``views.py`` of what the nameservers say, ``bounds.py`` of queues and memory; ``watch.py`` is where they look into the product.
``process.py`` is a process of the product, ``settings.py``
what it is told, ``ambient.py`` what it takes from its machine without asking, ``disk.py`` its disk, ``rpc`` the network,
``tests/simulation/zookeeper`` ZooKeeper.  ``spacetime.py`` draws a run.

    python -m tests.simulation.cluster --runs 200 --seed 0       as `make sim-cluster`
"""
