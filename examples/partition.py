"""Five peers and a network that breaks in two: both sides go on writing, and come to one state.

Each peer runs in a network namespace of its own; the lab (tools/netlab, from a checkout, on Linux)
drops all packets between two of them and three. What the cluster keeps is a replicated document:
which model is in use, and counters of what was served. `python examples/partition.py`; `--long`
lasts until the sides have given each other up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from lattica import LatticaError, Node, load_config
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.uses.model_registry import ModelRegistry
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host

SIDES = (("amsterdam", "brussels"), ("oslo", "paris", "rome"))
NAMES = (*SIDES[0], *SIDES[1])
SERVED = {"amsterdam": 3, "brussels": 5, "oslo": 7, "paris": 11, "rome": 13}
"""Requests that each serves in each step."""
APART = 45.0
"""Seconds; a connection over which nothing comes is given up after 15."""
SETTINGS = {
    "listen": ["/ip4/0.0.0.0/tcp/4001"],
    "nat.port_mapping.enabled": False,
    "log_level": "error",
}
SOCKET = "peer.sock"
PROGRAM = str(Path(__file__).resolve())


# One of the five.


async def peer(name: str) -> None:
    """Keep the document, stay connected, and do what is asked for on a socket in this folder."""
    async with (
        Node(load_config(environment={}, overrides=SETTINGS)) as node,
        trio.open_nursery() as nursery,
    ):
        document = await node.store.open("cluster")
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(SOCKET)
        listener.listen()

        async def serve(stream: trio.SocketStream) -> None:
            async for line in stream:
                asked = json.loads(line)
                if "meet" in asked:
                    nursery.start_soon(meet, node, asked["meet"])
                write(document, name, asked)
                await stream.send_all(json.dumps(said(document)).encode() + b"\n")

        print(json.dumps({"event": "ready", "peer": str(node.peer_id)}), flush=True)
        await trio.serve_listeners(serve, [trio.SocketListener(listener)])


async def meet(node: Node, others: dict[str, str]) -> None:
    """Connect to those that are not connected, again and again."""

    async def keep(peer_id: str, address: str) -> None:
        while True:
            if not node.is_connected(peer_id):
                with suppress(LatticaError, TimeoutError):  # it is on the other side
                    await node.connect(address, timeout=2)
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        for peer_id, address in others.items():
            if peer_id != str(node.peer_id):
                nursery.start_soon(keep, peer_id, address)


def write(document: SharedDocument, name: str, asked: dict[str, Any]) -> None:
    registry = ModelRegistry(document)
    if version := asked.get("promote"):
        registry.publish("chat", version, f"content of {version}", {"by": name})
        registry.promote("chat", version)
    if served := asked.get("served"):
        document.counter("served").add(served)
        document.counter(f"served/{name}").add(served)


def said(document: SharedDocument) -> dict[str, Any]:
    registry = ModelRegistry(document)
    current = registry.current("chat")
    return {
        "root": document.root.hex()[:8],
        "peers": len(document.peers),
        "in use": current and current.version,
        "versions": [each.version for each in registry.versions("chat")],
        "served": document.counter("served").value,
        "at the same time": len(document.registers.conflicts("models/chat/current")),
    }


# Who looks at them.


class Cluster:
    """The five, as they are asked from outside."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def ask(self, name: str, **asked: Any) -> dict[str, Any]:
        stream = await trio.open_unix_socket(str(self._lab.folder / name / SOCKET))
        async with stream:
            await stream.send_all(json.dumps(asked).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += await stream.receive_some()
        found: dict[str, Any] = json.loads(answer)
        return found

    async def agreed(self, names: Sequence[str], **expected: object) -> dict[str, Any]:
        """Wait until some peers have the same state, and that has this in it; what it is."""
        with trio.fail_after(90):
            while True:
                said = [await self.ask(name) for name in names]
                same = len({each["root"] for each in said}) == 1
                if same and all(said[0][key] == value for key, value in expected.items()):
                    return said[0]
                await trio.sleep(0.02)


async def main(*, is_long: bool) -> None:
    hosts = tuple(Host(name) for name in NAMES)
    async with open_lab(Scenario("partition", hosts=hosts, duration_s=600.0)) as lab:
        cluster = Cluster(lab)
        addresses: dict[str, str] = {}
        for name in NAMES:
            argv = [sys.executable, PROGRAM, "--peer", name]
            running = await lab.start(name, argv, name=name)
            _, ready = await running.wait_event(lambda event: event.get("event") == "ready")
            addresses[ready["peer"]] = f"/ip4/{lab.ip(name)}/tcp/4001/p2p/{ready['peer']}"
        for name in NAMES:
            await cluster.ask(name, meet=addresses)

        await cluster.ask("paris", promote="v1")
        for name in NAMES:
            await cluster.ask(name, served=SERVED[name])
        once = sum(SERVED.values())
        state = await cluster.agreed(NAMES, served=once, peers=len(NAMES) - 1)
        print(f"all five:      {line(state)}")
        assert state["in use"] == "v1"

        await lab.partition(SIDES)
        print(f"the network breaks: {' and '.join(SIDES[0])} here, {', '.join(SIDES[1])} there")
        await cluster.ask("amsterdam", promote="v2-west")
        await cluster.ask("oslo", promote="v2-north")
        for name in NAMES:
            await cluster.ask(name, served=SERVED[name])
        for side in SIDES:
            expected = once + sum(SERVED[name] for name in side)
            apart = await cluster.agreed(side, served=expected)
            print(f"{' '.join(each[0].upper() for each in side):<14} {line(apart)}")
            assert apart["in use"] == ("v2-west" if side is SIDES[0] else "v2-north")
            assert len(apart["versions"]) == 2
        if is_long:
            await trio.sleep(APART)
            for side in SIDES:
                for name in side:
                    assert (await cluster.ask(name))["peers"] == len(side) - 1
            print(f"after {APART:.0f} s each side is without the other one, and goes on")
            await cluster.ask("rome", promote="v3-north")
            for name in NAMES:
                await cluster.ask(name, served=SERVED[name])

        start = trio.current_time()
        await lab.heal()
        total = once * (3 if is_long else 2)
        state = await cluster.agreed(NAMES, served=total, peers=len(NAMES) - 1)
        print(f"one again:     {line(state)}, after {trio.current_time() - start:.1f} s")
        # Nothing that either side has written is lost, and all see who wrote at the same time.
        assert len(state["versions"]) == (4 if is_long else 3)
        assert state["at the same time"] == 2

        await cluster.ask("brussels", promote="v4")
        state = await cluster.agreed(NAMES, **{"in use": "v4"})
        print(f"brussels decides: {line(state)}")
        assert state["at the same time"] == 1


def line(state: dict[str, Any]) -> str:
    """What a state has in it, for people."""
    contested = state["at the same time"] > 1
    return (
        f"state {state['root']}, {state['in use']} in use{' (contested)' if contested else ''} "
        f"of {', '.join(state['versions'])}; {state['served']} served"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="until the sides give each other up")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer is not None:
        trio.run(peer, given.peer)
    else:
        trio.run(partial(main, is_long=given.long))
