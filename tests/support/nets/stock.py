"""py-libp2p's own host, on its own swarm, in this process. Noise only: its default set of
secure channels contains plaintext."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr.multiaddr import Multiaddr


@asynccontextmanager
async def stock_host() -> AsyncIterator[Any]:
    """A host that listens on a loopback port."""
    key_pair = create_new_key_pair()
    noise = Transport(libp2p_keypair=key_pair, noise_privkey=create_noise_key().private_key)
    host = new_host(
        key_pair=key_pair,
        sec_opt={PROTOCOL_ID: noise},
        muxer_opt=create_yamux_muxer_option(),
    )
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host


def info(host: Any) -> PeerInfo:
    """Where a host (or a node's host) is to be found."""
    return info_from_p2p_addr(host.get_addrs()[0])


async def echo(stream: Any) -> None:
    """A handler in py-libp2p's manner."""
    try:
        while True:
            await stream.write(await stream.read(65536))
    except StreamEOF:
        await stream.close()


async def call_echo(host: Any, peer_id: Any, protocol: str, words: bytes) -> bytes:
    stream = await host.new_stream(peer_id, [protocol])
    await stream.write(words)
    answer = bytearray()
    while len(answer) < len(words):
        answer += await stream.read(65536)
    await stream.close()
    return bytes(answer)
