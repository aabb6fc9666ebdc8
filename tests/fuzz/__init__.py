"""Fuzzing of everything that reads bytes which a crash, a bad disk or another store may have made.

For any input a decoder gives its typed error, or exactly what was written; it never hangs and never takes the memory
that damaged bytes claim.  ``targets.py`` lists the decoders and is where a new one is added, ``seeds.py`` has right
inputs for each; ``test_fuzz.py`` runs them a little in the suite, ``python -m tests.fuzz`` (`make fuzz`) for as long
as one likes, led by coverage.
"""
