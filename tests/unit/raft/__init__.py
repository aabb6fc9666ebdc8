"""Replicas of the Raft layer moved by hand: one clock, messages delivered and disks synced when the test says so.

``bench.py`` moves them, ``platter.py`` is storage that forgets.  ``test_corrections.py`` plays each hole of the
library against the corrected engine (docs/reference lists them, H1 to H18); ``transcripts`` holds ten scenarios
message for message, and ``transcript.py`` says how they are read and written again after a change that is meant to
change them.
"""
