"""py-libp2p 0.8.1, as its users get it: TCP, Noise, yamux, its own host and swarm.

Run as a script in py-libp2p's own virtual environment: `python impl_py_libp2p.py server|client …`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs import impl_py_libp2p_pubsub as pubsub
    from tools.bench.programs.work import trio_workloads as work
else:
    import bench_child as bc
    import impl_py_libp2p_pubsub as pubsub
    from work import trio_workloads as work


QUIC = "quic-v1"
QUIC_CASES = (*bc.ECHO_SEQ, *bc.ECHO_C64, "handshakes")
"""What it can do over QUIC."""
TRANSPORTS = {"tcp": "TCP, Noise, yamux", "quic": "QUIC"}


def make_host(job: bc.Job) -> IHost:
    """A host with Noise alone, and limits and housekeeping out of the benchmark's way."""
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    return new_host(
        key_pair=keys,
        # The library's default set includes plaintext and would be no fair comparison.
        sec_opt={NOISE: noise},
        enable_quic=job.transport == "quic",
        connection_config=ConnectionConfig(
            max_connections=4096,
            high_watermark=4096,
            # Otherwise it dials whatever the peerstore knows.
            min_connections=0,
            low_watermark=0,
        ),
    )


class Stream:
    """:class:`trio_workloads.BenchStream` over one of py-libp2p's."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def send(self, data: bytes | memoryview) -> None:
        await self._stream.write(bytes(data))

    async def receive(self) -> int:
        try:
            return len(await self._stream.read(bc.MIB))
        except StreamEOF:
            return 0

    async def receive_exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            data += await self._stream.read(n - len(data))
        return data

    async def send_eof(self) -> None:
        # Every stream of its swarm has this, but its interface does not name it.
        await cast(NetStream, self._stream).close_write()

    async def aclose(self) -> None:
        await self._stream.close()


class Dialer:
    """:class:`trio_workloads.Dialer` over a running host."""

    def __init__(self, host: IHost) -> None:
        self._host = host
        self._peer: PeerInfo | None = None

    def _known(self) -> PeerInfo:
        if self._peer is None:
            raise RuntimeError("connect first")
        return self._peer

    async def connect(self, addr: str) -> None:
        self._peer = info_from_p2p_addr(Multiaddr(addr))
        await self._host.connect(self._peer)

    async def disconnect(self) -> None:
        await self._host.disconnect(self._known().peer_id)

    async def open(self, protocol: str) -> Stream:
        return Stream(await self._host.new_stream(self._known().peer_id, [TProtocol(protocol)]))


class PyLibp2p:
    """:class:`trio_workloads.Implementation`."""

    # Its listener takes 250 in the life of a host and refuses every one after that.
    max_connections: int | None = 240

    def __init__(self, job: bc.Job) -> None:
        self.note = f"py-libp2p 0.8.1: {TRANSPORTS[job.transport]}"
        self._job = job

    @contextlib.asynccontextmanager
    async def dialer(self) -> AsyncIterator[Dialer]:
        host = make_host(self._job)
        async with host.run(listen_addrs=[]):
            yield Dialer(host)


def isolated(handler: work.Handler) -> Callable[[INetStream], Awaitable[None]]:
    """What escapes from a handler would end the whole host."""

    async def handle(stream: INetStream) -> None:
        with contextlib.suppress(Exception):
            await handler(Stream(stream))
        with contextlib.suppress(Exception):
            await stream.close()

    return handle


async def serve(child: bc.Child, job: bc.Job) -> None:
    host = make_host(job)
    async with host.run(listen_addrs=[Multiaddr(bc.multiaddr(job, QUIC))]):
        for protocol, handler in work.HANDLERS.items():
            host.set_stream_handler(TProtocol(protocol), isolated(handler))
        port = int(str(host.get_transport_addrs()[0]).split("/")[4])
        addr = f"{bc.multiaddr(job, QUIC, '{port}')}/p2p/{host.get_id()}"
        if job.case == pubsub.CASE:
            await pubsub.serve(child, host, addr, port)
        child.ready(addr, port)
        await trio.sleep_forever()


async def relay(child: bc.Child, job: bc.Job) -> None:
    """Its relay, between peers of ours, with no limit that this work could hit."""
    if job.case == "circuits-500-p99":
        raise bc.Unsupported("its listener takes 250 connections in the life of a host")
    limits = RelayLimits(duration=10**6, data=2**60, max_circuit_conns=4096, max_reservations=4096)
    host = make_host(job)
    async with host.run(listen_addrs=[Multiaddr(bc.multiaddr(job, QUIC))]):
        protocol = CircuitV2Protocol(host, limits, allow_hop=True)
        async with background_trio_service(protocol):
            port = int(str(host.get_transport_addrs()[0]).split("/")[4])
            child.ready(f"/ip4/{job.host}/tcp/{{port}}/p2p/{host.get_id()}", port)
            await trio.sleep_forever()


async def publish(child: bc.Child, job: bc.Job) -> None:
    host = make_host(job)
    async with host.run(listen_addrs=[]):

        async def connect() -> None:
            await host.connect(info_from_p2p_addr(Multiaddr(job.addr)))

        await pubsub.run_client(child, job, host, connect, "py-libp2p 0.8.1: GossipSub over TCP")


def main(child: bc.Child, job: bc.Job) -> None:
    logging.disable(logging.CRITICAL)
    if job.case.startswith("rpc-"):
        raise bc.Unsupported("it has no calls")
    if job.transport == "quic" and job.case not in QUIC_CASES:
        raise bc.Unsupported("its QUIC loses bytes of long streams, and many streams stall")
    if job.role == "relay":
        trio.run(relay, child, job)
    elif job.role == "server":
        trio.run(serve, child, job)
    elif job.case == pubsub.CASE:
        trio.run(publish, child, job)
    else:
        trio.run(partial(work.run_client, child, job, PyLibp2p(job)))


if __name__ == "__main__":
    bc.run(main)
