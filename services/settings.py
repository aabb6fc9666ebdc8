"""Reading settings from flags, environment and file, in this order of strength (see services/config.py)."""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from stele.services.errors import InvalidConfig

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*([a-zA-Z]*)")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidConfig(message.replace("\n", " "))


def fields_of(config_type: type[Any]) -> list[tuple[dataclasses.Field[Any], type[Any]]]:
    """The settings of a config type with the types of their values."""
    hints = typing.get_type_hints(config_type)
    return [(f, hints[f.name]) for f in dataclasses.fields(config_type)]


def read_settings(
    config_type: type[Any], roles: Mapping[str, type[Any]], argv: Sequence[str], env: Mapping[str, str]
) -> dict[str, Any]:
    """The values of every setting that some source gives; ``roles`` are the tables that a file may have.  Raises InvalidConfig."""
    role = next((name for name, known in roles.items() if config_type is known), config_type.__name__.lower())
    flags = vars(_parser(role, config_type).parse_args(list(argv)))
    path = flags.pop("config") or env.get("STELE_CONFIG") or ""
    settings: dict[str, Any] = _read_file(path, role, config_type, roles) if path else {}
    for f, kind in fields_of(config_type):
        variable = f"STELE_{f.name.upper()}"
        if flags[f.name] is not None:
            settings[f.name] = _parse(_flag(f.name), f.name, kind, flags[f.name])
        elif env.get(variable):
            settings[f.name] = _parse(variable, f.name, kind, env[variable])
        elif f.name not in settings and f.default is dataclasses.MISSING:
            example = f.metadata["example"]
            raise InvalidConfig(
                f"{f.name} is missing: give {_flag(f.name)} or {variable}, for example {_flag(f.name)} {example}"
            )
    return settings


def _parser(role: str, config_type: type[Any]) -> argparse.ArgumentParser:
    required = [f for f, _ in fields_of(config_type) if f.default is dataclasses.MISSING]
    given = " ".join(f"{_flag(f.name)} {f.metadata['example']}" for f in required)
    parser = _Parser(
        prog=f"python -m stele.{role}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Runs one {role} of a Stele cluster until it is told to stop (SIGTERM; twice: at once).",
        epilog=(
            "Every setting can also be given as environment variable STELE_<SETTING> or in a TOML file;\n"
            "a flag wins over the environment, the environment over the file.  Sizes take KiB, MiB or GiB.\n\n"
            "examples:\n"
            f"  python -m stele.{role} {given}\n"
            f"  python -m stele.{role} {given} --zookeeper zk1:2181,zk2:2181 --port 7000 --host 0.0.0.0 --advertised-host {role}1\n"
            f"  STELE_LOG_LEVEL=debug python -m stele.{role} --config stele.toml\n\n"
            "stele.toml:\n"
            '  zookeeper = "zk1:2181,zk2:2181"\n'
            f"  [{role}]\n"
            "  admin_port = 9090\n"
        ),
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for f, kind in fields_of(config_type):
        parser.add_argument(
            _flag(f.name), dest=f.name, metavar=_unit(f.name, kind), help=_described(f, kind).replace("%", "%%")
        )
    return parser


def _described(f: dataclasses.Field[Any], kind: type[Any]) -> str:
    facts = ["required" if f.default is dataclasses.MISSING else f"default {_shown(f.name, f.default) or 'none'}"]
    if f.metadata["example"]:
        facts.append(f"for example {f.metadata['example']}")
    if f.metadata["low"] is not None:
        facts.append(f"{_shown(f.name, f.metadata['low'])} to {_shown(f.name, f.metadata['high'])}")
    return f"{f.metadata['help']} ({', '.join(facts)})"


def _shown(name: str, value: Any) -> str:
    """A value as a person would write it: 64MiB, 4, dn1."""
    if isinstance(value, str):
        return value
    if "bytes" in name.split("_"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_file(path: str, role: str, config_type: type[Any], roles: Mapping[str, type[Any]]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as e:
        raise InvalidConfig(f"the settings file {path} cannot be read: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidConfig(f"the settings file {path} is not TOML: {e}") from None
    tables = {key: content.pop(key) for key in roles if isinstance(content.get(key), dict)}
    merged: dict[str, Any] = {}
    for name, table in tables.items():
        values = _check_table(path, f"[{name}] ", table, roles[name], roles)
        if name == role:
            merged = values
    return {**_check_table(path, "", content, config_type, roles), **merged}


def _check_table(
    path: str, where: str, table: dict[str, Any], config_type: type[Any], roles: Mapping[str, type[Any]]
) -> dict[str, Any]:
    kinds = {f.name: kind for f, kind in fields_of(config_type)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            others = [role for role, other in roles.items() if key in {f.name for f, _ in fields_of(other)}]
            hint = f"it belongs in the table [{others[0]}]" if others else f"known are {', '.join(sorted(kinds))}"
            raise InvalidConfig(f"the settings file {path} has an unknown setting {where}{key}: {hint}")
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, str) or not (numeric and kinds[key] is not str):
            if not isinstance(value, str):
                raise InvalidConfig(f"{where}{key} in {path}: {value!r} is not accepted: {_accepted(key, kinds[key])}")
            value = _parse(f"{where}{key} in {path}:", key, kinds[key], value)
        elif kinds[key] is int and isinstance(value, float):
            raise InvalidConfig(f"{where}{key} in {path}: {value!r} is not accepted: {_accepted(key, int)}")
        values[key] = value
    return values


def parse_size(text: str) -> int:
    """``"64MiB"`` → bytes.  ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is no size")
    return int(match[1]) * _UNITS[match[2].lower()]


def _parse(source: str, name: str, kind: type[Any], text: str) -> Any:
    if kind is str:
        return text
    try:
        if kind is float:
            value = float(text)
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError
            return value
        if "bytes" in name.split("_"):
            return parse_size(text)
        return int(text)
    except ValueError:
        raise InvalidConfig(f"{source} {text!r} is not accepted: {_accepted(name, kind)}") from None


def _accepted(name: str, kind: type[Any]) -> str:
    if kind is str:
        return "text"
    if kind is float:
        return "a number of seconds" if name.endswith("_s") else "a number"
    return "a number of bytes, or e.g. 64MiB" if "bytes" in name.split("_") else "a whole number"


def _unit(name: str, kind: type[Any]) -> str:
    if kind is str:
        return "TEXT"
    if "bytes" in name.split("_"):
        return "BYTES"
    return "SECONDS" if name.endswith("_s") else "NUMBER"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
