"""A process whose role behaves as told, for tests of the process itself: ``python -m tests.unit.services.roles BEHAVIOUR --name …``."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

from stele.services.config import BrokerConfig
from stele.services.errors import NameTaken, PortTaken
from stele.services.process import Runtime, main


def block() -> None:
    while True:
        time.sleep(0.01)


class Behaving:
    def __init__(self, behaviour: str, config: BrokerConfig, runtime: Runtime) -> None:
        self.behaviour, self.config, self.runtime = behaviour, config, runtime
        if behaviour == "fails_in_build":
            raise PortTaken("127.0.0.1:7000 is in use by another process", endpoint="127.0.0.1:7000")

    async def start(self) -> None:
        match self.behaviour:
            case "fails":
                raise NameTaken("the name br1 is held by 10.0.0.9:7000", name="br1", endpoint="10.0.0.9:7000")
            case "crashes":
                raise KeyError("secret detail")
            case "starts_for_ever":
                print("starting", flush=True)
                await asyncio.sleep(3600)
            case "opens_later":
                self.runtime.ready.add("loaded", detail="0/1")
        self.runtime.announce("127.0.0.1:7001", raft_endpoint="127.0.0.1:7002")
        print("started", flush=True)
        match self.behaviour:
            case "fails_later":
                asyncio.get_running_loop().call_later(0.05, self.runtime.fail, NameTaken("the name br1 was lost"))
            case "leaves_a_thread":
                threading.Thread(target=time.sleep, args=(3600,)).start()
            case "raises_in_a_task":
                asyncio.get_running_loop().call_soon(lambda: 1 / 0)

    async def drain(self) -> None:
        print("draining", flush=True)
        match self.behaviour:
            case "drains_for_ever":
                await asyncio.sleep(3600)
            case "blocks_the_loop":
                block()
            case "fails_to_drain":
                raise KeyError("while draining")

    async def stop(self) -> None:
        print("stopped", flush=True)


if __name__ == "__main__":
    what = sys.argv.pop(1)
    sys.exit(main("broker", BrokerConfig, lambda config, runtime: Behaving(what, config, runtime)))
