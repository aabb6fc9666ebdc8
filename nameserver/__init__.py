"""The nameserver: the cluster's control plane.  One of them leads, elected in ZooKeeper; every one answers reads.

It holds no data of its own: the truth is ZooKeeper's records and what the datanodes report.  Nobody but ``python -m stele.nameserver``,
the tests and the mutants imports it; other processes meet it on the wire (proto/stele/v1/nameserver.proto).

Begin with ``role.py``: what the process opens, in which order.  From there:

- what is known: ``clusterview.py`` replaces one view (``view.py``) by the next.  A view is made of a catalog (``catalog.py``: the records,
  which ``catalog_reader.py`` reads from mirrors) and of reports (``reports.py``: the datanodes' messages, which ``storewatch.py``
  receives).  ``events.py`` derives from two catalogs what happened in between, ``causes.py`` says why, ``event_buffer.py``
  keeps the newest.
- what is answered: ``server.py``, the service; reads from the view, writes by the leader, here or forwarded.
- what the leader does: ``controller.py``, one per leadership.  ``reconcile.py`` and ``bundle_assignment.py`` decide what is due,
  ``placement.py`` where replicas go, ``ids.py`` under which ids; ``topic_writer.py``, ``bundle_writer.py`` and ``stores.py`` carry it
  into ZooKeeper, each write fenced by the leader's epoch; ``replicas.py`` sends orders to datanodes; ``probes.py`` watches brokers.

Decisions are functions of catalogs and reports alone; the modules that carry them out decide nothing by themselves.
"""
