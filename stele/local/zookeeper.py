"""A ZooKeeper server on this machine: found, installed, started, killed.

Guarantee: ``ZooKeeperServer`` runs a real ZooKeeper that outlives the process which started it, keeps its data and port over
restarts, and is found again through its directory alone, by any process.  A pid is signalled only after the running process
has been recognised by that directory, so a reused pid is never hit.

Usage: ``server = ZooKeeperServer(Path(".stele/zk1")); server.start(); server.hosts``.  ``python -m stele.local.zookeeper --ensure``
makes sure that there is a ZooKeeper to run and says which.

Several of them, each given the others as ``peers``, are an ensemble (ensemble.py).  All on loopback, for development and tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from stele.local import apt
from stele.local.processes import reap
from stele.services.errors import PortTaken, StorageFailed, Timeout, ToolMissing
from stele.services.json_files import write_json
from stele.services.ports import free_port

OFFICIAL_IMAGE, OWN_IMAGE = "zookeeper:3.9", "stele-zookeeper"  # the second is built from deploy/zookeeper
DEBIAN_JAR_FOLDERS = ("/usr/share/java", "/usr/share/java/zookeeper")
HOME_CANDIDATES = (
    "/opt/homebrew/opt/zookeeper/libexec",
    "/usr/local/opt/zookeeper/libexec",
    "/opt/zookeeper",
    "/usr/share/zookeeper",
)
MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
WAYS = (
    "By hand: Debian/Ubuntu: sudo apt-get install zookeeper default-jre-headless | "
    "Fedora: sudo dnf install zookeeper (or java-21-openjdk-headless and ZOOKEEPER_HOME=<unpacked Apache ZooKeeper>) | "
    "macOS: brew install zookeeper | or start Docker, or set STELE_ZOOKEEPER=host:port"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A server that somebody else runs (``STELE_ZOOKEEPER``)."""

    hosts: str

    def __str__(self) -> str:
        return f"given by STELE_ZOOKEEPER: {self.hosts}"


@dataclass(frozen=True, slots=True)
class Jvm:
    """Jars and a Java runtime of this machine."""

    java: str
    classpath: str
    source: str

    def __str__(self) -> str:
        return f"JVM server from {self.source}"


@dataclass(frozen=True, slots=True)
class Container:
    """An image that a Docker engine runs."""

    docker: str
    image: str = OFFICIAL_IMAGE

    def __str__(self) -> str:
        return f"container {self.image}"


Local = Jvm | Container


def find_jvm(env: Mapping[str, str] = os.environ) -> Jvm | None:
    """Jars of a distribution's package, of ZOOKEEPER_HOME, of Homebrew, or beside a ``zkServer.sh`` on the PATH."""
    java = _java(env)
    if java is None:
        return None
    for home in _homes(env):
        jars = sorted({*home.glob("lib/*.jar"), *home.glob("zookeeper*.jar")})
        if any(jar.name.startswith("zookeeper-") for jar in jars):
            return Jvm(java, ":".join(map(str, jars)), str(home))
    for folder in map(Path, DEBIAN_JAR_FOLDERS):
        if (folder / "zookeeper.jar").exists():
            # The package's manifest names its dependencies but no logging backend.
            quiet = next(
                (p for n in ("slf4j-simple.jar", "slf4j-nop.jar") if (p := folder.parent / "java" / n).exists()), None
            )
            jars = [folder / "zookeeper.jar", *([quiet] if quiet else []), *sorted(folder.glob("zookeeper-jute.jar"))]
            return Jvm(java, ":".join(map(str, jars)), str(folder / "zookeeper.jar"))
    return None


def _java(env: Mapping[str, str]) -> str | None:
    home = env.get("JAVA_HOME")
    if home and os.access(Path(home) / "bin" / "java", os.X_OK):
        return str(Path(home) / "bin" / "java")
    for candidate in (shutil.which("java"), "/opt/homebrew/opt/openjdk/bin/java", "/usr/local/opt/openjdk/bin/java"):
        # macOS ships a /usr/bin/java that only says that there is none.
        if candidate and os.access(candidate, os.X_OK) and _runs([candidate, "-version"]):
            return candidate
    return None


def _homes(env: Mapping[str, str]) -> list[Path]:
    homes = [Path(env["ZOOKEEPER_HOME"])] if env.get("ZOOKEEPER_HOME") else []
    for script in ("zkServer.sh", "zkServer"):
        if found := shutil.which(script):
            homes += [Path(found).resolve().parent.parent, Path(found).resolve().parent.parent / "libexec"]
    return homes + [Path(p) for p in HOME_CANDIDATES]


def find_container() -> Container | None:
    """A Docker engine that answers and has the image or can pull it."""
    docker = shutil.which("docker")
    if docker is None or not _runs([docker, "info"]):
        return None
    for image in (OFFICIAL_IMAGE, OWN_IMAGE):
        if _runs([docker, "image", "inspect", image]):
            return Container(docker, image)
    return Container(docker) if _runs([docker, "pull", "--quiet", OFFICIAL_IMAGE], timeout_s=300) else None


def _runs(command: Sequence[str], timeout_s: float = 20) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install() -> str:
    """Installs ZooKeeper with the system's package manager; "" when that went well, else why not."""
    manager = next((name for name in ("apt-get", "dnf", "brew") if shutil.which(name)), None)
    if manager is None:
        return "this system has none of apt-get, dnf and brew"
    if manager == "brew":
        return _shown(["brew", "install", "zookeeper"])
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and not (shutil.which("sudo") and _runs(["sudo", "-n", "true"])):
        return "that takes root, or a sudo that asks for no password"
    if manager == "apt-get":
        return apt.install(["zookeeper", "default-jre-headless"], as_root=as_root)
    return _shown([*as_root, "dnf", "install", "-y", "-q", "zookeeper"])


def _shown(command: Sequence[str]) -> str:
    """Runs a command before the user's eyes; "" when it went well, else its last line."""
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout or ():
            sys.stderr.write(line)
            last = line.strip() or last
    return (last or f"{command[0]} ended with status {running.returncode}") if running.returncode else ""


def ensure_local(env: Mapping[str, str] = os.environ) -> Local:
    """Something that can be started here; installs it if need be; ToolMissing in one line otherwise."""
    found: Local | None = find_jvm(env)
    why = ""
    if found is None and not (why := install()):
        found = find_jvm(env)
        why = "the packages were installed, and there is no ZooKeeper in them"
    found = found or find_container()
    if found is None:
        raise ToolMissing(f"ZooKeeper could not be installed: {why}. {WAYS}")
    return found


def ensure(env: Mapping[str, str] = os.environ) -> Given | Local:
    """What ``STELE_ZOOKEEPER`` names, else ``ensure_local``."""
    if hosts := env.get("STELE_ZOOKEEPER"):
        return Given(hosts)
    return ensure_local(env)


def four_letters(hosts: str, word: str, timeout_s: float = 1.0) -> str:
    """The answer to a four-letter word (``ruok``, ``srvr``); "" where there is none."""
    host, _, port = hosts.split(",")[0].split("/")[0].rpartition(":")
    try:
        with socket.create_connection((host or "127.0.0.1", int(port)), timeout=timeout_s) as s:
            s.settimeout(timeout_s)
            s.sendall(word.encode())
            answer = b""
            while chunk := s.recv(4096):
                answer += chunk
            return answer.decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the directory remembers between processes."""

    port: int = 0
    pid: int = 0
    container: str = ""
    quorum_port: int = 0
    election_port: int = 0


class ZooKeeperServer:
    """One ZooKeeper over ``directory``.  Blocking; the ``async_`` forms run in a thread.  ``port=0`` chooses a free one at the first
    start and keeps it."""

    def __init__(
        self, directory: Path, port: int = 0, *, tick_ms: int = 500, sync: bool = True, using: Local | None = None
    ) -> None:
        self.directory = directory.resolve()
        self.tick_ms = tick_ms
        self.sync = sync
        self._using = using
        self._state_file = self.directory / "zookeeper.json"
        kept = self._kept()
        self.port = port or kept.port
        self.pid = kept.pid
        self._container = kept.container
        self.quorum_port, self.election_port = kept.quorum_port, kept.election_port
        self.peers: Sequence[ZooKeeperServer] = ()  # every server of its ensemble, itself too; empty: it is alone

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.directory / "zookeeper.log"

    @property
    def is_running(self) -> bool:
        if self._container:
            shown = subprocess.run(
                ["docker", "inspect", "-f", "{{.State.Running}}", self._container],
                capture_output=True,
                text=True,
                check=False,
            )
            return shown.stdout.strip() == "true"
        if not self.pid:
            return False
        if self._mark in _command_of(self.pid):
            return True
        reap(self.pid)
        return False

    @property
    def _mark(self) -> str:
        """By which its process is known, whoever looks."""
        return f"-Dstele.directory={self.directory}"

    def mode(self) -> str:
        """What it serves as: standalone, or in an ensemble leader or follower; "" while no client can open a session."""
        found = re.search(r"^Mode: (\w+)", four_letters(self.hosts, "srvr"), re.MULTILINE)
        return found[1] if found is not None else ""

    def serves(self) -> bool:
        return bool(self.mode())

    def begin(self) -> None:
        """Starts its process unless it runs, and waits for nothing: of an ensemble none serves before most of it runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.is_running:
            self._launch()

    def start(self, within_s: float = 60.0) -> ZooKeeperServer:
        """Starts it unless it runs, and returns when it serves.  Timeout otherwise, with the end of its log."""
        self.directory.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + within_s
        fixed = self.port != 0
        while not self.is_running:
            if not fixed:
                self.port = free_port()
            self._launch()
            while self.is_running and not self.serves() and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.is_running:
                break
            in_use = "BindException" in self.log_end(lines=1000)
            if in_use and fixed:
                raise PortTaken(f"ZooKeeper cannot listen on {self.hosts}: the port is in use", endpoint=self.hosts)
            if not in_use or time.monotonic() > deadline:
                raise StorageFailed(f"ZooKeeper ended while starting; {self.log_path} ends:\n{self.log_end()}")
        while not self.serves():
            if time.monotonic() > deadline:
                raise Timeout(
                    f"ZooKeeper did not serve on {self.hosts} within {within_s} s; {self.log_path} ends:\n{self.log_end()}"
                )
            time.sleep(0.05)
        return self

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Sends a signal; returns at once except for SIGKILL, after which the process is gone."""
        if not self.is_running:
            return
        if self._container:
            subprocess.run(
                ["docker", "kill", "-s", str(int(signal_number)), self._container], capture_output=True, check=False
            )
        else:
            os.kill(self.pid, signal_number)
        if signal_number == signal.SIGKILL:
            self._wait_gone(10.0)

    def stop(self, within_s: float = 10.0) -> None:
        """Ends it, kindly first.  Its data stay."""
        if self.is_running:
            self.kill(signal.SIGCONT)
            self.kill(signal.SIGTERM)
            if not self._wait_gone(within_s):
                self.kill(signal.SIGKILL)
        if self._container:
            subprocess.run(["docker", "rm", "-f", self._container], capture_output=True, check=False)
            self._container = ""
        self.pid = 0
        self.keep()

    def restart(self, within_s: float = 60.0) -> ZooKeeperServer:
        """Kills it and starts it again on the same data and port."""
        self.kill(signal.SIGKILL)
        return self.start(within_s)

    async def async_start(self, within_s: float = 60.0) -> ZooKeeperServer:
        return await asyncio.to_thread(self.start, within_s)

    async def async_stop(self, within_s: float = 10.0) -> None:
        await asyncio.to_thread(self.stop, within_s)

    async def async_restart(self, within_s: float = 60.0) -> ZooKeeperServer:
        return await asyncio.to_thread(self.restart, within_s)

    def log_end(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _launch(self) -> None:
        using = self._using or ensure_local()
        if isinstance(using, Container):
            self._launch_container(using)
        else:
            self._launch_jvm(using)
        self.keep()

    def _launch_jvm(self, jvm: Jvm) -> None:
        (self.directory / "conf").mkdir(exist_ok=True)
        (self.directory / "data").mkdir(exist_ok=True)
        (self.directory / "zoo.cfg").write_text(self._settings() + self._ensemble())
        if self.peers:
            (self.directory / "data" / "myid").write_text(f"{self.peers.index(self) + 1}\n")
        (self.directory / "conf" / "logback.xml").write_text(_LOGBACK)
        (self.directory / "conf" / "log4j.properties").write_text(_LOG4J)
        # No path but these is named, and they as seen from its directory: what that is called is for nobody to read as settings, as a
        # list of paths, or in another encoding than its own.
        command = [
            jvm.java,
            self._mark,
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dzookeeper.preAllocSize=1024",
            f"-Dzookeeper.forceSync={'yes' if self.sync else 'no'}",
            "-cp",
            f"conf:{jvm.classpath}",
            MAIN_CLASS,
            "zoo.cfg",
        ]
        with self.log_path.open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C.UTF-8"},  # in which it reads the name of where it runs
                start_new_session=True,  # a closed terminal or a Ctrl-C of its starter does not end it
            )
        child.returncode = 0  # this object is dropped; the process is known by its mark
        self.pid, self._container = child.pid, ""

    def _launch_container(self, container: Container) -> None:
        if self.peers:
            raise ToolMissing(f"several ZooKeepers are started from packages alone, not from {container.image}. {WAYS}")
        (self.directory / "data").mkdir(exist_ok=True)
        (self.directory / "zoo.cfg").write_text(self._settings(data="/data", address="0.0.0.0", port=2181))
        name = self._container or f"stele-zookeeper-{self.port}"
        subprocess.run([container.docker, "rm", "-f", name], capture_output=True, check=False)
        command = [container.docker, "run", "-d", "--name", name, "--memory", "512m"]
        command += ["--user", f"{os.getuid()}:{os.getgid()}"]  # its data stay ours to delete
        command += ["-p", f"127.0.0.1:{self.port}:2181", "-v", f"{self.directory / 'data'}:/data"]
        command += ["-v", f"{self.directory / 'zoo.cfg'}:/conf/zoo.cfg:ro", container.image]
        command += ["/conf/zoo.cfg"] if container.image == OWN_IMAGE else []
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise ToolMissing(f"Docker could not start {container.image}: {ran.stderr.strip()}")
        self.pid, self._container = 0, name

    def _settings(self, data: str = "", address: str = "127.0.0.1", port: int = 0) -> str:
        return (
            f"tickTime={self.tick_ms}\nminSessionTimeout=1000\nmaxSessionTimeout=60000\n"
            f"dataDir={data or './data'}\nclientPort={port or self.port}\nclientPortAddress={address}\n"
            "admin.enableServer=false\n4lw.commands.whitelist=ruok,srvr,mntr,cons,wchs\nmaxClientCnxns=0\n"
            "autopurge.purgeInterval=1\nautopurge.snapRetainCount=3\nextendedTypesEnabled=false\n"
        )

    def _ensemble(self) -> str:
        """A follower may be behind for 10 s when it joins, and for 5 s later on."""
        if not self.peers:
            return ""
        return f"initLimit={10_000 // self.tick_ms}\nsyncLimit={5_000 // self.tick_ms}\n" + "".join(
            f"server.{number}=127.0.0.1:{peer.quorum_port}:{peer.election_port}\n"
            for number, peer in enumerate(self.peers, 1)
        )

    def _wait_gone(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.is_running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _kept(self) -> _Kept:
        try:
            return _Kept(**json.loads(self._state_file.read_text()))
        except (OSError, ValueError, TypeError):
            return _Kept()

    def keep(self) -> None:
        """The directory remembers the ports, and what runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = _Kept(self.port, self.pid, self._container, self.quorum_port, self.election_port)
        write_json(self._state_file, asdict(kept))


def _command_of(pid: int) -> list[str]:
    """The command line of a process; empty where there is none, or where it has ended and nobody has looked yet."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


_LOGBACK = """<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%d %-5level %logger{0} %msg%n</pattern></encoder></appender><root level="WARN"><appender-ref ref="OUT"/></root></configuration>
"""
_LOG4J = """log4j.rootLogger=WARN, OUT
log4j.appender.OUT=org.apache.log4j.ConsoleAppender
log4j.appender.OUT.layout=org.apache.log4j.PatternLayout
log4j.appender.OUT.layout.ConversionPattern=%d %-5p %c{1} %m%n
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stele.local.zookeeper", description="Finds or installs a ZooKeeper."
    )
    parser.add_argument("--ensure", action="store_true", help="make sure that there is one, and say which")
    parser.parse_args(argv)
    try:
        print(f"ZooKeeper: {ensure()}")
    except ToolMissing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
