"""The container tests need a Docker engine; where none answers they are left out, and nobody can overlook it."""

from __future__ import annotations

import docker
import docker.errors
import pytest

NO_ENGINE = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> docker.DockerClient:
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except docker.errors.DockerException as error:
        request.config.stash[NO_ENGINE] = str(error)
        pytest.skip("no Docker engine answers")
    return client


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if NO_ENGINE in config.stash:
        terminalreporter.write_sep("!", red=True)
        terminalreporter.write_line(
            "!!  THE CONTAINER TESTS DID NOT RUN: no Docker engine answers on this machine.", red=True
        )
        terminalreporter.write_line(f"!!  {config.stash[NO_ENGINE]}")
        terminalreporter.write_line("!!  Everything else is tested.  With an engine: make test-e2e")
        terminalreporter.write_sep("!", red=True)
