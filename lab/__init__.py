"""The lab: real clusters, faults, the client's own record of what happened, and the verdict drawn from it.

``demonstration.py`` is a whole run and the place to begin; ``demo.py`` starts it (`make demo`) and says what is
missing where it cannot.  ``load.py`` produces and consumes, ``faults.py`` kills and pauses the process that matters
when the fault is due, ``history.py`` is what the client saw, ``checker.py`` the verdict over it, ``report.py`` the
timeline and the table.  ``chaos.py`` draws faults from a seed (`make chaos`); ``links.py`` cuts the link between two processes.

Guarantee: the verdict comes from the client's record and a final read alone, never from what servers say of
themselves; a message counts as lost, duplicated or out of order by what was *acknowledged*.

``lab/mutants`` is a package of its own: parts of the product that are wrong on purpose.  Tests inject them to prove
that they can fail; they are not installed.

Stands on the client and on services; nothing but tests imports it.
"""
