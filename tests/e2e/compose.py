"""The cluster of docker-compose.yml under a project name, images and host ports of its own.

Compose itself, v2 or v1, starts, kills and removes; what it left is read from the engine.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path

import docker
import docker.errors
from docker.models.containers import Container

from stele.services.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
NAMESERVERS = ("ns1", "ns2", "ns3")
DATANODES = ("dn1", "dn2", "dn3")
BROKERS = ("br1", "br2")
SERVICES = ("zk1", *NAMESERVERS, *DATANODES, *BROKERS)
PUBLISHED = (*NAMESERVERS, *BROKERS)
COMMAND_TIMEOUT_S = 600


class Compose:
    def __init__(self, engine: docker.DockerClient, settings: str = "", zookeeper_image: str = "") -> None:
        """``settings``: a file of variables for Compose; ``zookeeper_image``: one that was built already."""
        self._settings = ["--env-file", settings] if settings else []
        self.project = f"stele-e2e-{secrets.token_hex(4)}"
        self.ports = dict(zip(PUBLISHED, free_ports(len(PUBLISHED)), strict=True))
        self.images = (f"{self.project}:test", f"{self.project}-zookeeper:test")
        self._engine = engine
        self._command = run([ROOT / "deploy" / "setup" / "compose"]).split()
        self._env = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "STELE_IMAGE": self.images[0],
            "STELE_ZOOKEEPER_IMAGE": zookeeper_image or self.images[1],
            **{f"STELE_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
        }

    @property
    def bootstrap(self) -> str:
        """What a client on this machine is given."""
        return ",".join(f"127.0.0.1:{self.ports[name]}" for name in NAMESERVERS)

    def up(self, *services: str, build: bool = False) -> None:
        self._run("up", "-d", *(["--build"] if build else []), *services)

    def kill(self, service: str) -> None:
        self._run("kill", "-s", "KILL", service)

    def stop(self, service: str) -> None:
        self._run("stop", service)

    def down(self) -> None:
        self._run("down", "-v", "--remove-orphans", "-t", "2")
        for image in self.images:
            try:
                self._engine.images.remove(image, force=True, noprune=True)  # the layers stay: they are the build cache
            except docker.errors.ImageNotFound:
                pass

    def containers(self) -> dict[str, Container]:
        label = f"com.docker.compose.project={self.project}"
        found = self._engine.containers.list(all=True, filters={"label": label})
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def states(self) -> dict[str, str]:
        """healthy, starting, unhealthy; or for one that does not run: exited(137)."""
        states = {}
        for service, container in self.containers().items():
            state = container.attrs["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            states[service] = health if state["Running"] else f"{state['Status']}({state['ExitCode']})"
        return states

    def all_healthy(self) -> bool:
        return self.states() == dict.fromkeys(SERVICES, "healthy")

    def describe(self) -> str:
        """The states of all containers and the last words of those that are not healthy."""
        lines = [str(self.states())]
        for service, container in sorted(self.containers().items()):
            if self.states().get(service) != "healthy":
                lines.append(f"--- {service}\n{container.logs(tail=15).decode(errors='replace')}")
        return "\n".join(lines)

    def _run(self, *arguments: str) -> None:
        run(
            [*self._command, "-f", "docker-compose.yml", *self._settings, *arguments],
            env=self._env,
            describe=self.describe,
        )


def run(command: list[str | Path], env: dict[str, str] | None = None, describe: object = None) -> str:
    """What a command prints; if it fails, an AssertionError with everything that it said."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        state = describe() if callable(describe) else ""
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{said}\n{state}")
    return done.stdout


def ensure_base_images(engine: docker.DockerClient) -> None:
    """The images that the Dockerfiles build from: here already, else pulled, else made from Debian's packages."""
    for dockerfile in (ROOT / "Dockerfile", ROOT / "deploy" / "zookeeper" / "Dockerfile"):
        for image in re.findall(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE):
            try:
                engine.images.get(image)
                continue
            except docker.errors.ImageNotFound:
                pass
            try:
                engine.images.pull(image)
            except docker.errors.APIError:
                run([ROOT / "deploy" / "airgap" / "build"])
