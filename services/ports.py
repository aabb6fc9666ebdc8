"""Listening sockets, and why one cannot be had."""

from __future__ import annotations

import errno
import socket

from stele.services.config import join_address
from stele.services.errors import InvalidConfig, PortTaken, SteleError


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
