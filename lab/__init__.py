"""The lab: real clusters, faults, the client's own record of what happened, and the verdict drawn from it.

``lab/mutants`` holds deliberately wrong versions of product code; tests inject them to prove that they can fail.
"""
