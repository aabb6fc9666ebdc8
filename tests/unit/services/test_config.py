"""Settings: which source wins, and that every contradiction is refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.services.config import BrokerConfig, DatanodeConfig, NameserverConfig, check_session_timeout, load
from stele.services.errors import InvalidConfig

DN = ["--name", "dn1", "--data-dir", "d"]


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "stele.toml"
    file.write_text('name = "file"\nport = 1\nsession_timeout_s = 5\ndrain_timeout_s = 7\n[broker]\nport = 2\n')
    env = {"STELE_CONFIG": str(file), "STELE_PORT": "3", "STELE_NAME": "env", "STELE_HOST": ""}
    config = load(BrokerConfig, ["--name", "flag"], env)
    assert (config.name, config.port, config.session_timeout_s, config.drain_timeout_s) == ("flag", 3, 5.0, 7.0)
    assert config.host == "127.0.0.1"
    assert load(BrokerConfig, ["--config", str(file)], {}).port == 2
    assert load(NameserverConfig, ["--config", str(file)], {}).port == 1


def test_sizes_take_units(tmp_path: Path) -> None:
    assert load(DatanodeConfig, [*DN, "--segment-bytes", "4MiB"], {}).segment_bytes == 4 << 20
    assert load(DatanodeConfig, [*DN, "--segment-bytes", "2097152"], {}).segment_bytes == 2 << 20
    file = tmp_path / "f.toml"
    file.write_text('[datanode]\ndisk_reserve_bytes = "1GiB"\n')
    assert load(DatanodeConfig, [*DN, "--config", str(file)], {}).disk_reserve_bytes == 1 << 30


def test_times_take_units_wherever_they_are_given(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('drain_timeout_s = "1m30s"\n[datanode]\nretention_check_s = "1h30m"\n')
    flags = ["--config", str(file), "--election-timeout-min-s", "250ms"]
    config = load(DatanodeConfig, [*DN, *flags], {"STELE_SESSION_TIMEOUT_S": "10s"})
    assert (config.drain_timeout_s, config.retention_check_s) == (90.0, 5400.0)
    assert (config.election_timeout_min_s, config.session_timeout_s) == (0.25, 10.0)
    assert (
        DatanodeConfig(name="dn1", data_dir="d", segment_bytes="4MiB", snapshot_interval_s="1d").segment_bytes
        == 4 << 20
    )  # type: ignore[arg-type]


def test_a_config_does_not_change() -> None:
    config = BrokerConfig(name="br1")
    with pytest.raises(ValueError, match="frozen"):
        config.port = 7000


def test_made_directly_it_looks_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELE_PORT", "7000")
    assert BrokerConfig(name="br1").port == 0
    with pytest.raises(InvalidConfig, match="there is no setting colour: known are"):
        BrokerConfig(name="br1", colour="red")  # type: ignore[call-arg]


def test_what_cannot_be_read_is_named_as_it_was_given() -> None:
    for argv, env, origin in (
        (["--port", "x"], {}, "--port"),
        ([], {"STELE_PORT": "x"}, "STELE_PORT"),
    ):
        with pytest.raises(InvalidConfig) as refused:
            load(BrokerConfig, ["--name", "br1", *argv], env)
        assert refused.value.message == f"{origin} 'x' is not accepted: a whole number"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--data-dir", "d"], "name is missing: give --name or STELE_NAME"),
        (["--name", "dn1"], "data_dir is missing"),
        ([*DN, "--data-dir", " "], "data_dir ' ' is not accepted"),
        ([*DN, "--name", "Dn1"], "name 'Dn1' is not accepted: 1 to 63"),
        ([*DN, "--name", "-a"], "name"),
        ([*DN, "--name", "a/b"], "name 'a/b' is not accepted"),
        ([*DN, "--cluster", ".."], "cluster '..' is not accepted"),
        ([*DN, "--port", "70000"], "port 70000 is not accepted: 0 to 65535"),
        ([*DN, "--port", "-1"], "port -1 is not accepted"),
        ([*DN, "--port", "abc"], "--port 'abc' is not accepted: a whole number"),
        ([*DN, "--port", "1.5"], "--port '1.5' is not accepted"),
        ([*DN, "--port", "7000", "--admin-port", "7000"], "port and admin_port are both 7000"),
        ([*DN, "--port", "7000", "--raft-port", "7000"], "port and raft_port are both 7000"),
        ([*DN, "--zookeeper", "zk1"], "zookeeper 'zk1' is not accepted: host:port"),
        ([*DN, "--zookeeper", "zk1:2181,"], "zookeeper"),
        ([*DN, "--zookeeper", "zk1:0"], "zookeeper"),
        ([*DN, "--zookeeper", "zk1:2181/chroot"], "without a path"),
        ([*DN, "--session-timeout-s", "nan"], "--session-timeout-s 'nan' is not accepted: a number of seconds"),
        ([*DN, "--session-timeout-s", "1" * 400 + "h"], "is not accepted: a number of seconds"),
        ([*DN, "--session-timeout-s", "0"], "session_timeout_s 0 is not accepted"),
        ([*DN, "--session-timeout-s", "50", "--zookeeper-tick-s", "2"], "outside the 4 to 40 s that ZooKeeper grants"),
        ([*DN, "--session-timeout-s", "3", "--zookeeper-tick-s", "2"], "outside the 4 to 40 s"),
        ([*DN, "--election-timeout-min-s", "2", "--election-timeout-max-s", "2"], "must be below"),
        ([*DN, "--segment-bytes", "1MiB", "--entry-bytes-max", "2MiB"], "must be at least entry_bytes_max"),
        ([*DN, "--session-timeout-s", "4 apples"], "a number of seconds, or e.g. 10s or 1h30m"),
        ([*DN, "--session-timeout-s", "3m"], "session_timeout_s 180 is not accepted: 0.5 to 120"),
        ([*DN, "--segment-bytes", "1TB"], "a number of bytes, or e.g. 64MiB"),
        ([*DN, "--entry-bytes-max", "16MiB"], "entry_bytes_max"),
        ([*DN, "--host", "0.0.0.0"], "set advertised_host"),
        ([*DN, "--host", ""], "host '' is not accepted"),
        ([*DN, "--advertised-host", "0.0.0.0"], "that others can dial"),
        ([*DN, "--external-address", "localhost"], "external_address 'localhost' is not accepted"),
        ([*DN, "--log-format", "xml"], "auto, json, console"),
        ([*DN, "--log-level", "loud"], "debug, info, warning, error"),
        ([*DN, "--prot", "1"], "unrecognized arguments: --prot 1"),
        ([*DN, "--por", "1"], "unrecognized arguments"),
        ([*DN, "--port"], "expected one argument"),
        ([*DN, "--config", "/nowhere/stele.toml"], "/nowhere/stele.toml cannot be read"),
    ],
)
def test_bad_settings_are_refused_with_one_line(argv: list[str], line: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load(DatanodeConfig, argv, {})
    assert line in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("colour = 1", "unknown setting colour: known are"),
        ('data_dir = "x"', "unknown setting data_dir: it belongs in the table [datanode]"),
        ("[datanode]\nack_flush_interval_s = 1", "unknown setting [datanode] ack_flush_interval_s"),
        ("port = true", "port in "),
        ("port = 1.5", "a whole number"),
        ("name = 3", "text"),
        ("drain_timeout_s = true", "drain_timeout_s in "),
        ('drain_timeout_s = "soon"', "'soon' is not accepted: a number of seconds"),
        ('[datanode]\nsegment_bytes = "much"', "[datanode] segment_bytes in "),
        ("port = [1]", "a whole number"),
        ("port = ", "is not TOML"),
        ("port = " + "9" * 5000, "is not TOML"),
        ("drain_timeout_s = " + "9" * 400, "is not accepted: a number of seconds"),
        ("port = 99999", "port 99999 is not accepted"),
    ],
)
def test_bad_files_are_refused_with_one_line(tmp_path: Path, content: str, line: str) -> None:
    file = tmp_path / "stele.toml"
    file.write_text(content)
    with pytest.raises(InvalidConfig) as refused:
        load(BrokerConfig, ["--name", "br1", "--config", str(file)], {})
    assert line in refused.value.message
    assert "\n" not in refused.value.message


def test_direct_construction_is_checked_too() -> None:
    with pytest.raises(InvalidConfig, match="port"):
        BrokerConfig(name="br1", port="7000")  # type: ignore[arg-type]
    assert BrokerConfig(name="br1", drain_timeout_s=3).drain_timeout_s == 3.0


def test_negotiated_session_timeout() -> None:
    check_session_timeout(4, 4, 40)
    with pytest.raises(InvalidConfig, match="outside the 4 to 40 s"):
        check_session_timeout(3.9, 4, 40)


def test_addresses() -> None:
    config = BrokerConfig(name="br1", host="0.0.0.0", advertised_host="br1.local", external_address="localhost:6650")
    assert (config.endpoint(7000), config.advertised(7000)) == ("br1.local:7000", "localhost:6650")
    assert BrokerConfig(name="br1", host="::1").endpoint(7000) == "[::1]:7000"


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(DatanodeConfig, ["--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "python -m stele.datanode --name dn1 --data-dir /var/lib/stele/dn1" in text
    assert "--session-timeout-s SECONDS" in text
    words = " ".join(text.split())
    assert "(default 4, 0.5 to 120)" in words
    assert "(default 64MiB, 4KiB to 4GiB)" in words
    assert "(required, for example dn1)" in words
