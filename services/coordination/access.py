"""Who a process is to ZooKeeper, what others may do with what it creates there, and how the connection is encrypted.

Guarantee: a secret is nowhere but in its file or variable and in the connection: not in settings, logs, errors or a ``repr``.  Where a CA
is given, nothing is sent before the server has shown a certificate of it for the name that was dialled.

Usage: ``ZooKeeperAccess.of(config.zookeeper_access, os.environ)``, given to the client.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kazoo.security import ACL, CREATOR_ALL_ACL, READ_ACL_UNSAFE, make_acl

from stele.services.config import AccessSettings
from stele.services.errors import InvalidConfig

VARIABLE = "STELE_ZOOKEEPER_CREDENTIALS"
CREDENTIALS_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class ZooKeeperAccess:
    """``credentials``: ``user:password``, or empty; ``others``: what whoever lacks them may do, none, read or all."""

    credentials: str = field(default="", repr=False)
    others: str = "all"
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, settings: AccessSettings, env: Mapping[str, str]) -> Self:
        """InvalidConfig, which names the setting and no secret."""
        credentials = _credentials(settings.zookeeper_credentials_file, env)
        others = settings.zookeeper_acl or ("none" if credentials else "all")
        if others != "all" and not credentials:
            raise InvalidConfig(
                f"zookeeper_acl {others} takes credentials: give zookeeper_credentials_file or the variable {VARIABLE}"
            )
        return cls(credentials, others, _context(settings))

    @property
    def acl(self) -> list[ACL] | None:
        """Of what is created; None: anybody may do anything."""
        if self.others == "all":
            return None
        return [*CREATOR_ALL_ACL, *(READ_ACL_UNSAFE if self.others == "read" else [])]

    @property
    def shared_acl(self) -> list[ACL] | None:
        """Of what holds clusters together: others find theirs, and make it."""
        if self.others == "all":
            return None
        anybody = make_acl("world", "anyone", read=True, create=True)
        return [*CREATOR_ALL_ACL, anybody]


def _credentials(path: str, env: Mapping[str, str]) -> str:
    origin = f"the file {path} that zookeeper_credentials_file names" if path else f"the variable {VARIABLE}"
    try:
        found = Path(path).read_text(encoding="utf-8").strip() if path else env.get(VARIABLE, "").strip()
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise InvalidConfig(f"{origin} cannot be read: {why}") from None
    if not found and not path:
        return ""
    user, _, password = found.partition(":")
    if not (user and password) or len(found) > CREDENTIALS_CHARS_MAX or not found.isprintable():
        raise InvalidConfig(f"{origin} is to hold one line, user:password, of up to {CREDENTIALS_CHARS_MAX} characters")
    return found


def _context(settings: AccessSettings) -> ssl.SSLContext | None:
    if not settings.zookeeper_tls_ca:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies, also that the certificate is of the host
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(settings.zookeeper_tls_ca)
    except (OSError, ssl.SSLError) as e:
        raise InvalidConfig(_unusable("zookeeper_tls_ca", settings.zookeeper_tls_ca, e)) from None
    if settings.zookeeper_tls_cert:
        try:
            # Without a password: nobody is there to be asked for one.
            context.load_cert_chain(settings.zookeeper_tls_cert, settings.zookeeper_tls_key, password="")
        except (OSError, ssl.SSLError) as e:
            files = f"{settings.zookeeper_tls_cert}, {settings.zookeeper_tls_key}"
            raise InvalidConfig(_unusable("zookeeper_tls_cert and zookeeper_tls_key", files, e)) from None
    return context


def _unusable(name: str, files: str, error: OSError) -> str:
    why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or error
    return f"{name} {files} cannot be used: {why}"
