"""A peer that follows the protocol as far as a test wants, and then does not."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import trio

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.yamux.frames import HEADER_SIZE, Flag, FrameType, pack_header, unpack_header
from lattica.nat.secure.upgrade import Upgrade, Upgraded
from lattica.nat.transport.tcp import TcpConn, TcpTransport

MULTISTREAM = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return pack_header(0, kind, flags, stream_id, length) + body


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(FrameType.DATA, flags, stream_id, len(body), body)


def syn(stream_id: int, body: bytes = b"") -> bytes:
    return data(stream_id, body, Flag.SYN)


def propose(protocol: str) -> bytes:
    return MULTISTREAM + bytes([len(protocol) + 1]) + protocol.encode() + b"\n"


class Attacker:
    """One TCP connection to a victim. `conn` is the pipe; frames need :meth:`set_up` first."""

    sent = 0
    """Bytes that all of them have sent."""

    def __init__(self, conn: TcpConn, identity: Identity) -> None:
        self.conn = conn
        self.identity = identity
        self.addr = str(conn.local_addr)
        self.upgrade: Upgrade | None = None
        self._upgraded: Upgraded | None = None
        self._sending = trio.Lock()
        self.plain = bytearray()
        """Decrypted bytes, once somebody calls :meth:`receive`."""

    @property
    def sock(self) -> socket.socket:
        return self.conn._sock

    async def send(self, raw: bytes) -> None:
        """Send bytes as they are; a victim that has closed already is no surprise."""
        with suppress(OSError):
            async with self._sending:
                await self.conn.send(raw)
            Attacker.sent += len(raw)

    async def set_up(
        self, change: Callable[[bytes], bytes] = bytes, sends: float = math.inf
    ) -> None:
        """Go through multistream, Noise and multistream.

        `change` sees all that is sent; after so many `sends` nothing else is done.
        """
        upgrade = self.upgrade = Upgrade(self.identity, initiator=True)
        while True:
            if out := upgrade.data_to_send():
                await self.send(change(out))
                sends -= 1
            if sends <= 0:
                return
            if upgrade.result is not None:
                break
            received = memoryview(b"")
            with suppress(OSError):
                received = await self.conn.receive()
            if not received:
                return
            upgrade.receive(received)
        self._upgraded = upgrade.result
        for message in upgrade.result.early:
            self.plain += message

    @property
    def is_set_up(self) -> bool:
        """Whether :meth:`set_up` came to its end."""
        return self._upgraded is not None

    def seal(self, plaintext: bytes) -> bytes:
        assert self.upgrade is not None
        writer = self.upgrade._writer
        assert writer is not None
        pieces = [plaintext[i : i + 65519] for i in range(0, len(plaintext), 65519)]
        return b"".join(writer.seal(piece) for piece in pieces)

    async def send_frames(self, *frames: bytes) -> None:
        sealed = self.seal(b"".join(frames))  # sent in this order, as the lock is fair
        await self.send(sealed)

    async def receive(self) -> bool:
        """Wait for bytes and decrypt them into `plain`; False at the end."""
        assert self._upgraded is not None
        with suppress(OSError):
            if received := await self.conn.receive():
                for message in self._upgraded.reader.receive(received):
                    self.plain += message
                return True
        return False

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """The whole frames in `plain`: kind, flags, stream and, for data, the body."""
        return [found[:4] for found in self.numbered_frames()]

    def numbered_frames(self) -> list[tuple[int, int, int, bytes, int]]:
        """As :meth:`frames`, with what is in the field for the length."""
        found, position = [], 0
        while position + HEADER_SIZE <= len(self.plain):
            _, kind, flags, stream_id, length = unpack_header(self.plain, position)
            position += HEADER_SIZE
            size = length if kind == FrameType.DATA else 0
            if position + size > len(self.plain):
                break
            body = bytes(self.plain[position : position + size])
            found.append((kind, flags, stream_id, body, length))
            position += size
        return found

    async def answer(self, stream_id: int, size: int) -> bytes:
        """At least the first `size` bytes that the victim has sent on a stream."""
        while True:
            body = b"".join(f[3] for f in self.frames() if f[2] == stream_id)
            if len(body) >= size:
                return body
            assert await self.receive(), "the victim has closed"

    async def closed(self) -> None:
        """Wait for the victim to close the connection."""
        with suppress(OSError, trio.ClosedResourceError):
            while await self.conn.receive():
                pass

    def reset(self) -> None:
        """End with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.conn.abort()


@asynccontextmanager
async def attacking(
    addr: Multiaddr, identity: Identity | None = None, *, source_ip: str = ""
) -> AsyncIterator[Attacker]:
    conn = await TcpTransport().dial(addr, source_ip=source_ip)
    try:
        yield Attacker(conn, identity or Identity.generate())
    finally:
        conn.abort()


class Forger(Identity):
    """An identity that signs what somebody else would have to sign."""

    __slots__ = ()

    def __init__(self, victim: Identity) -> None:
        super().__init__(victim.seed)

    def sign(self, data: bytes) -> bytes:
        return Identity.generate().sign(data)


async def answer_pings(attacker: Attacker) -> None:
    """Take what the victim sends, and answer its pings, until it closes."""
    while await attacker.receive():
        frames = attacker.numbered_frames()
        sizes = (HEADER_SIZE + len(body) for _, _, _, body, _ in frames)
        del attacker.plain[: sum(sizes)]
        pings = [f for f in frames if f[0] == FrameType.PING and f[1] & Flag.SYN]
        if pings:
            await attacker.send_frames(frame(FrameType.PING, Flag.ACK, 0, pings[-1][4]))


async def throw_away(attacker: Attacker) -> None:
    """Take what the victim sends without looking at it, until it closes."""
    with suppress(OSError, trio.ClosedResourceError, trio.BusyResourceError):
        while await attacker.conn.receive():
            pass


def batches(make: Callable[[int], bytes], *, size: int = 64 * 1024) -> Iterator[bytes]:
    """Frames in pieces of about `size` bytes, for stream 1, 3, 5 and so on."""
    stream_id = 1
    while stream_id < 2**31:
        batch = bytearray()
        while len(batch) < size:
            batch += make(stream_id)
            stream_id += 2
        yield bytes(batch)
