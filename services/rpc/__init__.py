"""gRPC between processes: servers, channels, streams, typed errors, and the way to stores and nameservers.

Guarantee: an error of the tree that a handler raises is raised again at its caller, with the same class and facts; an outcome is
called definite only where it is known that nothing was sent; every call has a deadline and every message a bound.

Who may use it: every part that talks to another process, the client included.  Three modules need the extra ``server``: ``servers``
and ``healthcheck``, which only the roles have, and ``resolver``, by which datanodes find one another.

* ``servers``: one server per port, with health, reflection, limits and typed errors; ``healthcheck`` asks it from a container;
* ``transport``: where both come from, the one place that knows a network;
* ``channels``: one channel per endpoint, and ``call`` for a single request; ``limits``: what one call may carry;
* ``streams``: requests and answers over a bidirectional stream, both ends;
* ``status``: the error tree on the wire; the only module that knows which code of gRPC an error travels under;
* ``nameservers``: calls and the watch of routing, over all nameservers until one answers that leads; ``never_back``
  says which answers are too old for who has had newer ones;
* ``resolution`` decides about a store's address (R2.1 to R2.5), ``resolver`` looks it up.

Begin with ``status``, then ``channels``.
"""
