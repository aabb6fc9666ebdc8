"""What every process stands on; knows nothing of messages.

gRPC reads these variables once, when it is first imported, so they are set before anything here can import it: its
fork handlers break children that are forked beside a live ``grpc.aio`` loop, and its own log lines are not ours.  Its event
engine hands every read and write to threads of its own, six switches for one exchange on a stream; the pollers that it had
before do the same in two thirds of the time (docs/explanation/performance.md).
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
