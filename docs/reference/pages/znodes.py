"""znodes.md: the tree in ZooKeeper, from services/coordination/schema.py and the records beside it."""

from __future__ import annotations

import inspect
import re
import typing

from pages import code, table
from stele.services.coordination import records
from stele.services.coordination.records import LeaderRecord, ZnodeRecord, encode
from stele.services.coordination.schema import TREE

RECORDS = [kind for kind in vars(records).values() if isinstance(kind, type) and kind.__module__ == records.__name__]

HEAD = """# What is in ZooKeeper

Everything lies below `/stele/<cluster>`. A value is one line of JSON with its `format`, so `zkCli` shows it:

```
{example}
```

Fields that a reader does not know are ignored, and kept where it changes a record; those that a writer did not know take their defaults;
a higher `format` is refused ([RecordUnreadable](errors.md#coordination)). A field that an older process would lose is written only once the
cluster is at the record format that stands beside it ([how to upgrade](../how-to/upgrade.md)). Whatever the leading nameserver writes is in
a transaction that checks the version of `epoch`: one that was deposed writes nothing more.
"""


def page() -> str:
    rows = [
        (
            code(kind.path),
            f"[{kind.record.__name__}](#{kind.record.__name__.lower()})" if kind.record else kind.value,
            kind.lifetime.value,
            kind.writer,
            kind.readers,
        )
        for kind in TREE
    ]
    example = encode(LeaderRecord(name="ns1", endpoint="127.0.0.1:7101", epoch=3)).decode()
    lines = [
        HEAD.format(example=example),
        *table(("node", "value", "lifetime", "written by", "read by"), rows),
    ]
    for record in described():
        lines += ["", *section(record)]
    return "\n".join(lines)


def described() -> list[type[ZnodeRecord]]:
    """The records of the tree, each followed by those that it contains."""
    found: dict[type[ZnodeRecord], None] = {}
    for kind in TREE:
        if kind.record is not None:
            inner = (hint for hint in typing.get_type_hints(kind.record).values() if hint in RECORDS)
            found |= dict.fromkeys([kind.record, *inner])
    return list(found)


def section(record: type[ZnodeRecord]) -> list[str]:
    said = " ".join((inspect.getdoc(record) or "").replace("``", "`").split())
    remarks = dict(re.findall(r"^    (\w+): .*?#\s*(.+)$", inspect.getsource(record).replace("``", "`"), re.MULTILINE))
    rows = [
        (code(name), type_of(hint), default_of(record, name), remarks.get(name, "") + takes(record, name))
        for name, hint in typing.get_type_hints(record).items()
        if typing.get_origin(hint) is not typing.ClassVar and not name.endswith("_")
    ]
    return [f"## {record.__name__}", "", said, "", *table(("field", "type", "default", "what it is"), rows)]


def takes(record: type[ZnodeRecord], name: str) -> str:
    """Which record format of the cluster the field takes, where that is not the first."""
    record_format = record.__dataclass_fields__[name].metadata.get("record_format")
    return f" (takes record format {record_format})" if record_format else ""


def type_of(hint: object) -> str:
    if hint in RECORDS:
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def default_of(record: type[ZnodeRecord], name: str) -> str:
    default = inspect.signature(record).parameters[name].default
    if default is inspect.Parameter.empty:
        return "required"
    return code(repr(default)) if isinstance(default, str | int | tuple) and default != "" else "empty"
