"""py-libp2p's own host, as a process: JSON requests on stdin, JSON replies on stdout.

Runs in our environment, but imports nothing of ours. Noise only: the library's default set
also offers plaintext.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from typing import Any

import multiaddr
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport

ECHO = TProtocol("/lattica-test/echo/1.0.0")
CHUNK = 65536


async def echo(stream: Any) -> None:
    try:
        with suppress(StreamEOF):
            while data := await stream.read(CHUNK):
                await stream.write(data)
        await stream.close()
    except Exception:
        # An exception that leaves a handler ends this library's whole host.
        await stream.reset()


async def call_echo(host: Any, peer: ID, size: int) -> dict[str, object]:
    payload = os.urandom(size)
    received = hashlib.sha256()
    count = 0
    stream = await host.new_stream(peer, [ECHO])

    async def send() -> None:
        for start in range(0, size, CHUNK):
            await stream.write(payload[start : start + CHUNK])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while count < size:
            data = await stream.read(CHUNK)
            if not data:
                break
            received.update(data)
            count += len(data)
    await stream.close()
    same = received.digest() == hashlib.sha256(payload).digest()
    return {"sent": size, "received": count, "same": same}


async def answer(host: Any, request: dict[str, Any]) -> object:
    match request["do"]:
        case "connect":
            await host.connect(info_from_p2p_addr(multiaddr.Multiaddr(request["addr"])))
            return None
        case "peers":
            return [str(peer) for peer in host.get_connected_peers()]
        case "ping":
            rtts = await PingService(host).ping(ID.from_string(request["peer"]), 1)
            return rtts[0] / 1e3
        case "echo":
            return await call_echo(host, ID.from_string(request["peer"]), request["size"])
        case "identified":
            peer = ID.from_string(request["peer"])
            store = host.get_peerstore()
            return {
                "protocols": list(store.get_protocols(peer)),
                "addrs": [str(addr) for addr in store.addrs(peer)],
            }
        case other:
            raise ValueError(f"unknown request {other}")


def reply(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


async def main() -> None:
    key_pair = create_new_key_pair()
    noise = Transport(libp2p_keypair=key_pair, noise_privkey=create_noise_key().private_key)
    host = new_host(
        key_pair=key_pair,
        sec_opt={PROTOCOL_ID: noise},
        muxer_opt=create_yamux_muxer_option(),
    )
    host.set_stream_handler(ECHO, echo)
    async with host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        addrs = [str(addr) for addr in host.get_addrs()]
        reply({"ready": True, "peer_id": str(host.get_id()), "addrs": addrs})
        async for line in _lines():
            request = json.loads(line)
            try:
                with trio.fail_after(request["timeout"]):
                    result = await answer(host, request)
                reply({"id": request["id"], "result": result})
            except Exception as error:
                reply({"id": request["id"], "error": f"{type(error).__name__}: {error}"})


async def _lines() -> Any:
    stdin = trio.wrap_file(sys.stdin)
    while line := await stdin.readline():
        yield line


if __name__ == "__main__":
    trio.run(main)
