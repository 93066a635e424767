"""A UDP proxy between QUIC peers: a NAT that forgets, a path that loses and corrupts."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr

Treatment = Callable[[bytes], list[bytes]]
"""What becomes of a datagram: the datagrams that go on in its place."""


class UdpProxy:
    """Forwards datagrams of one client to `target`, and the answers back."""

    def __init__(self, target: Multiaddr) -> None:
        endpoint = to_endpoint(target)
        self._target = (endpoint.host, endpoint.port)
        self._near = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far = self._new_far()
        self._client: tuple[str, int] | None = None
        self._nursery: trio.Nursery | None = None
        self.treat: Treatment = lambda datagram: [datagram]
        self.to_target: deque[bytes] = deque(maxlen=1000)
        """The latest datagrams that the client sent."""
        self.addr = target

    @staticmethod
    def _new_far() -> trio.socket.SocketType:
        return trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def rebind(self, host: str = "127.0.0.1") -> None:
        """Like a NAT whose mapping has timed out: the target sees another source from now on."""
        assert self._nursery is not None
        far = self._new_far()
        await far.bind((host, 0))
        self._far = far
        self._nursery.start_soon(self._backward, far)

    def inject(self, datagram: bytes) -> None:
        """Send something to the target from where the client seems to be."""
        assert self._nursery is not None
        self._nursery.start_soon(self._far.sendto, datagram, self._target)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._near.bind(("127.0.0.1", 0))
        port = self._near.getsockname()[1]
        self.addr = Multiaddr(f"/ip4/127.0.0.1/udp/{port}/quic-v1/noise")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._far.bind(("127.0.0.1", 0))
            nursery.start_soon(self._forward)
            nursery.start_soon(self._backward, self._far)
            task_status.started()

    async def _forward(self) -> None:
        while True:
            datagram, self._client = await self._near.recvfrom(65536)
            self.to_target.append(datagram)
            for treated in self.treat(datagram):
                await self._far.sendto(treated, self._target)

    async def _backward(self, far: trio.socket.SocketType) -> None:
        while True:
            datagram, _ = await far.recvfrom(65536)
            if self._client is not None and far is self._far:  # an old mapping is gone
                for treated in self.treat(datagram):
                    await self._near.sendto(treated, self._client)


@asynccontextmanager
async def udp_proxied(target: Multiaddr) -> AsyncIterator[UdpProxy]:
    """A running proxy to `target`, at its :attr:`~UdpProxy.addr`."""
    proxy = UdpProxy(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()
