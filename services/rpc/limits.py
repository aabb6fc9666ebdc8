"""The bound on what one call may carry, on both of its sides."""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES_MAX: Final = 8 << 20  # of one gRPC message; every other size stays below it
