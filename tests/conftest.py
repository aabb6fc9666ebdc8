"""Fixtures that every kind of test may use."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from stele.local.zookeeper import ZooKeeperServer
from stele.services import own_process
from tests.support.zookeeper import server, unique_cluster_name

own_process.settle()  # roles run inside the tests, as they do in processes of their own
settings.register_profile("suite", deadline=None)  # how fast an example runs is a benchmark's matter
settings.load_profile("suite")

_RULE = re.compile(r"_(?:r([1-5])_\d+|(h)\d+)(?=_|$)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that names a rule (``test_r4_2_…``, ``test_h7_…``) is one of that failure: ``pytest -m "F1 or F4"``."""
    for item in items:
        for number, hole in set(_RULE.findall(item.name.partition("[")[0])):
            item.add_marker("F6" if hole else f"F{number}")


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a test makes quiet is not quiet for the next one."""
    before, disabled = structlog.get_config(), logging.root.manager.disable
    yield
    structlog.configure(**before)
    logging.disable(disabled)


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """One real server for all tests of this worker.  It is shared: do not kill it."""
    with server() as started:
        yield started


@pytest.fixture
def zk_hosts(request: pytest.FixtureRequest) -> str:
    """Where ZooKeeper is: ``STELE_ZOOKEEPER`` if given, else this worker's server."""
    given = os.environ.get("STELE_ZOOKEEPER")
    return given or str(request.getfixturevalue("zookeeper").hosts)


@pytest.fixture
def own_zookeeper() -> Iterator[ZooKeeperServer]:
    """A real server for this test alone, to be killed, frozen and restarted."""
    with server() as started:
        yield started


@pytest.fixture
def cluster_name() -> str:
    """A cluster that no other test uses."""
    return unique_cluster_name()
