"""A ZooKeeper that speaks TLS beside its open port, and certificates for it, made by openssl."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stele.local.zookeeper import Jvm, ZooKeeperServer, find_jvm
from stele.services.ports import free_port

# What Debian's package of ZooKeeper leaves out of its class path and Netty's TLS takes.
NETTY = [f"/usr/share/java/netty-{part}.jar" for part in ("codec", "resolver", "tcnative")]
SETTINGS = """serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
secureClientPort={port}
secureClientPortAddress=127.0.0.1
ssl.keyStore.location=server.pem
ssl.keyStore.type=PEM
ssl.trustStore.location=ca.pem
ssl.trustStore.type=PEM
ssl.clientAuth=need
"""


class Certificates:
    """A CA in ``folder``, and what it has signed: for the address 127.0.0.1 alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl(
            "req", "-x509", *_NEW_KEY, "ca.key", "-out", "ca.pem", "-days", "2", "-subj", f"/CN=ca of {folder.name}"
        )
        self.ca = folder / "ca.pem"

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        self._openssl("req", *_NEW_KEY, f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes", "-keyout")


class SecureZooKeeper(ZooKeeperServer):
    def __init__(self, directory: Path, certificates: Certificates) -> None:
        found = find_jvm()
        assert found is not None
        super().__init__(
            directory, sync=False, using=Jvm(found.java, ":".join([found.classpath, *NETTY]), found.source)
        )
        self.secure_port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = certificates.sign("server")
        (directory / "server.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
        shutil.copy(certificates.ca, directory / "ca.pem")

    @property
    def secure_hosts(self) -> str:
        return f"127.0.0.1:{self.secure_port}"

    def _settings(self, data: str = "", address: str = "127.0.0.1", port: int = 0) -> str:
        return super()._settings(data, address, port) + SETTINGS.format(port=self.secure_port)


@contextlib.contextmanager
def secure_server() -> Iterator[tuple[SecureZooKeeper, Certificates]]:
    """A server of its own, gone with its data afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="stele-test-zookeeper-"))
    certificates = Certificates(folder / "certificates")
    server = SecureZooKeeper(folder / "server", certificates)
    try:
        server.start()
        yield server, certificates
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
