"""The architecture as tests: who may import whom, one name for one thing, documents that say what the code says.

``tree.py`` is the source tree as they see it.  What they enforce is explained in docs/style.md and docs/design.md,
section 3.  Quick, and the first to run after a rename.
"""
