"""Swarms and nodes on the loopback interface, and what stands between them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.config import NodeConfig
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from tools.kills.unused_port import unused_port as unused_port

ECHO = "/test/echo/1"
LISTEN_ON = {
    "tcp": ("/ip4/127.0.0.1/tcp/0",),
    "quic": ("/ip4/127.0.0.1/udp/0/quic-v1/noise",),
}
LOOPBACK = LISTEN_ON["tcp"]


def swarm_config(**changes: Any) -> SwarmConfig:
    """A configuration that listens on one loopback port."""
    return SwarmConfig(**{"listen": LOOPBACK, "dial_stagger": 0.02, **changes})


def node_config(**changes: Any) -> NodeConfig:
    return NodeConfig(swarm=swarm_config(**changes))


async def echo(stream: Stream) -> None:
    """A handler that sends back what it gets."""
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def running(identity: Identity | None = None, **changes: Any) -> AsyncIterator[Swarm]:
    """A swarm that runs and echoes; `changes` are fields of its configuration."""
    swarm = Swarm(identity or Identity.generate(), swarm_config(**changes))
    swarm.protocols.handle(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        try:
            yield swarm
        finally:
            with trio.move_on_after(20, shield=True):
                await swarm.close()
            nursery.cancel_scope.cancel()


async def ask_echo(
    swarm: Any, peer_id: PeerId, words: bytes = b"hello", protocols: str | Sequence[str] = ECHO
) -> bytes:
    """Open a stream (of a Swarm or a Node), send, and return the whole answer."""
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    async with await swarm.open_stream(peer_id, names) as stream:
        await stream.send_all(words)
        await stream.send_eof()
        answer = bytearray()
        while data := await stream.receive_some():
            answer += data
        return bytes(answer)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def settled(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds; a test that waits in vain fails by itself after a while."""
    give_up = time.monotonic() + 60
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError("what the test waits for does not happen")
        await wait_all_tasks_blocked(0.005)


async def advance(clock: MockClock, seconds: float, step: float = 0.5) -> None:
    """Let time pass in steps, with all that is due and its traffic done after each."""
    for _ in range(round(seconds / step)):
        clock.jump(step)
        await wait_all_tasks_blocked(0.003)


@contextmanager
def black_hole() -> Iterator[Multiaddr]:
    """An address whose host does not answer the first packet: its queue is full."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")


@contextmanager
def mute_listener() -> Iterator[Multiaddr]:
    """An address where the kernel takes connections, and nobody ever says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")


class Proxy:
    """Forwards TCP connections to `target` until it is told to hold its breath."""

    def __init__(self, target: Multiaddr) -> None:
        endpoint = to_endpoint(target)
        self._target = (endpoint.host, endpoint.port)
        self.addr = target
        self._frozen = False
        self._thawed = trio.Event()

    def freeze(self) -> None:
        """From now on nothing passes, and neither end is told."""
        self._frozen = True
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._frozen = False
        self._thawed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            self.addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            task_status.started()

    async def _serve(self, near: trio.SocketStream) -> None:
        async with (
            await trio.open_tcp_stream(*self._target) as far,
            trio.open_nursery() as nursery,
        ):
            for source, sink in ((near, far), (far, near)):
                nursery.start_soon(self._pump, source, sink, nursery.cancel_scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some():
                while self._frozen:
                    await self._thawed.wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        while self._frozen:
            await self._thawed.wait()
        scope.cancel()


@asynccontextmanager
async def proxied(target: Multiaddr) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()
