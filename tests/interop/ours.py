"""Our side of an interop test: a node on loopback, and what is done with a foreign peer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import trio
from libp2p.host.ping import PingService

from lattica.config import NodeConfig
from lattica.dht.config import PROTOCOL, DhtConfig
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.config import IdentifyInfo, SwarmConfig
from lattica.nat.libp2p.border import libp2p_id
from lattica.node import Node
from tests.interop.foreign import ECHO, PING, EchoResult, ForeignPeer, Identified
from tests.support.nets.nets import echo

T = TypeVar("T")

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
CHUNK = 64 * 1024
PATIENCE = 120.0
"""Seconds after which something that should happen soon has not happened."""


@asynccontextmanager
async def our_node(
    listen: Sequence[str] = LOOPBACK,
    *,
    psk: bytes | None = None,
    protocol_version: str | None = None,
    dht_protocol: str = PROTOCOL,
) -> AsyncIterator[Node]:
    """A node that serves the echo protocol, and offers its partners all that it can."""
    swarm = SwarmConfig(listen=tuple(listen), private_network_key=psk, cipher="aes-256-gcm")
    if protocol_version is not None:
        swarm = replace(swarm, identify=IdentifyInfo(protocol_version=protocol_version))
    dht = DhtConfig(protocol=dht_protocol)
    async with Node(NodeConfig(swarm=swarm, dht=dht)) as node:
        node.handle(ECHO, echo)
        yield node


async def eventually(look: Callable[[], T], what: str) -> T:
    """The first truthy result of `look`."""
    with trio.move_on_after(PATIENCE):
        while not (found := look()):
            await trio.sleep(0.05)
        return found
    raise AssertionError(f"{what} did not happen within {PATIENCE:g} s")


def address(node: Node, *, ending: str = "") -> str:
    """An address of ours whose transport part ends so, `/p2p/ID` included."""
    suffix = f"{ending}/p2p/{node.peer_id}"
    return next(str(addr) for addr in node.addrs if str(addr).endswith(suffix))


async def ping(node: Node, peer: str) -> None:
    """Ping twice on one stream by hand, and once by py-libp2p's service on our host."""
    async with await node.open_stream(peer, PING) as stream:
        for _ in range(2):
            payload = os.urandom(32)
            await stream.send_all(payload)
            assert await stream.receive_exactly(32) == payload
    await PingService(node.host).ping(libp2p_id(parse_peer_id(peer)), 1)


async def call_echo(
    node: Node, peer: str, size: int, *, half_close_first: bool = True
) -> EchoResult:
    """Send `size` random bytes to the peer's echo protocol and read them back to the end.

    Args:
        half_close_first: end our direction before reading what comes back to the end;
            else only when all has come back, for partners that end both at once.
    """
    payload = os.urandom(size)
    received = hashlib.sha256()
    count = 0
    async with await node.open_stream(peer, ECHO) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            for start in range(0, size, CHUNK):
                await stream.send_all(payload[start : start + CHUNK])
            if half_close_first:
                await stream.send_eof()

        nursery.start_soon(send)
        while count < size or half_close_first:
            data = await stream.receive_some()
            if not data:
                break
            received.update(data)
            count += len(data)
    return EchoResult(size, count, received.digest() == hashlib.sha256(payload).digest())


def learned(node: Node, peer: str) -> set[str]:
    """The protocols that we know of the peer by identify."""
    connection = node.swarm.registry.best(parse_peer_id(peer))
    return set(connection.known_protocols) if connection is not None and connection.agent else set()


async def partner_learned(partner: ForeignPeer, peer_id: PeerId) -> Identified:
    """What the partner knows of us, as soon as it knows that we serve echo."""
    known: Identified | None = None
    with trio.move_on_after(PATIENCE):
        while (known := await partner.identified(str(peer_id))) is None or (
            ECHO not in known.protocols
        ):
            await trio.sleep(0.05)
        return known
    raise AssertionError(f"{partner.name} never identified us: {known}")


async def partner_connected(partner: ForeignPeer, peer_id: PeerId, *, to_us: bool = True) -> None:
    """Wait until the partner says that it is (or is not) connected to us."""
    with trio.move_on_after(PATIENCE):
        while (str(peer_id) in await partner.peers()) is not to_us:
            await trio.sleep(0.05)
        return
    raise AssertionError(f"{partner.name} never {'connected' if to_us else 'disconnected'}")
