"""Stele as somebody gets it who installs the wheel into a project of their own, with a ``services/``, ``broker/`` and ``lab/`` in it.

``installation.py`` builds the wheel and makes environments without anything else in them: the client with the oldest versions that
pyproject.toml admits, the client with those that constraints.txt pins (the newest that is known to work; what came out since would
fail by chance), and the server with the oldest, which runs the cluster that both clients talk to.  Everything is started there, from
the project's folder, in processes that know nothing of this checkout.
"""
