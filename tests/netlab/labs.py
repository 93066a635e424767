"""What tests of the lab share: small programs that talk over the lab's network."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import trio

from tools.netlab.lab.lab import Lab
from tools.netlab.lab.programs import LATTICA, Event, Running
from tools.netlab.wire.tun import inside_netns

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
TRIES = 240
"""For what must get through: a minute, on a machine that has much else to do."""
FEW = 2
"""For what must not get through."""
ENOUGH_S = 120
"""For whatever is waited for, on a machine that has much else to do."""
SO_NETNS_COOKIE = 71


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


async def said(running: Running, name: str, start: int = 0) -> Event:
    """The first event of that name, from number `start` on; fails when there is none in time."""
    with trio.move_on_after(ENOUGH_S):
        _, event = await running.wait_event(lambda event: event.get("event") == name, start)
        return event
    raise AssertionError(f"{running.name} never said {name}: {running.last_words()}")


async def start_relay(lab: Lab) -> str:
    """Start a relay for everybody on the host "relay"; where it is reached by TCP."""
    argv = [*LATTICA, "relay", "--open", "--json", "--listen", "/ip4/0.0.0.0/tcp/4001"]
    relay = await lab.start("relay", argv, name="relay")
    addrs = (await said(relay, "ready"))["addrs"]
    [at] = [addr for addr in addrs if lab.public_ip("relay") in addr and "/tcp" in addr]
    return str(at)


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


def namespace_cookie(path: str) -> int:
    """What tells a network namespace from all others, also from those that came before.

    Unlike its inode number, which goes to the next namespace that is made, of whatever lab.
    """
    with inside_netns(path), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)  # socket(7); Linux 5.14
    return int.from_bytes(raw, sys.byteorder)


def namespaces_in_use() -> set[int]:
    """The cookies of all network namespaces that some process is in or holds open."""
    found: dict[str, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            handles: list[Any] = [process / "ns" / "net", *(process / "fd").iterdir()]
        except OSError:
            continue
        for handle in handles:
            try:
                inode = os.readlink(handle)
            except OSError:
                continue
            if inode.startswith("net:["):
                found.setdefault(inode, []).append(str(handle))
    cookies = set()
    for paths in found.values():
        for path in paths:
            try:
                cookies.add(namespace_cookie(path))
            except OSError:
                continue  # its process has just ended, another may have it
            break
    return cookies
