"""Targets of the WebSocket transport: HTTP heads and frames, as server and as client."""

from __future__ import annotations

from collections import deque

import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

from lattica.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.transport.websocket import MAX_EARLY_FRAME, MAX_HEAD, WebSocketConn
from tools.fuzz.target import KIB, MIB, Target, Violation
from tools.fuzz.targets.pieces import in_pieces, option

ACCEPT = b"@ACCEPT@"
"""Stands for the header value that answers the client's random key."""


class _Pipe:
    """A pipe in which the fuzzer's bytes are, and into which anything can be sent."""

    local_addr = remote_addr = Multiaddr("/ip4/127.0.0.1/tcp/1")

    def __init__(self) -> None:
        self.incoming: deque[bytes] = deque()
        self.sent = 0

    @property
    def most_bytes(self) -> int | None:
        return None

    async def receive(self) -> memoryview:
        await trio.lowlevel.checkpoint()
        return memoryview(self.incoming.popleft() if self.incoming else b"")

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += len(data)

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return None

    def mark_authenticated(self) -> None:
        pass

    def delivery(self) -> None:
        return None

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        pass


async def _serve(protocol: ServerProtocol | ClientProtocol, data: bytes, step: int) -> None:
    pipe = _Pipe()
    pipe.incoming.extend(in_pieces(data, step))
    conn = WebSocketConn(pipe, protocol, "/ws")
    received = 0
    try:
        while piece := await conn.receive():
            received += len(piece)
        await conn.send(b"an answer")
    finally:
        await conn.aclose()
        # Pongs are as long as their pings; all else that is sent has a bounded length.
        if received > len(data) or pipe.sent > len(data) + 4 * KIB:
            raise Violation(f"{len(data)} bytes became {received}, and {pipe.sent} were sent")


def _run(protocol: ServerProtocol | ClientProtocol, data: bytes, step: int) -> None:
    trio.run(_serve, protocol, data, step)


def _server(data: bytes) -> None:
    step, rest = option(data)
    _run(ServerProtocol(max_size=(None, MAX_EARLY_FRAME)), rest, step)


def _client(data: bytes) -> None:
    step, rest = option(data)
    protocol = ClientProtocol(
        WebSocketURI(False, "127.0.0.1", 1, "/", ""), max_size=(None, MAX_EARLY_FRAME)
    )
    _run(protocol, rest.replace(ACCEPT, accept_key(protocol.key).encode()), step)


def _frames(mask: bool) -> bytes:
    frames = (
        Frame(Opcode.BINARY, b"hello"),
        Frame(Opcode.PING, b"are you there"),
        Frame(Opcode.BINARY, b"x" * 300, fin=False),
        Frame(Opcode.CONT, b"y" * 70),
        Frame(Opcode.CLOSE, b"\x03\xe8bye"),
    )
    return b"".join(frame.serialize(mask=mask) for frame in frames)


_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)
_TOKENS = [
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Sec-WebSocket-Protocol: a\r\n",
    b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00",
    b"\xc2\x05hello",
    b"\x81\x02hi",
    b"\x88\x01x",
    b"\x88\x02\x00\x00",
    b"\x89\x7e\x01\x00",
    b"\x80\x00",
    b"\x00\x00",
    b"\xff" * 8,
    b"A" * MAX_HEAD,
]

WEBSOCKET_SERVER = Target(
    "websocket-server",
    _server,
    (RemoteProtocolError, ConnectionClosedError),
    seeds=[b"\x00" + _REQUEST + _frames(mask=True), b"\x03" + _REQUEST, b"\x00GET / HTTP/1.0\r\n"],
    tokens=_TOKENS,
    max_size=MAX_HEAD + 4 * KIB,
    max_memory=16 * MIB,
)
WEBSOCKET_CLIENT = Target(
    "websocket-client",
    _client,
    (RemoteProtocolError, ConnectionClosedError),
    seeds=[
        b"\x00" + _RESPONSE + _frames(mask=False),
        b"\x05" + _RESPONSE,
        b"\x00HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    tokens=[ACCEPT, *_TOKENS],
    max_size=MAX_HEAD + 4 * KIB,
    max_memory=16 * MIB,
)
