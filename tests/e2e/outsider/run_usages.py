"""Runs pieces of documentation as they are written; started with the interpreter of a client's environment.

``run_usages.py FILE``: a JSON list of [name, code].  Before each the topic of the documentation is made anew: absent if the code creates
it, else there with one message in it.  Code that awaits finds ``client`` and ``stele`` in its namespace; other code is run as a program.
"""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from pathlib import Path

import stele
import stele.sync

TOPIC = "shop/orders"


def prepare(create: bool) -> None:
    with stele.sync.connect() as client:
        try:
            client.admin.delete_topic(TOPIC)
        except stele.TopicNotFound:
            pass
        if create:
            client.admin.create_topic(TOPIC, partitions=4)
            with client.producer(TOPIC) as producer:
                producer.send(b"there before")


async def run_async(name: str, code: str) -> None:
    namespace: dict[str, object] = {"stele": stele}
    exec(compile(f"async def usage(client):\n{textwrap.indent(code, '    ')}", name, "exec"), namespace)
    async with stele.connect() as client:
        await namespace["usage"](client)  # type: ignore[operator]


for name, code in json.loads(Path(sys.argv[1]).read_text()):
    prepare(create="create_topic" not in code)
    if "await " in code and "asyncio.run" not in code:
        asyncio.run(run_async(name, code))
    else:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    print(f"{name}: done")
