"""Settings by which a process and ZooKeeper trust one another: what is refused, and where secrets show."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.services.config import AccessSettings, BrokerConfig, load
from stele.services.coordination.access import VARIABLE, ZooKeeperAccess
from stele.services.errors import InvalidConfig

SECRET = "s3cret"


def of(env: dict[str, str] | None = None, **settings: str) -> ZooKeeperAccess:
    return ZooKeeperAccess.of(AccessSettings(**{f"zookeeper_{k}": v for k, v in settings.items()}), env or {})


def test_credentials_come_from_the_file_or_the_variable_and_show_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"stele:{SECRET}:with:colons\n")
    assert of(credentials_file=str(file)).credentials == f"stele:{SECRET}:with:colons"
    assert of({VARIABLE: "other:x"}, credentials_file=str(file)).credentials.startswith("stele:"), (
        "the file is what was set"
    )
    access = of({VARIABLE: f"stele:{SECRET}"})
    assert access.credentials == f"stele:{SECRET}"
    assert SECRET not in repr(access)
    assert (of().credentials, of({VARIABLE: ""}).credentials) == ("", "")


@pytest.mark.parametrize(
    "text", ["", SECRET, f":{SECRET}", "stele:", f"stele:{SECRET}\nmore", "stele:" + SECRET * 1000]
)
def test_what_is_no_credentials_is_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match="one line, user:password") as refused:
        of(credentials_file=str(file))
    assert SECRET not in refused.value.message
    if text:
        with pytest.raises(InvalidConfig, match=f"the variable {VARIABLE}") as refused:
            of({VARIABLE: text})
        assert SECRET not in refused.value.message


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="zookeeper_credentials_file names cannot be read: No such file"):
        of(credentials_file=str(tmp_path / "none"))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidConfig, match=r"zookeeper_tls_ca .*ca.pem cannot be used"):
        of(tls_ca=str(tmp_path / "ca.pem"))


def test_what_others_may_do_follows_from_the_credentials() -> None:
    env = {VARIABLE: "stele:x"}
    assert of().acl is None
    assert of(env, acl="all").acl is None
    assert of(env, acl="all").shared_acl is None
    assert [str(a.id.scheme) for a in of(env).acl or ()] == ["auth"]
    assert [str(a.id.scheme) for a in of(env, acl="read").acl or ()] == ["auth", "world"]
    for acl in ("none", "read"):
        with pytest.raises(InvalidConfig, match=f"zookeeper_acl {acl} takes credentials"):
            of(acl=acl)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--zookeeper-acl", "some"], "zookeeper_acl 'some' is not accepted: none, read, all"),
        (["--zookeeper-tls-cert", "a"], "zookeeper_tls_cert and zookeeper_tls_key are given together"),
        (["--zookeeper-tls-cert", "a", "--zookeeper-tls-key", "b"], "zookeeper_tls_ca verifies"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(given: list[str], says: str) -> None:
    with pytest.raises(InvalidConfig, match=says):
        load(BrokerConfig, ["--name", "br1", *given], {})


def test_help_shows_no_value_of_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(BrokerConfig, ["--help"], {VARIABLE: f"stele:{SECRET}"})
    shown = capsys.readouterr().out
    assert VARIABLE in shown
    assert SECRET not in shown
