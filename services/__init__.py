"""What every process stands on; knows nothing of messages.

gRPC reads these two variables once, when it is first imported, so they are set before anything here can import it: its
fork handlers break children that are forked beside a live ``grpc.aio`` loop, and its own log lines are not ours.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
