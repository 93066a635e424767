"""Programs of the AutoNAT tests: a server, and a client that has its addresses checked.

python autonat_program.py serve ADDRESS [DIAL_BACK_ADDRESS]...
python autonat_program.py serve-as KEY_FILE ADDRESS
python autonat_program.py check SERVER_ADDRESS...
python autonat_program.py check-own-tcp SERVER_ADDRESS...

All listen on TCP and QUIC, on port 4001. The client asks the servers where they see it, and has
those addresses checked and the ones of its interfaces; or only the latter's TCP addresses, for
servers that know nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from lattica.config import NodeConfig
from lattica.errors import AddressError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import Kind, interface_addresses, kind_of, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import IdentifyInfo, SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.autonat.client import AutonatClient
from lattica.nat.traversal.autonat.client_core import Reachability, is_checkable
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.autonat.server import AutonatServer
from lattica.node import Node

SEEN = "/lattica-test/seen/1.0.0"
PORT = 4001
DIAL_TIMEOUT = 10.0
"""Seconds; what is filtered takes that long."""
PATIENCE = 240.0
"""Seconds that a client waits for its results, which then are what they are."""


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def listen_on(host: str) -> tuple[str, ...]:
    return f"/ip4/{host}/tcp/{PORT}", f"/ip4/{host}/udp/{PORT}/quic-v1/noise"


async def tell_seen(stream: Stream) -> None:
    await stream.send_all(str(stream.connection.remote_addr).encode())
    await stream.send_eof()


async def serve(host: str, *dial_back_ips: str) -> None:
    await serve_as(None, host, *dial_back_ips)


async def serve_as(key: str | None, host: str, *dial_back_ips: str) -> None:
    swarm = SwarmConfig(listen=listen_on(host), identify=IdentifyInfo("/lattica/1.0.0"))
    identity = Identity.generate() if key is None else Identity.load(key)
    async with Node(NodeConfig(swarm=swarm), identity=identity) as node:
        config = AutonatServerConfig(
            dial_timeout=DIAL_TIMEOUT,
            dial_back_timeout=DIAL_TIMEOUT,
            dial_back_ips=dial_back_ips,
        )
        server = AutonatServer(node.swarm, config)
        node.swarm.protocols.handle_all(server.handlers)
        node.handle(SEEN, tell_seen)
        say(event="ready", addrs=[str(addr) for addr in node.addrs])
        await trio.sleep_forever()


async def seen_by(swarm: Swarm, server: Multiaddr) -> Multiaddr:
    """Where a server sees us when we dial it from our listening port."""
    addr, peer_id = split_peer(server)
    if peer_id is None:
        raise AddressError(f"{server} does not say who is there")
    connection = await swarm.dial_fresh(peer_id, addr)
    async with await connection.open(SEEN) as stream:
        return Multiaddr((await stream.receive_some()).decode())


async def check(*servers: str) -> None:
    async with running_swarm() as swarm:
        seen = [await seen_by(swarm, server) for server in map(Multiaddr, servers)]
        await check_addresses(swarm, servers, (*seen, *interface_addresses(swarm.listen_addrs)))


async def check_own_tcp(*servers: str) -> None:
    async with running_swarm() as swarm:
        await swarm.dial(None, map(Multiaddr, servers))
        own = interface_addresses(swarm.listen_addrs)
        await check_addresses(swarm, servers, [addr for addr in own if kind_of(addr) is Kind.TCP])


@asynccontextmanager
async def running_swarm() -> AsyncIterator[Swarm]:
    swarm = Swarm(Identity.generate(), SwarmConfig(listen=listen_on("0.0.0.0")))
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        yield swarm
        nursery.cancel_scope.cancel()


async def check_addresses(
    swarm: Swarm, servers: Sequence[str], candidates: Iterable[Multiaddr]
) -> None:
    """Say what the servers make of those that can be checked."""
    addrs = [addr for addr in dict.fromkeys(candidates) if is_checkable(addr)]
    peers = [peer for server in servers if (peer := split_peer(Multiaddr(server))[1]) is not None]
    async with trio.open_nursery() as nursery:
        client = AutonatClient(swarm, lambda: peers, lambda: addrs)
        swarm.protocols.handle_all(client.handlers)
        nursery.start_soon(client.run)
        with trio.move_on_after(PATIENCE):
            while len(found := client.results) < len(addrs) or any(
                result.reachability is Reachability.UNKNOWN for result in found.values()
            ):
                await trio.sleep(0.05)
        say(
            event="results",
            results={
                str(addr): [result.reachability.value, result.agreeing]
                for addr, result in client.results.items()
            },
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("lattica.nat.traversal.autonat").setLevel(logging.DEBUG)
    commands: dict[str, Callable[..., Awaitable[object]]] = {
        "serve": serve,
        "serve-as": serve_as,
        "check": check,
        "check-own-tcp": check_own_tcp,
    }
    trio.run(commands[sys.argv[1]], *sys.argv[2:])
