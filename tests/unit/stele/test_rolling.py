"""The order of a rolling restart, and the printed recipe for Compose."""

from __future__ import annotations

import re
import subprocess

from typer.testing import CliRunner

from stele.cli.main import app
from stele.local.compose_recipe import COMPOSE
from stele.local.rolling import next_one
from tests.support.command import ROOT
from tests.unit.layout.tree import ROOT as TREE


def test_the_leading_nameserver_comes_last_and_the_others_by_number() -> None:
    assert next_one({"ns1", "ns2", "ns10"}, "ns1") == "ns2"
    assert next_one({"ns1", "ns10"}, "ns1") == "ns10"
    assert next_one({"ns1"}, "ns1") == "ns1"
    assert next_one({"dn3", "dn2"}, "ns1") == "dn2"


def test_the_recipe_is_a_script_about_the_processes_of_docker_compose_yml() -> None:
    subprocess.run(["sh", "-n"], input=COMPOSE, text=True, check=True)
    compose = (TREE / "docker-compose.yml").read_text()
    services = re.findall(r"^  ((?:ns|dn|br)\d+):", compose, re.MULTILINE)
    named = re.findall(r'(?:nameservers|datanodes|brokers)="([^"]+)"', COMPOSE)
    assert " ".join(named).split() == services
    ports = re.findall(r"STELE_NS\d_PORT:-(\d+)\}:7000", compose)
    assert ",".join(f"127.0.0.1:{port}" for port in ports) in COMPOSE


def test_three_zookeepers_in_containers_are_those_that_every_process_is_told() -> None:
    compose = (TREE / "docker-compose.yml").read_text()
    settings = dict(
        line.split("=", 1)
        for line in (TREE / "deploy/zookeeper/ensemble.env").read_text().splitlines()
        if line and not line.startswith("#")
    )
    more = re.findall(rf"^  (zk\d):\n.*\n    profiles: \[{settings['COMPOSE_PROFILES']}\]", compose, re.MULTILINE)
    assert settings["STELE_ZOOKEEPERS"] == ",".join(f"{name}:2181" for name in ("zk1", *more))
    told = re.findall(r"STELE_ZOOKEEPERS?: (.*?)[},\n]*(?:, STELE_ADV.*)?$", compose, re.MULTILINE)
    assert len(told) == len(re.findall(r"STELE_NAME: ", compose))
    assert {line.strip('"}') for line in told} == {"${STELE_ZOOKEEPERS:-zk1:2181"}


def test_the_commands_of_the_recipe_are_there_with_their_options() -> None:
    called = re.findall(r"\bstele ((?:[a-z-]+ )+)(.*)", COMPOSE.partition("set -eu")[2])
    assert {words.strip() for words, _ in called} == {
        "safe-to-stop",
        "nameserver ls",
        "broker drain",
        "broker undrain",
    }
    for words, rest in called:
        command = ROOT
        for word in words.split():
            command = command.commands[word]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_the_recipe_is_printed_and_nothing_is_done() -> None:
    printed = CliRunner().invoke(app, ["cluster", "restart", "--recipe", "compose", "--dir", "/nowhere"])
    assert (printed.exit_code, printed.output) == (0, COMPOSE)
