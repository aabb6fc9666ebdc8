"""The command against a real cluster, as its users run it: a process with pipes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ClusterUnderTest, cluster_fixture

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)
_numbers = itertools.count(1)
STELE = [sys.executable, "-m", "stele.cli.main"]
TIMEOUT_S = 60.0


class Command:
    def __init__(self, cluster: ClusterUnderTest) -> None:
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("STELE_")}
        self.env["STELE_DIR"] = str(cluster.local.directory)

    def __call__(self, *arguments: str, stdin: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[bytes]:
        ran = subprocess.run(
            [*STELE, *arguments], input=stdin, capture_output=True, env=self.env, timeout=TIMEOUT_S, check=False
        )
        assert ran.returncode == status, f"{arguments}: {ran.returncode}\n{ran.stdout.decode()}\n{ran.stderr.decode()}"
        return ran

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json").stdout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*STELE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            preexec_fn=_hear_ctrl_c,
        )


def _hear_ctrl_c() -> None:
    """A shell starts its background jobs deaf to it, and everything they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def stele(cluster: ClusterUnderTest) -> Command:
    return Command(cluster)


@pytest.fixture
def topic(stele: Command) -> str:
    name = f"cli/t{next(_numbers)}"
    stele("topic", "create", name, "--partitions", "2", "--replication", "3")
    return name


def test_lines_go_in_and_come_out(stele: Command, topic: str) -> None:
    sent = stele("produce", topic, "--key", "k", stdin="one\ntwo\r\n\nvier ä\nno newline".encode())
    assert sent.stdout == b""
    assert b"5 messages" in sent.stderr
    got = stele("consume", topic, "-S", "s", "--count", "5")
    assert got.stdout.decode() == "one\ntwo\n\nvier ä\nno newline\n"
    assert got.stderr == b""
    assert stele("consume", topic, "-S", "s", "--timeout", "0.5").stdout == b"", "what was printed is acknowledged"
    short = stele("consume", topic, "-S", "s", "--count", "1", "--timeout", "0.5", status=1)
    assert b"0 of 1 messages came" in short.stderr


def test_made_up_messages_at_a_rate(stele: Command, topic: str) -> None:
    sent = stele("produce", topic, "--count", "300", "--size", "50", "--rate", "1000")
    assert b"300 messages (14.6 KiB)" in sent.stderr
    lines = stele("consume", topic, "-S", "s", "--count", "300", "-o", "json").stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    assert sorted(int(m["value"].rstrip(".")) for m in messages) == list(range(300))
    assert set(messages[0]) >= {
        "topic",
        "partition",
        "offset",
        "key",
        "value",
        "headers",
        "timestamp_ms",
        "redelivery_count",
    }


def test_bytes_that_are_no_text_are_told_as_such(stele: Command, topic: str) -> None:
    stele("produce", topic, stdin=b"\xff\xfe\n")
    assert stele("consume", topic, "-S", "s", "--count", "1").stdout == b"\xff\xfe\n"
    stele("subscription", "seek", topic, "s", "--to", "earliest")
    (line,) = stele("consume", topic, "-S", "s", "--count", "1", "-o", "json").stdout.splitlines()
    assert json.loads(line)["value_base64"] == "//4="


def test_listings_as_tables_and_json(stele: Command, topic: str) -> None:
    stele("produce", topic, "--count", "10")
    stele("consume", topic, "-S", "audit", "--count", "4", "--type", "exclusive")
    assert topic in {t["topic"] for t in stele.json("topic", "ls")}
    assert topic in {t["topic"] for t in stele.json("topic", "ls", "cli")}
    info = stele.json("topic", "info", topic)
    assert (info["topic"]["partitions"], len(info["partitions"])) == (2, 2)
    assert {s["name"] for s in stele.json("store", "ls")} == {"dn1", "dn2", "dn3"}
    assert stele.json("store", "info", "dn1")["store"]["name"] == "dn1"
    assert [b["name"] for b in stele.json("broker", "ls")] == ["br1"]
    assert [(n["name"], n["leader"]) for n in stele.json("nameserver", "ls")] == [("ns1", True)]
    assert len(stele.json("partition", "ls", topic)) == 2
    assert [p["partition"] for p in stele.json("partition", "ls", topic, "--limit", "1")] == [0]
    assert [p["partition"] for p in stele.json("partition", "ls", topic, "--after", f"{topic}/0")] == [1]
    assert stele.json("topic", "ls", "cli", "--limit", "1") == stele.json("topic", "ls", "cli")[:1]
    assert stele.json("partition", "info", topic, "1")["partition"] == 1
    assert sum(s["backlog"] for s in stele.json("subscription", "ls", topic)) == 6
    assert {s["subscription"] for s in stele.json("subscription", "info", topic, "audit")} == {"audit"}
    assert {c["ok"] for c in stele.json("health")} == {True}
    assert all(p["ready"] for p in stele.json("cluster", "status"))
    events = [json.loads(line) for line in stele("events", "-o", "json").stdout.splitlines()]
    assert ("topic_created", topic) in {(e["kind"], e["subject"]) for e in events}
    for arguments in (
        ["topic", "ls"],
        ["topic", "info", topic],
        ["store", "ls"],
        ["store", "info", "dn2"],
        ["broker", "ls"],
        ["nameserver", "ls"],
        ["partition", "ls"],
        ["partition", "info", topic, "0"],
        ["subscription", "ls", topic],
        ["subscription", "info", topic, "audit"],
        ["health"],
        ["cluster", "status"],
        ["events"],
    ):
        shown = stele(*arguments)
        assert shown.stdout.strip(), arguments
        assert shown.stderr == (b"record format 2\n" if arguments == ["cluster", "status"] else b""), arguments


def test_removing(stele: Command, topic: str) -> None:
    stele("consume", topic, "-S", "s", "--timeout", "2")
    refused = stele("subscription", "rm", topic, "s", status=2)
    assert b"--yes" in refused.stderr
    stele("subscription", "rm", topic, "s", "--yes")
    assert stele.json("subscription", "ls", topic) == []
    stele("topic", "rm", topic, "--yes")
    for store in stele.json("store", "trash"):
        assert {r["partition"] for r in store["replicas"] if r["topic"] == topic} == {0, 1}
        assert not store["problem"]
    shown = stele("store", "trash").stdout.decode()
    assert topic in shown, shown
    gone = stele("topic", "info", topic, status=1)
    assert gone.stderr.decode().startswith(f"error: there is no topic {topic}; ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["topic", "create", "cli/wide", "--replication", "9"], "--replication"),
        (["produce", "cli/absent", "--count", "1"], "stele topic create"),
        (["consume", "cli/absent", "-S", "s", "--count", "1"], "stele topic create"),
        (["subscription", "rm", "cli/absent", "s", "--yes"], "stele topic create"),
        (["partition", "ls", "cli/absent"], "stele topic create"),
        (["cluster", "kill", "dn9"], "it has zk1, ns1"),
        (["cluster", "logs", "dn9"], "it has zk1, ns1"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_an_error_is_one_line_with_the_way_out(stele: Command, arguments: list[str], words: str) -> None:
    ran = stele(*arguments, status=1)
    (line,) = [line for line in ran.stderr.decode().splitlines() if line.startswith("error: ")]
    assert words in line
    assert b"Traceback" not in ran.stderr
    assert ran.stdout == b""


def test_an_oversized_message_is_refused_and_the_rest_of_the_command_is_clear(stele: Command, topic: str) -> None:
    ran = stele("produce", topic, stdin=b"x" * (2 << 20) + b"\n", status=1)
    assert b"error: line 1 has more than" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_closed_pipe_is_quiet_and_leaves_the_rest_to_be_delivered(stele: Command, topic: str) -> None:
    stele("produce", topic, "--count", "2000", "--size", "200", "--key", "k")
    with stele.start("consume", topic, "-S", "s") as consuming:
        assert consuming.stdout is not None
        assert consuming.stdout.readline()
        consuming.stdout.close()
        assert consuming.stderr is not None
        assert consuming.stderr.read() == b""
        assert consuming.wait(TIMEOUT_S) in (141, -signal.SIGPIPE)
    assert sum(s["backlog"] for s in stele.json("subscription", "ls", topic)) > 0


def test_ctrl_c_is_quiet(stele: Command, topic: str) -> None:
    stele("produce", topic, "--count", "1")
    with stele.start("consume", topic, "-S", "s") as consuming:
        assert consuming.stdout is not None
        assert consuming.stderr is not None
        assert consuming.stdout.readline()
        consuming.send_signal(signal.SIGINT)
        assert consuming.wait(TIMEOUT_S) == 130
        assert consuming.stderr.read() == b""


def test_health_and_status_tell_what_is_missing(cluster: ClusterUnderTest, stele: Command, topic: str) -> None:
    stele("cluster", "kill", "dn3")
    status = stele("cluster", "status", status=1)
    assert b"1 of 6 processes are not well: dn3 (dead)" in status.stderr
    deadline = time.monotonic() + 30
    health = [*STELE, "health", "--server", cluster.bootstrap]
    while b"dn3 is gone" not in (ran := subprocess.run(health, capture_output=True, check=False)).stdout:
        assert time.monotonic() < deadline, ran
    assert ran.returncode == 1
    assert b"not healthy" in ran.stderr
    stele("produce", topic, "--count", "10")
    started = stele("cluster", "start", "dn3")
    assert b"dn3: ready" in started.stderr
    stele("cluster", "kill", "br1")
    assert b"; started br1, the others were up\n" in stele("cluster", "up").stderr
    before = stele.json("cluster", "status")
    assert b"it was up: 5 processes and ZooKeeper at " in stele("cluster", "up").stderr
    assert stele.json("cluster", "status") == before


def test_a_shell_that_evaluates_the_environment_reaches_the_cluster_from_anywhere(
    stele: Command, topic: str, tmp_path: Path
) -> None:
    command = " ".join(STELE)
    code = (
        "import stele\nwith stele.sync.connect() as client:\n    print([t.topic for t in client.admin.list_topics()])"
    )
    script = f'eval "$({command} cluster env)"; cd "$1"; {command} topic info {topic} && {STELE[0]} -c "$2"'
    ran = subprocess.run(
        ["sh", "-ec", script, "sh", str(tmp_path), code],
        env=stele.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.count(topic) >= 2, ran.stdout


def test_logs(stele: Command) -> None:
    one = stele("cluster", "logs", "ns1", "-n", "3").stdout.decode().splitlines()
    assert len(one) == 3
    everything = stele("cluster", "logs", "-n", "1").stdout.decode().splitlines()
    assert {line.split()[0] for line in everything} >= {"ns1", "dn1", "br1"}
    with stele.start("cluster", "logs", "ns1", "-f") as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(TIMEOUT_S) == 130


def test_an_input_that_cannot_be_read_is_an_error_of_one_line(stele: Command, topic: str, tmp_path: Path) -> None:
    """A file that is open for writing as stdin, and none at all: neither is an end of input."""
    unreadable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        produce = [*STELE, "produce", topic]
        from_file = subprocess.run(
            produce, stdin=unreadable, capture_output=True, env=stele.env, timeout=TIMEOUT_S, check=False
        )
        closed = ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *produce]
        from_nothing = subprocess.run(closed, capture_output=True, env=stele.env, timeout=TIMEOUT_S, check=False)
    finally:
        os.close(unreadable)
    for ran in (from_file, from_nothing):
        assert ran.returncode == 1, ran.stderr.decode()
        [line] = ran.stderr.decode().splitlines()
        assert line.startswith("error: stdin cannot be read"), line


def test_what_was_read_before_the_input_broke_is_stored_and_nothing_of_a_line_cut_off(
    stele: Command, topic: str
) -> None:
    """A terminal that hangs up: os.read gives two lines and a half, then EIO."""
    script = (
        "import errno, os, sys\n"
        "whole, parts = os.read, [b'one\\ntwo\\nthr']\n"
        "def read(fd, size):\n"
        "    if fd != 0: return whole(fd, size)\n"
        "    if parts: return parts.pop()\n"
        "    raise OSError(errno.EIO, os.strerror(errno.EIO))\n"
        "os.read = read\n"
        "from stele.cli.main import main\n"
        "sys.argv[0] = 'stele'\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "produce", topic],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=stele.env,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr.decode()
    lines = ran.stderr.decode().splitlines()
    assert lines[0].startswith("2 messages"), lines
    assert lines[1].startswith("error: stdin cannot be read: Input/output error"), lines
    assert stele("consume", topic, "-S", "s", "--timeout", "2").stdout.split() == [b"one", b"two"]


def test_whether_a_process_can_be_stopped(stele: Command, topic: str, cluster: ClusterUnderTest) -> None:
    whole = stele("safe-to-stop", "dn1", "--wait", "30")
    assert (whole.stdout, whole.stderr) == (b"", b"dn1: safe to stop\n")
    assert stele.json("safe-to-stop", "dn1") == {"name": "dn1", "role": "datanode", "safe": True, "reasons": []}
    alone = stele("safe-to-stop", "ns1", status=1)
    assert (alone.stdout, alone.stderr) == (b"no other nameserver could lead: there is none\n", b"")
    assert b"there is none" in stele("safe-to-stop", "br1", status=1).stdout
    cluster.local.pause("dn3")
    refused = stele("safe-to-stop", "dn1", "-o", "json", "--wait", "6", status=1)
    assert b"waiting: " in refused.stderr
    said = json.loads(refused.stdout)
    assert (said["role"], said["safe"]) == ("datanode", False)
    unled = ": nobody is heard that leads it"  # dn3 did, and nobody was elected yet
    assert said["reasons"], said
    *shown, last = said["reasons"]
    shown += [] if last.endswith(("more partition", "more partitions")) else [last]
    assert all("which is no majority: dn3 " in r or r.endswith(unled) for r in shown), said
    cluster.local.resume("dn3")
    stele("safe-to-stop", "dn1", "--wait", "30")
    assert b"no process is called dn9" in stele("safe-to-stop", "dn9", status=1).stderr
