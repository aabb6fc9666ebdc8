"""What every process stands on: errors, settings, time, the life of a process, and the ways to ZooKeeper, to Raft and to one another.

Who may use it: every part, and it uses none of them; it knows bytes, groups and names, never what a message means to a user.  The
client runs inside programs of others and takes only what needs no library of the extra ``server`` (tests/unit/layout/test_client_alone.py).

* values and decisions: ``errors`` (the one tree; every failure that leaves a part is in it), ``topics``, ``bundles``, ``batch``,
  ``units``, ``backoff``; time and randomness are passed in as ``clock`` and ``rng`` name them;
* the life of a process: ``process`` (start, ready, drain, stop), ``own_process`` (what gRPC is told), ``config`` and ``settings``,
  ``ready``, ``metrics``, ``ports``, ``malloc``, ``logs`` and ``library_log``, ``extras``;
* tasks and files: ``tasks``, ``keyed_lock``, ``files`` (a Protocol, so that tests can lie), ``json_files``, ``directory_lock``;
* packages: ``rpc`` (gRPC), ``coordination`` (the only one that knows ZooKeeper), ``raft`` (the only one that knows PySyncObj), ``pb``
  (generated from proto/).

Begin with ``errors``: its docstrings say of every failure whether it is definite and whether to try again; then ``process``, which
every role's ``__main__`` calls.
"""
