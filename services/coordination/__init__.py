"""ZooKeeper: sessions, records, names, members and elections.  The only code that imports kazoo.

Nameservers, datanodes and brokers use it; clients never do (they ask nameservers).  Begin with ``session.py``: one per process, the
only door to ZooKeeper.  An answer is present, absent or ``CoordinationUnknown``, from which nothing may be concluded (R1.1).

- the tree: ``schema.py`` says which nodes there are, ``records.py`` what their values are, ``znode.py`` what a node and an operation is.
- reading and writing: ``metadata.py`` for typed records with versions and transactions, ``mirror.py`` for a copy of a subtree that follows.
- being somebody: ``names.py`` (a logical name, at most one live process each, F1) and ``members.py`` (an ephemeral node says that a
  process lives, F5), both by the one loop of ``claim.py``: read, decide, write, read back.  ``incarnation.py`` says what can be proven
  about another run.  ``enrolment.py`` is how a role joins, in which order, and leaves; roles use it rather than the parts.
- leading: ``election.py``; a leadership's transactions carry its epoch, so that a deposed leader's are refused.
- below the session: ``access.py``, credentials, ACLs and TLS; ``kazoo_client.py``, kazoo with the facts that it keeps to itself;
  ``subscribers.py``, callbacks of one kind.
"""
