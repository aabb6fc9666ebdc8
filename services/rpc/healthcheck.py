"""Asks a process's health service whether it serves: the health check of a container.

    python -m stele.services.rpc.healthcheck [HOST:PORT] [--timeout SECONDS]

Exit status 0 if it answers SERVING, 1 with one line on stderr if it answers anything else or not in time, 2 for an
address that is none.  Without an address it asks this host at the port in STELE_PORT, where a container's process
listens.

It imports nothing but gRPC and the health stubs and runs no event loop: an engine starts it anew every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 5.0


def serving(endpoint: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """None if the process at ``endpoint`` serves, else one line that says why not."""
    with grpc.insecure_channel(endpoint, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{endpoint}: {error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{endpoint}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def main(argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    parser = argparse.ArgumentParser(
        "python -m stele.services.rpc.healthcheck", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("endpoint", nargs="?", help="HOST:PORT; default: 127.0.0.1 and the port in STELE_PORT")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="default: %(default)s")
    options = parser.parse_args(argv)
    endpoint = options.endpoint or f"127.0.0.1:{env.get('STELE_PORT', '')}"
    if not endpoint.rpartition(":")[2].isdigit():
        parser.error(f"{endpoint!r} is not HOST:PORT, and STELE_PORT names no port")
    trouble = serving(endpoint, options.timeout)
    if trouble is not None:
        print(trouble, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
