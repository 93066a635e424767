"""Messages between a program and the process of its node, over a socket pair, with descriptors."""

from __future__ import annotations

import os
import socket
from array import array
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import trio

from lattica.nat.mux.stream import Waiter

_HEAD: Final = 5
"""Bytes before a message: its length, four of them, and how many descriptors go with it."""
_READ: Final = 256 * 1024
_MOST_DESCRIPTORS: Final = 64
MOST_WAITING: Final = 10_000
"""Messages beyond which those that may be lost are."""


class Channel:
    """One end. Closing it, and the death of the process at the other end, end :meth:`messages`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._wake = Waiter()
        self._descriptors: deque[int] = deque()

    def post(
        self, data: bytes, descriptors: list[int] | None = None, *, may_lose: bool = False
    ) -> None:
        """Send a message soon; the descriptors are closed then. In the trio thread only."""
        if may_lose and len(self._waiting) >= MOST_WAITING:
            return
        self._waiting.append((data, descriptors or []))
        self._wake.wake()

    async def run(self) -> None:
        """Send what is posted, until the other end is gone."""
        try:
            while True:
                while self._waiting:
                    data, descriptors = self._waiting.popleft()
                    try:
                        await self._send(data, descriptors)
                    finally:
                        _close(descriptors)
                await self._wake.wait()
        except OSError:
            pass  # whoever reads finds the end

    async def _send(self, data: bytes, descriptors: list[int]) -> None:
        head = len(data).to_bytes(4, "big") + bytes((len(descriptors),))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        sent = await self._sock.sendmsg([head, data], rights if descriptors else [])
        rest = memoryview(head + data if sent < _HEAD else data)[
            sent if sent < _HEAD else sent - _HEAD :
        ]
        while rest:
            rest = rest[await self._sock.send(rest) :]

    async def messages(self) -> AsyncIterator[tuple[bytes, list[int]]]:
        """What the other end posts, each with its descriptors, until it is gone."""
        received = bytearray()
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array("i").itemsize)
        while True:
            while len(received) >= _HEAD:
                end = _HEAD + int.from_bytes(received[:4], "big")
                if len(received) < end:
                    break
                count, data = received[4], bytes(memoryview(received)[_HEAD:end])
                del received[:end]
                yield data, [self._descriptors.popleft() for _ in range(count)]
            try:
                data, ancillary, _, _ = await self._sock.recvmsg(
                    _READ, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                )
            except (OSError, trio.ClosedResourceError):
                return
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    self._descriptors.extend(numbers)
            if not data:
                return
            received += data

    def close(self) -> None:
        """Close this end; what waits to be sent is dropped. Idempotent."""
        self._sock.close()
        for _, descriptors in self._waiting:
            _close(descriptors)
        self._waiting.clear()
        _close(list(self._descriptors))
        self._descriptors.clear()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
