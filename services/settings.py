"""How settings are declared, read and refused (services/config.py has them).

A setting is a field of one of the types below, with its bounds and what ``--help`` says of it.  :func:`read` makes a config of what
flags, environment and file give, in this order of strength.

Guarantee: whatever is wrong becomes one InvalidConfig of one line that names the setting, its value and what is accepted; a value that
cannot be read is named as it was given, by its flag, variable or line of the file.
"""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, Self, TypeVar

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Strict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from stele.services.errors import InvalidConfig
from stele.services.units import parse_size, parse_span, shown_size

# --- types ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """What the values of a setting are, and how they are read from a flag, a variable or a file.  ``read`` raises ValueError."""

    metavar: str
    accepted: str
    read: Callable[[object], object]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return int(value)


def _bytes(value: object) -> int:
    return parse_size(value) if isinstance(value, str) else _number(value)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    try:
        try:
            seconds = float(value)
        except ValueError:
            seconds = parse_span(str(value)) / 1000
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


TEXT = Kind("TEXT", "text", _text)
NUMBER = Kind("NUMBER", "a whole number", _number)
BYTES = Kind("BYTES", "a number of bytes, or e.g. 64MiB", _bytes)
SECONDS = Kind("SECONDS", "a number of seconds, or e.g. 10s or 1h30m", _seconds)

Text = Annotated[str, Strict(), TEXT]
Number = Annotated[int, Strict(), NUMBER]
Bytes = Annotated[int, BeforeValidator(_bytes), BYTES]
Seconds = Annotated[float, BeforeValidator(_seconds), SECONDS]


def kind_of(field: FieldInfo) -> Kind:
    return next(fact for fact in field.metadata if isinstance(fact, Kind))


def bounds_of(field: FieldInfo) -> tuple[Any, Any] | None:
    """The least and the greatest value, both accepted."""
    low = next((fact.ge for fact in field.metadata if isinstance(fact, Ge)), None)
    high = next((fact.le for fact in field.metadata if isinstance(fact, Le)), None)
    return None if low is None else (low, high)


def shown(kind: Kind, value: object) -> str:
    """A value as a person would write it: 64MiB, 4, dn1."""
    if kind is BYTES and isinstance(value, int):
        return shown_size(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class Settings(BaseSettings):
    """Base of every config: frozen, and without a setting that nobody knows.  Made directly, it takes what it is given and looks
    nowhere else."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="STELE_")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_line(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(given)
        except ValidationError as e:
            raise InvalidConfig(_one_line(cls, e.errors()[0])) from None


def _one_line(config_type: type[Settings], error: ErrorDetails) -> str:
    name, fields = str(error["loc"][0]), config_type.model_fields
    field = fields.get(name)
    if field is None:
        return f"there is no setting {name}: known are {', '.join(sorted(fields))}"
    if error["type"] == "missing":
        example = (field.examples or [""])[0]
        return f"{name} is missing: give {flag(name)} or {variable(name)}, for example {flag(name)} {example}"
    kind, bounds = kind_of(field), bounds_of(field)
    if bounds is not None and error["type"] in ("greater_than_equal", "less_than_equal"):
        low, high = bounds
        return f"{name} {shown(kind, error['input'])} is not accepted: {shown(kind, low)} to {shown(kind, high)}"
    return f"{name} {error['input']!r} is not accepted: {kind.accepted}"


# --- sources --------------------------------------------------------------------------------------------------------

SettingsT = TypeVar("SettingsT", bound=Settings)


def read(
    config_type: type[SettingsT], roles: Mapping[str, type[Settings]], argv: Sequence[str], env: Mapping[str, str]
) -> SettingsT:
    """The config that flags, environment and file make together; ``roles`` are the tables that a file may have.  Raises
    InvalidConfig; ``--help`` ends the process with 0."""
    role = next((name for name, known in roles.items() if config_type is known), config_type.__name__.lower())
    flags = vars(_parser(role, config_type).parse_args(list(argv)))
    path = flags.pop("config") or env.get("STELE_CONFIG") or ""
    given = {name: text for name, text in flags.items() if text is not None}
    variables = {name: text for name in config_type.model_fields if (text := env.get(variable(name)))}
    values: dict[str, Any] = {}
    for source in (
        _File(config_type, path, role, roles),
        _Texts(config_type, variables, variable),
        _Texts(config_type, given, flag),
    ):
        values |= source()
    return config_type(**values)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    return f"STELE_{name.upper()}"


def _read_value(origin: str, kind: Kind, value: object) -> object:
    try:
        return kind.read(value)
    except ValueError:
        raise InvalidConfig(f"{origin} {value!r} is not accepted: {kind.accepted}") from None


class _Texts(EnvSettingsSource):
    """Flags or variables: texts by the name of the setting, each called as ``origin`` says when it is refused."""

    def __init__(self, config_type: type[Settings], texts: Mapping[str, str], origin: Callable[[str], str]) -> None:
        super().__init__(config_type)
        self.env_vars = {variable(name).lower(): text for name, text in texts.items()}
        self._origin = origin

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        return None if value is None else _read_value(self._origin(field_name), kind_of(field), value)


class _File(InitSettingsSource):
    """A TOML file: settings of every role at its top level, those of one role in its table.  The tables of other roles are checked
    too, so that a mistake shows in whichever process is started first."""

    def __init__(self, config_type: type[Settings], path: str, role: str, roles: Mapping[str, type[Settings]]) -> None:
        self._path, self._roles = path, roles
        content = self._content() if path else {}
        tables = {name: content.pop(name) for name in roles if isinstance(content.get(name), dict)}
        common = self._values("", content, config_type)
        own = {name: self._values(f"[{name}] ", table, roles[name]) for name, table in tables.items()}
        super().__init__(config_type, common | own.get(role, {}))

    def _content(self) -> dict[str, Any]:
        try:
            with open(self._path, "rb") as file:
                return tomllib.load(file)
        except OSError as e:
            raise InvalidConfig(f"the settings file {self._path} cannot be read: {e.strerror}") from None
        except ValueError as e:  # also of bytes that are no UTF-8, and of a number of thousands of digits
            raise InvalidConfig(f"the settings file {self._path} is not TOML: {e}") from None

    def _values(self, where: str, table: dict[str, Any], config_type: type[Settings]) -> dict[str, Any]:
        fields = config_type.model_fields
        for key in table:
            if key not in fields:
                other = next((name for name, known in self._roles.items() if key in known.model_fields), None)
                hint = f"it belongs in the table [{other}]" if other else f"known are {', '.join(sorted(fields))}"
                raise InvalidConfig(f"the settings file {self._path} has an unknown setting {where}{key}: {hint}")
        return {
            key: _read_value(f"{where}{key} in {self._path}:", kind_of(fields[key]), value)
            for key, value in table.items()
        }


# --- flags and their help -------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidConfig(message.replace("\n", " "))


def _parser(role: str, config_type: type[Settings]) -> argparse.ArgumentParser:
    fields = config_type.model_fields
    given = " ".join(f"{flag(name)} {f.examples[0]}" for name, f in fields.items() if f.is_required() and f.examples)
    parser = _Parser(
        prog=f"python -m stele.{role}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Runs one {role} of a Stele cluster until it is told to stop (SIGTERM; twice: at once).",
        epilog=(
            "Every setting can also be given as environment variable STELE_<SETTING> or in a TOML file;\n"
            "a flag wins over the environment, the environment over the file.\n"
            "Sizes take KiB, MiB, GiB or TiB; times are seconds, or take ms, s, m, h or d, also as 1h30m.\n\n"
            "examples:\n"
            f"  python -m stele.{role} {given}\n"
            f"  python -m stele.{role} {given} --zookeeper zk1:2181,zk2:2181 --port 7000 --host 0.0.0.0 --advertised-host {role}1\n"
            f"  STELE_LOG_LEVEL=debug python -m stele.{role} --config stele.toml\n\n"
            "stele.toml:\n"
            '  zookeeper = "zk1:2181,zk2:2181"\n'
            '  session_timeout_s = "4s"\n'
            f"  [{role}]\n"
            "  admin_port = 9090\n"
        ),
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, field in fields.items():
        text = _described(field).replace("%", "%%")
        parser.add_argument(flag(name), dest=name, metavar=kind_of(field).metavar, help=text)
    return parser


def _described(field: FieldInfo) -> str:
    kind, bounds = kind_of(field), bounds_of(field)
    facts = ["required" if field.is_required() else f"default {shown(kind, field.default) or 'none'}"]
    if field.examples:
        facts.append(f"for example {field.examples[0]}")
    if bounds is not None:
        facts.append(f"{shown(kind, bounds[0])} to {shown(kind, bounds[1])}")
    return f"{field.description} ({', '.join(facts)})"
