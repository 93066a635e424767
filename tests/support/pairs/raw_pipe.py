"""An in-memory :class:`~lattica.nat.transport.base.RawConn` pair, and what tests read from any."""

from __future__ import annotations

import trio

from lattica.errors import ConnectionClosedError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.transport.base import RawConn


class PipeEnd:
    """One end: up to `capacity` bytes wait here, and come out in pieces of up to `chunk`."""

    def __init__(self, local_addr: Multiaddr, remote_addr: Multiaddr) -> None:
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.capacity = 1 << 20
        self.chunk = 1 << 16
        self.closed = False
        self.aborted = False
        self.peer: PipeEnd = self
        self._inbox = bytearray()
        self._ended = False
        self._changed = trio.Event()

    def _notify(self) -> None:
        for end in (self, self.peer):
            end._changed.set()
            end._changed = trio.Event()

    @property
    def most_bytes(self) -> int | None:
        return None

    async def receive(self) -> memoryview:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self.closed:
                raise ConnectionClosedError("closed here")
            if self._ended:
                return memoryview(b"")
            await self._changed.wait()
        piece = bytes(self._inbox[: self.chunk])
        del self._inbox[: self.chunk]
        self._notify()
        return memoryview(piece)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        await trio.lowlevel.checkpoint()
        while True:
            if self.closed or self.peer.closed:
                raise ConnectionClosedError("the other end is gone")
            room = self.peer.capacity - len(self.peer._inbox)
            self.peer._inbox += view[:room]
            view = view[room:]
            self._notify()
            if not view:
                return
            await self._changed.wait()

    def send_nowait(self, data: bytes) -> int:
        if self.closed or self.peer.closed:
            return 0
        room = max(0, self.peer.capacity - len(self.peer._inbox))
        self.peer._inbox += data[:room]
        self._notify()
        return min(room, len(data))

    def unanswered(self) -> float | None:
        return None

    def mark_authenticated(self) -> None:
        pass

    def delivery(self) -> None:
        return None

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        self.aborted = True
        self._close()

    def _close(self) -> None:
        self.closed = True
        self.peer._ended = True
        self._notify()

    @property
    def waiting(self) -> int:
        """Bytes that have been sent to this end and that it has not received."""
        return len(self._inbox)


def raw_pipe(
    dialer: str = "/ip4/127.0.0.1/tcp/50000", listener: str = "/ip4/127.0.0.1/tcp/4001"
) -> tuple[PipeEnd, PipeEnd]:
    """Two ends that are connected: the dialer's and the listener's."""
    a = PipeEnd(Multiaddr(dialer), Multiaddr(listener))
    b = PipeEnd(Multiaddr(listener), Multiaddr(dialer))
    a.peer, b.peer = b, a
    return a, b


async def read(conn: RawConn, size: int) -> bytes:
    """Receive that many bytes, and whatever comes in one piece with the last of them."""
    got = bytearray()
    while len(got) < size:
        piece = await conn.receive()
        assert piece, "it ended early"
        got += piece
    return bytes(got)


async def read_to_end(conn: RawConn) -> bytes:
    """Receive everything until the end."""
    got = bytearray()
    while piece := await conn.receive():
        got += piece
    return bytes(got)
