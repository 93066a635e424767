"""A node behind a NAT: says what it has, or finds who has it: `python discovery_program.py
serve|find RELAY`. Prints JSON, one object a line.
"""

from __future__ import annotations

import json
import sys

import trio

from lattica import Node, load_config

THING, TOPIC = "gpu/a100", "news"


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


async def serve(node: Node) -> None:
    await node.wait_reachable(120)
    topic = node.topic(TOPIC)
    async with topic.subscribe() as messages:
        assert await node.dht.provide(THING) >= 1
        assert await node.dht.put(f"/p2p/{node.peer_id}/load", {"queue": 3}) >= 1
        say("ready", peer=str(node.peer_id))
        async for message in messages:
            say("heard", data=message.data.decode(), source=str(message.source))
            await topic.publish(b"answer")


async def find(node: Node) -> None:
    topic = node.topic(TOPIC)
    async with topic.subscribe() as messages:
        found = [peer async for peer in node.dht.find_providers(THING)]
        (peer,) = found
        load = await node.dht.get(f"/p2p/{peer.peer_id}/load", owner=peer.peer_id)
        await node.connect(peer.peer_id, timeout=120)  # its ID is enough
        path = node.path(peer.peer_id)
        while peer.peer_id not in topic.peers():
            await trio.sleep(0.05)
        await topic.publish(b"question")
        answer = await anext(messages)
        say(
            "found",
            peer=str(peer.peer_id),
            load=None if load is None else load.value,
            path=None if path is None else path.path,
            answer=answer.data.decode(),
            answered_by=str(answer.source),
        )


async def main(role: str, relay: str) -> None:
    settings = {
        "listen": ["/ip4/0.0.0.0/tcp/4002"],
        "relays": [relay],
        "bootstrap": [relay],
        "nat.port_mapping.enabled": False,
        "dht.enabled": True,
    }
    with trio.fail_after(240):
        async with Node(load_config(environment={}, overrides=settings)) as node:
            await (serve if role == "serve" else find)(node)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
