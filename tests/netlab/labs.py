"""What tests of the lab share: small programs that talk over the lab's network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tools.netlab.lab import Lab
from tools.netlab.programs import Running

PROJECT = Path(__file__).resolve().parents[2]

# Answers each datagram with the endpoint it came from.
ECHO = """
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], int(sys.argv[2])))
print(json.dumps({"event": "ready"}), flush=True)
while True:
    _, source = sock.recvfrom(2048)
    sock.sendto(json.dumps(source[:2]).encode(), source)
"""
# Sends from a port to an endpoint until something comes back; prints what.
ASK = """
import json, socket, sys
host, port, source, tries = sys.argv[1], *map(int, sys.argv[2:5])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind(("", source))
sock.settimeout(0.25)
answer = None
for _ in range(tries):
    try:
        sock.sendto(b"?", (host, port))
        answer = json.loads(sock.recv(2048))
        break
    except OSError:
        pass
print(json.dumps({"answer": answer}))
"""
TRIES = 8
"""Enough for what gets through; what does not is given up after two seconds."""


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


async def start_echo(lab: Lab, node: str, address: str, port: int = 7) -> Running:
    """Start the echo on a node, and wait until it listens."""
    running = await lab.start(node, python(ECHO, address, port), name=f"echo-{node}-{port}")
    await running.wait_event(lambda event: event.get("event") == "ready")
    return running


async def ask(
    lab: Lab, node: str, address: str, port: int = 7, *, source: int = 0, tries: int = TRIES
) -> tuple[str, int] | None:
    """The endpoint from which the echo at `address` sees a node; None if nothing comes back."""
    status, out, errors = await lab.run(node, python(ASK, address, port, source, tries))
    assert status == 0, errors.decode()
    answer = json.loads(out)["answer"]
    return None if answer is None else (str(answer[0]), int(answer[1]))


async def seen(lab: Lab, node: str, address: str, port: int = 7) -> str | None:
    """The address from which the echo at `address` sees a node; None if nothing comes back."""
    answer = await ask(lab, node, address, port)
    return None if answer is None else answer[0]


def netlab_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools.netlab", *arguments]


def namespaces_in_use() -> set[int]:
    """The inodes of all network namespaces that some process is in or holds open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            handles: list[Any] = [process / "ns" / "net", *(process / "fd").iterdir()]
        except OSError:
            continue
        for handle in handles:
            try:
                if os.readlink(handle).startswith("net:["):
                    found.add(os.stat(handle).st_ino)
            except OSError:
                continue
    return found
