"""The command ``stele``: one module for each group of commands, all of them thin.

A command reads its options, runs one piece of work with a connected client (``options.with_client``) or with the
local cluster, and shows what came of it.  Data goes to standard output, everything else to standard error; ``-o
json`` prints the client's own values.  An error of the tree ends a command with one line that says what to do, and
with status 1 (2: the command was not understood).

Begin with ``main.py``, the tree of commands, and ``options.py``, what all of them share; ``output.py`` prints,
``units.py`` reads sizes and spans of time.  A new command needs a docstring (its help), ``examples(...)`` and a line
in the tree; its page, docs/reference/cli.md, follows by `make docs`.

Nothing imports this package: what a program wants of a cluster is in ``stele`` itself.
"""

from stele.services import own_process

own_process.settle()  # BEFORE any module in here imports gRPC
