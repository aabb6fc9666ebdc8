"""configuration.md: every setting of every role, from services/config.py."""

from __future__ import annotations

from collections.abc import Collection

from pydantic.fields import FieldInfo

from pages import code, table
from stele.datanode.held import DESCRIPTORS_BESIDE
from stele.datanode.log.segment_list import SEALED_IN_USE_MAX
from stele.services.config import ROLES, NodeConfig
from stele.services.settings import Settings, bounds_of, kind_of, shown

HEAD = """# Configuration

Every setting has a flag (`--session-timeout-s 4`), an environment variable (`STELE_SESSION_TIMEOUT_S=4`; an empty one counts as not
set) and a key in a TOML file (`session_timeout_s = 4`) that `--config` or `STELE_CONFIG` names. A flag wins over the environment, the
environment over the file, the file over the default. The file holds settings of every role at its top level and those of one role in a
table of the role's name. Sizes take `KiB`, `MiB`, `GiB` or `TiB`; times are seconds, or take `ms`, `s`, `m`, `h` or `d`, also as
`1h30m`. Settings that contradict one another are refused at start with one line.
"""

FILES = f"""## Open files

No setting, but a bound of the system: a datanode holds up to {2 + SEALED_IN_USE_MAX} files open for each replica (its lock, the segment
that it writes, {SEALED_IN_USE_MAX} that are read) and some {DESCRIPTORS_BESIDE} for connections. Every process raises
its limit at start to the hard one (`ulimit -Hn`; `LimitNOFILE=` of systemd, `ulimits: nofile:` of Docker Compose). A datanode whose
limit is below what its replicas may need says `too_few_file_descriptors` in its log before it opens the first of
them. A replica that finds no descriptor is listed as *failed* with that reason, and runs again by itself once there are some.
""".splitlines()


def page() -> str:
    lines = [HEAD, "## Every role", "", *settings(NodeConfig, ())]
    for role, config_type in ROLES.items():
        own = settings(config_type, NodeConfig.model_fields)
        lines += ["", f"## {role.capitalize()}", ""]
        lines += own if len(own) > 2 else ["Nothing beyond the settings of every role."]
    lines += ["", *FILES]
    return "\n".join(lines)


def settings(config_type: type[Settings], without: Collection[str]) -> list[str]:
    return table(
        ("setting", "what it is", "default", "accepted"),
        (
            (code(name), str(field.description), default_of(field), accepted(field))
            for name, field in config_type.model_fields.items()
            if name not in without
        ),
    )


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return code(shown(kind_of(field), field.default)) if field.default != "" else "empty"


def accepted(field: FieldInfo) -> str:
    kind, bounds = kind_of(field), bounds_of(field)
    return "" if bounds is None else f"{shown(kind, bounds[0])} to {shown(kind, bounds[1])}"
