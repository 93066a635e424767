"""Twenty workers that nobody can dial say what they can do; a client finds those it needs, while a
third of them are killed.

Each worker listens nowhere and is reached through a relay, as a machine behind a NAT is before a
hole is punched. The relay is the only server of the DHT: `python examples/dht_workers.py`.
"""

from __future__ import annotations

import random

import trio

from lattica import Identity, Node, NodeConfig, load_config

WORKERS = 20
SKILLS = ("gpu/a100", "gpu/h100", "gpu/l4")
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def config(**settings: object) -> NodeConfig:
    quiet = {"nat.port_mapping.enabled": False, "dht.enabled": True}
    return load_config(environment={}, overrides={**quiet, **settings})


async def work(
    relay: str,
    identity: Identity,
    number: int,
    task_status: trio.TaskStatus[tuple[Node, trio.CancelScope]],
) -> None:
    """One worker: what it can do is a provider record, and how busy it is a value of its own."""
    with trio.CancelScope() as scope:
        settings = config(listen=[], relays=[relay], bootstrap=[relay])
        async with Node(settings, identity=identity) as node:
            await node.wait_reachable()
            await node.dht.provide(SKILLS[number % len(SKILLS)])
            load = {"worker": number, "queue": number % 5}
            await node.dht.put(f"/p2p/{node.peer_id}/load", load, ttl=600)
            task_status.started((node, scope))
            await trio.sleep_forever()


async def find(client: Node, skill: str) -> dict[int, int]:
    """The workers with a skill that are there: by their number, how long their queue is."""
    found: dict[int, int] = {}
    async for peer in client.dht.find_providers(skill):
        try:
            with trio.fail_after(5):
                await client.connect(peer.addrs or peer.peer_id)  # who is gone says nothing more
        except (OSError, trio.TooSlowError):
            continue
        load = await client.dht.get(f"/p2p/{peer.peer_id}/load")
        if load is not None and isinstance(load.value, dict):
            found[load.value["worker"]] = load.value["queue"]
    return found


async def main() -> None:
    identities = [Identity.generate() for _ in range(WORKERS)]
    allowed = [str(identity.peer_id) for identity in identities]
    serves = {"nat.relay_server.enabled": True, "nat.relay_server.allow_peers": allowed}
    client_identity = Identity.generate()
    allowed.append(str(client_identity.peer_id))
    relay_config = config(listen=[LOOPBACK], **serves)
    async with Node(relay_config) as relay, trio.open_nursery() as nursery:
        at = str(relay.addrs[0])
        workers: dict[int, trio.CancelScope] = {}

        async def begin(number: int) -> None:
            node, scope = await nursery.start(work, at, identities[number], number)
            assert all("p2p-circuit" in str(addr) for addr in node.addrs)
            workers[number] = scope

        async with trio.open_nursery() as starting:
            for number in range(WORKERS):
                starting.start_soon(begin, number)
        print(f"{len(workers)} workers say what they can do")

        settings = config(listen=[], bootstrap=[at])
        async with Node(settings, identity=client_identity) as client:
            before = await find(client, SKILLS[0])
            expected = [n for n in range(WORKERS) if n % len(SKILLS) == 0]
            print(f"{SKILLS[0]}: {sorted(before)}")
            assert sorted(before) == expected
            killed = random.Random(1).sample(range(WORKERS), WORKERS // 3)
            for number in killed:
                workers.pop(number).cancel()
            await trio.sleep(1.0)
            after = await find(client, SKILLS[0])
            print(f"{len(killed)} are gone; {SKILLS[0]}: {sorted(after)}")
            assert sorted(after) == [n for n in expected if n not in killed]
            best = min(after, key=lambda number: after[number])
            print(f"worker {best} has the shortest queue: {after[best]}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
