"""What a program has loaded when it runs a node, and what not: every user pays for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEVER = {
    "libp2p", "multiaddr", "fastecdsa", "gmpy2", "coincurve", "nacl",
    "numpy", "torch", "safetensors", "grpc", "rich", "typer", "hypothesis", "pytest",
    "pydantic", "httpx", "requests", "psutil", "netaddr", "uv",
}  # fmt: skip
"""Loaded by no node that uses neither py-libp2p nor arrays."""
SELDOM = {"websockets", "Crypto", "aioice", "dns", "cffi", "ifaddr._win32"}
"""Loaded with the first WebSocket, in a private network, with the first STUN message."""
NOT_BY_IMPORT = {"qh3", "asyncio", "cryptography.x509", "importlib.metadata"}
"""Loaded with the first swarm."""

OF_TYPER = {"typer", "rich", "pydantic"}
"""Loaded by the command line; the last only where it is installed."""

REPORT = "import sys, json; print(json.dumps(sorted(sys.modules)))"
IMPORT = f"from lattica import Node; {REPORT}"
RUN = f"""
import trio
from lattica import Node, NodeConfig
from lattica.nat.config import SwarmConfig

LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise")

async def echo(stream):
    await stream.send_all(await stream.receive_exactly(5))

async def main():
    config = NodeConfig(swarm=SwarmConfig(listen=LISTEN))
    async with Node(config) as server:
        server.handle("/echo/1", echo)
        for addr in server.addrs:
            async with Node(config) as client:
                await client.connect(addr)
                async with await client.open_stream(server.peer_id, "/echo/1") as stream:
                    await stream.send_all(b"hello")
                    await stream.receive_exactly(5)

trio.run(main)
{REPORT}
"""


def loaded(program: str) -> set[str]:
    """The modules that a program ends with, under a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("program", "forbidden"), [(IMPORT, NEVER | SELDOM | NOT_BY_IMPORT), (RUN, NEVER | SELDOM)]
)
def test_what_is_not_loaded(program, forbidden):
    assert loaded(program) & forbidden == set()


def test_the_command_shows_an_id_without_a_swarm():
    program = (
        "import sys; sys.argv[1:] = ['id', '--help']\n"
        "from lattica.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"import contextlib\n{REPORT}"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    modules = set(json.loads(result.stdout.splitlines()[-1]))
    assert modules & {*NEVER - OF_TYPER, *SELDOM, "qh3", "trio"} == set()
