"""Listening sockets, and why one cannot be had."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Collection

from stele.services.config import join_address
from stele.services.errors import InvalidConfig, PortTaken, SteleError

FREE_FIRST = 20_000
FREE_ATTEMPTS_MAX = 200


def bind(host: str, port: int, *, setting: str = "port") -> socket.socket:
    """A bound, not yet listening TCP socket; port 0: chosen by the system.  Raises PortTaken or InvalidConfig."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as e:
        raise InvalidConfig(f"host {host} cannot be resolved: {e.strerror}", host=host) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        return listening
    except OSError as e:
        listening.close()
        raise why_not(host, port, e, setting) from None


def why_not(host: str, port: int, error: OSError, setting: str = "port") -> SteleError:
    """The typed error for a failed bind."""
    endpoint = join_address(host, port)
    if error.errno == errno.EADDRINUSE:
        return PortTaken(f"{endpoint} is in use by another process", endpoint=endpoint, setting=setting)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidConfig(f"host {host} is not an address of this machine", host=host)
    if error.errno in (errno.EACCES, errno.EPERM):
        return InvalidConfig(f"{endpoint} cannot be opened: ports below 1024 need privileges", endpoint=endpoint)
    return InvalidConfig(f"{endpoint} cannot be opened: {error.strerror}", endpoint=endpoint)


def free_port(avoid: Collection[int] = (), host: str = "127.0.0.1") -> int:
    """A port that nobody uses and that the system does not hand to outgoing connections, so that it is still free when a killed
    process comes back to it."""
    last = _ephemeral_first() - 1
    for _ in range(FREE_ATTEMPTS_MAX):
        port = random.randint(FREE_FIRST, last) if last > FREE_FIRST + 1000 else 0
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind((host, port))
                port = int(s.getsockname()[1])
                if port not in avoid:
                    return port
    raise OSError(f"no free port found in {FREE_ATTEMPTS_MAX} attempts")


def free_ports(count: int) -> list[int]:
    """That many different ones."""
    found: list[int] = []
    while len(found) < count:
        found.append(free_port(found))
    return found


def _ephemeral_first() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
