"""A TCP proxy that behaves like a slow, long link: fixed delay and rate each way.

Run as a script in a process of its own: `python delay_proxy.py --target HOST:PORT --delay SECONDS
--rate BYTES_PER_SECOND`. It listens on a free loopback port, says so (`{"event": "ready", "addr":
"127.0.0.1:{port}", "port": N}`), answers every line on stdin with `{"event": "stats", "up": N,
"down": N}` (bytes delivered to and from the target, over all connections), and ends when its stdin
does.

The model, for each connection and direction: bytes are serialised onto the link at `rate`, one
after the other, and come out `delay` later. At most `QUEUE` bytes wait for serialisation (the
router's buffer); then nothing more is read, and the sender feels TCP's backpressure. Nothing is
lost or reordered. Small kernel buffers keep the sender from filling memory that a link has not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field

CHUNK = 64 * 1024
QUEUE = 512 * 1024
KERNEL_BUFFER = 256 * 1024


@dataclass(slots=True)
class Link:
    """When bytes that are offered now come out at the far end.

    A pure model: the clock is a parameter. The token bucket is `free_at`, the time at which the
    link has sent all it was given; it holds no tokens for time passed idle, so there are no
    bursts.
    """

    delay: float
    rate: float
    free_at: float = 0.0

    def offer(self, size: int, now: float) -> float:
        """Put `size` bytes on the link at time `now`; the time of their delivery."""
        self.free_at = max(self.free_at, now) + size / self.rate
        return self.free_at + self.delay

    def room_at(self, limit: int) -> float:
        """The time from which on at most `limit` bytes wait to be serialised."""
        return self.free_at - limit / self.rate


@dataclass(slots=True)
class Counters:
    """Bytes delivered to the target (`up`) and from it (`down`)."""

    up: int = 0
    down: int = 0


@dataclass(slots=True)
class Pipe:
    """What is under way in one direction of one connection."""

    link: Link
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


async def _read(pipe: Pipe, source: socket.socket) -> None:
    """Take bytes from `source` onto the link; an empty one is the end of the direction."""
    loop = asyncio.get_running_loop()
    while True:
        wait = pipe.link.room_at(QUEUE) - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        try:
            data = await loop.sock_recv(source, CHUNK)
        except OSError:
            data = b""
        pipe.flying.append((pipe.link.offer(len(data), time.monotonic()), data))
        pipe.arrived.set()
        if not data:
            return


async def _write(pipe: Pipe, sink: socket.socket, counters: Counters, direction: str) -> None:
    """Deliver what has been on the link long enough."""
    loop = asyncio.get_running_loop()
    while True:
        while not pipe.flying:
            pipe.arrived.clear()
            await pipe.arrived.wait()
        due, data = pipe.flying.popleft()
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)
        except OSError:
            return
        setattr(counters, direction, getattr(counters, direction) + len(data))


async def relay(
    client: socket.socket, target: socket.socket, delay: float, rate: float, counters: Counters
) -> None:
    """Carry both directions until both have ended; closes both sockets."""
    up = Pipe(Link(delay, rate))
    down = Pipe(Link(delay, rate))
    try:
        await asyncio.gather(
            _read(up, client),
            _write(up, target, counters, "up"),
            _read(down, target),
            _write(down, client, counters, "down"),
        )
    finally:
        client.close()
        target.close()


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def serve(
    listener: socket.socket, target: tuple[str, int], delay: float, rate: float, counters: Counters
) -> None:
    """Accept and relay until cancelled."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    async with asyncio.TaskGroup() as tasks:
        while True:
            client, _ = await loop.sock_accept(listener)
            _tune(client)
            upstream = socket.socket()
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
            _tune(upstream)
            try:
                await loop.sock_connect(upstream, target)
            except OSError:
                client.close()
                upstream.close()
                continue
            tasks.create_task(relay(client, upstream, delay, rate, counters))


def listen() -> socket.socket:
    """A listener on a free loopback port, whose connections have a small receive buffer."""
    listener = socket.socket()
    # Inherited by accepted sockets; later it would not shrink the window any more.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    return listener


def _answer(counters: Counters) -> None:
    for _ in sys.stdin:
        _say({"event": "stats", "up": counters.up, "down": counters.down})
    os._exit(0)


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="A TCP proxy with delay and rate each way.")
    parser.add_argument("--target", required=True, help="HOST:PORT")
    parser.add_argument("--delay", type=float, required=True, help="seconds, each way")
    parser.add_argument("--rate", type=float, required=True, help="bytes per second, each way")
    args = parser.parse_args()
    host, _, port = args.target.rpartition(":")
    counters = Counters()
    listener = listen()
    threading.Thread(target=_answer, args=(counters,), daemon=True).start()
    _say({"event": "ready", "addr": "127.0.0.1:{port}", "port": listener.getsockname()[1]})
    asyncio.run(serve(listener, (host, int(port)), args.delay, args.rate, counters))


if __name__ == "__main__":
    main()
