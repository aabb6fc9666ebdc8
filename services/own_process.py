"""What gRPC is told in a process that is Stele's own: a role, the command ``stele``, the demonstration, the benchmarks.

Guarantee: ``settle`` sets only what the environment does not, and in this process and its children alone; the client never calls it: its
process is its user's.  gRPC reads these variables once, when it is first imported, so ``settle`` comes BEFORE the first import of it.
"""

import os

# gRPC's fork handlers serve nobody here, and its own log lines are not ours.  Its event engine hands every read and write to threads of its
# own, six switches for one exchange on a stream; the pollers that it had before do the same in two thirds of the time
# (docs/explanation/performance.md).
GRPC = {
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
}


def settle() -> None:
    for name, value in GRPC.items():
        os.environ.setdefault(name, value)
