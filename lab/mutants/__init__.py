"""Parts of the product that are wrong on purpose, one for each way in which a rule is known to be broken.

A test plays its scenario with the product, which must hold, and with a mutant, which must fail: a rule whose test passes with its
mutant is not tested.  The modules go by subject; ``registry`` is the one table of what breaks which rule and how that shows.  A mutant
subclasses what it stands in for and may override its private methods, so it moves with them.  Mutants are not installed.
"""

from stele.lab.mutants.registry import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant"]
