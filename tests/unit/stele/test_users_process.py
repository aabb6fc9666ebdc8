"""The client in a process of others: it changes nothing of it, and nothing hangs that is forked from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from stele.services.own_process import GRPC

CONNECTS = """
import json, os
before = dict(os.environ)
import stele, stele.sync
for attempt in range(2):
    try:
        with stele.sync.connect("127.0.0.1:1", timeout_s=0.3) as client:
            client.admin.cluster()
    except stele.SteleError:
        pass
after = dict(os.environ)
print(json.dumps({name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}))
"""

# The environment as it is when gRPC is first looked for.
STARTS = """
import json, os, runpy, sys

class Finder:
    seen = None
    def find_spec(self, name, path=None, target=None):
        if name == "grpc" and Finder.seen is None:
            Finder.seen = {k: v for k, v in os.environ.items() if k.startswith("GRPC_")}

sys.meta_path.insert(0, Finder())
module, sys.argv[1:] = sys.argv[1], ["--help"]
sys.stdout, stdout = open(os.devnull, "w"), sys.stdout
try:
    if module == "stele.cli.main":
        from stele.cli.main import main
        main()
    else:
        runpy.run_module(module, run_name="__main__")
except SystemExit:
    pass
print(json.dumps(Finder.seen), file=stdout)
"""

SERVES = """
import asyncio, grpc
from stele.services.pb import nameserver_pb2 as pb, nameserver_pb2_grpc

class Nameserver(nameserver_pb2_grpc.NameserverServicer):
    async def GetCluster(self, request, context):
        return pb.GetClusterResponse(cluster="c", cluster_id="i", answered_by="ns1")

async def main():
    server = grpc.aio.server()
    nameserver_pb2_grpc.add_NameserverServicer_to_server(Nameserver(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""

# A child forked beside a connected client is refused at once; one forked after its close may connect.
FORKED = """
import os, sys, threading, time, stele, stele.sync
address = sys.argv[1]

def child():
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            with stele.sync.connect(address) as mine:
                mine.admin.cluster()
            status = 1
        except stele.ClientClosed as e:
            status = 2 if "forked" in str(e) else 3
        finally:
            os._exit(status)
    hung = threading.Timer(20, os.kill, (pid, 9))
    hung.start()
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    hung.cancel()
    return ended

with stele.sync.connect(address) as client:
    for turn in range(10):
        client.admin.cluster()
        assert child() == 2
    client.admin.cluster()
assert child() == 1
"""


def environment(**more: str) -> dict[str, str]:
    """What a user has who has never heard of gRPC."""
    return {k: v for k, v in os.environ.items() if k not in GRPC} | more


def run(program: str, *arguments: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=env, check=False, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(program: str, *arguments: str, env: dict[str, str]) -> Any:
    return json.loads(run(program, *arguments, env=env))


def test_connecting_leaves_the_environment_as_it_was() -> None:
    assert read(CONNECTS, env=environment()) == {}


@pytest.mark.parametrize("module", ["stele.nameserver", "stele.datanode", "stele.broker", "stele.cli.main"])
def test_processes_of_our_own_tell_grpc_before_it_is_imported(module: str) -> None:
    assert read(STARTS, module, env=environment()).items() >= GRPC.items()
    assert read(STARTS, module, env=environment(GRPC_VERBOSITY="ERROR"))["GRPC_VERBOSITY"] == "ERROR"


def test_a_process_forked_beside_a_connected_client_is_refused_and_does_not_hang_in_grpc() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVES], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        run(FORKED, f"127.0.0.1:{port}", env=environment())
    finally:
        server.kill()
        server.wait()
