"""Where a ZooKeeper is looked for, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.local import zookeeper
from stele.local.zookeeper import Container, Given, Jvm, ensure, ensure_local, find_jvm, main
from stele.services.errors import ToolMissing


@pytest.fixture
def java(tmp_path: Path) -> dict[str, str]:
    binary = tmp_path / "jdk" / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\nexit 0\n")
    binary.chmod(0o755)
    return {"JAVA_HOME": str(tmp_path / "jdk")}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zookeeper, "HOME_CANDIDATES", ())
    monkeypatch.setattr(zookeeper, "DEBIAN_JAR_FOLDERS", ())
    monkeypatch.setattr("shutil.which", lambda _: None)


def test_a_given_server_comes_first() -> None:
    assert ensure({"STELE_ZOOKEEPER": "zk:2181"}) == Given("zk:2181")


@pytest.mark.usefixtures("nothing_installed")
def test_an_unpacked_archive_is_found_by_zookeeper_home(tmp_path: Path, java: dict[str, str]) -> None:
    lib = tmp_path / "apache-zookeeper" / "lib"
    lib.mkdir(parents=True)
    for jar in ("zookeeper-3.9.3.jar", "zookeeper-jute-3.9.3.jar", "logback-classic-1.2.13.jar"):
        (lib / jar).touch()
    found = find_jvm({**java, "ZOOKEEPER_HOME": str(lib.parent)})
    assert found is not None
    assert found.source == str(lib.parent)
    assert "logback" in found.classpath


@pytest.mark.usefixtures("nothing_installed")
def test_a_package_of_debian_is_found(tmp_path: Path, java: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    jars = tmp_path / "java"
    jars.mkdir()
    for jar in ("zookeeper.jar", "zookeeper-jute.jar", "slf4j-simple.jar"):
        (jars / jar).touch()
    monkeypatch.setattr(zookeeper, "DEBIAN_JAR_FOLDERS", (str(jars),))
    found = find_jvm(java)
    assert found == Jvm(
        str(Path(java["JAVA_HOME"]) / "bin" / "java"),
        ":".join(str(jars / n) for n in ("zookeeper.jar", "slf4j-simple.jar", "zookeeper-jute.jar")),
        str(jars / "zookeeper.jar"),
    )


@pytest.mark.usefixtures("nothing_installed")
def test_jars_without_java_are_not_enough(tmp_path: Path) -> None:
    assert find_jvm({"ZOOKEEPER_HOME": str(tmp_path)}) is None


def test_installs_before_it_asks_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    jvm, asked = Jvm("java", "jars", "a package"), []
    answers = iter([None, jvm])
    monkeypatch.setattr(zookeeper, "find_jvm", lambda env: next(answers))
    monkeypatch.setattr(zookeeper, "install", lambda: asked.append("install") or "")
    monkeypatch.setattr(zookeeper, "find_container", lambda: asked.append("docker"))
    assert ensure_local({}) == jvm
    assert asked == ["install"]


def test_docker_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zookeeper, "find_jvm", lambda env: None)
    monkeypatch.setattr(zookeeper, "install", lambda: "there is no package manager")
    monkeypatch.setattr(zookeeper, "find_container", lambda: Container("docker"))
    assert ensure_local({}) == Container("docker")


def test_one_clear_line_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STELE_ZOOKEEPER", raising=False)
    monkeypatch.setattr(zookeeper, "find_jvm", lambda env: None)
    monkeypatch.setattr(zookeeper, "install", lambda: "there is no package manager")
    monkeypatch.setattr(zookeeper, "find_container", lambda: None)
    with pytest.raises(ToolMissing):
        ensure_local({})
    assert main(["--ensure"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "there is no package manager" in said[0]
    for hint in ("apt-get install", "dnf install", "brew install", "STELE_ZOOKEEPER"):
        assert hint in said[0]
