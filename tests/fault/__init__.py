"""Whole clusters, and a replica's storage, treated badly; then the record of what was acknowledged is compared with
what is there.

``test_kills.py`` kills and pauses each part under load; ``test_full_disk.py`` takes the room away;
``test_retention.py`` kills while messages go; ``bad_input`` and ``test_bad_input_processes.py`` say what makes no
sense.  ``crash.py`` and ``power_loss.py`` are programs as well (`make crash`, `make power-loss`): lives of a
replica's storage, ended with -9 or on a disk that forgets, told apart by seed; ``replica_life.py`` is what they
share and the place to begin with them.

The verdict comes from the client's own record alone (tests/support/ledger.py), never from what servers say of
themselves.
"""
