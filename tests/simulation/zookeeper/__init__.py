"""A simulated ZooKeeper, for whole processes under virtual time.

Guarantee: what the product asks through its Session is answered as a real server answers it; a test plays the same operations against
both.  ``ensemble.py`` is all of it and the place where it is made to fail, ``server.py`` one server, ``tree.py`` what a request does to the
tree (pure), ``client.py`` kazoo's own client without socket and threads, ``wire.py`` what crosses between the two.

    ensemble = Ensemble(scheduler, random.Random(1))
    session = Session("zk:2181", "test", 4.0, connect=clients_of(ensemble, process, random.Random(2)))
"""
