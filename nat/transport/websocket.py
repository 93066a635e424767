"""One WebSocket as a pipe of bytes.

Source: RFC 6455 and the libp2p specification "WebSockets"
(https://github.com/libp2p/specs/blob/master/websockets/README.md): the payloads of binary
messages, one after the other, are the stream of bytes; where a message begins means nothing.
The protocol is the `websockets` library's, without its I/O; this module adds the pipe below,
and the limits. Compression is never offered nor accepted: what we carry is encrypted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from http import HTTPStatus

import trio
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from lattica.nat.base.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import Buffer
from lattica.nat.mux.delivery import Delivery
from lattica.nat.mux.turns import Nuisance
from lattica.nat.transport.base import RawConn

MAX_FRAME = 16 * 1024 * 1024
"""Largest frame taken, bytes: one is held in memory until it is complete. js-libp2p sends
1.3 MiB at a time where a private network key is in use."""
MAX_EARLY_FRAME = 256 * 1024
"""The same, while the peer is not authenticated."""
MAX_EARLY_FRAMES = 256
"""Frames taken from a peer that is not authenticated."""
MAX_HEAD = 16 * 1024
"""Largest HTTP request or response head taken, bytes."""
MAX_SEND = 256 * 1024
"""Largest message sent, bytes; more is sent as several."""

_PIECE = 2 * 1024
"""Bytes that the library takes at a time when frames are small: a few hundred of them."""
_MOST_IN_PIECE = 1024 * 1024
_TURN_FRAMES = 64
"""Frames after which other connections have their turn."""
_CLOSE_TIMEOUT = 0.5
"""Seconds."""
_HEAD_END = b"\r\n\r\n"

# The library tells of every connection at INFO.
_library_logger = logging.getLogger("lattica.nat.transport.websocket.library")
_library_logger.setLevel(logging.WARNING)


class WebSocketConn:
    """One WebSocket as a pipe of bytes.

    The opening handshake happens in :meth:`handshake`, or in the first `receive` or `send`,
    so that a slow client holds up nobody but itself. It has no time limit of its own.

    One task may receive while another sends. Pings are answered, the latest one only if
    several come at once; a pong waits for a `send` in progress, so that a peer that does not
    read cannot make us collect answers. A cancelled `send` leaves the connection unusable.

    `receive` and `send` raise :class:`RemoteProtocolError` for what the peer may not send
    (its HTTP or its frames), after telling it so where the RFC has a way to, and
    :class:`ConnectionClosedError` when the pipe ends in the handshake.
    """

    __slots__ = (
        "_conn",
        "_control",
        "_ended",
        "_failure",
        "_frames",
        "_handshake_lock",
        "_is_early",
        "_is_over",
        "_nuisance",
        "_open",
        "_piece",
        "_protocol",
        "_ready",
        "_send_lock",
        "_torn",
        "local_addr",
        "remote_addr",
    )

    def __init__(
        self, conn: RawConn, protocol: ClientProtocol | ServerProtocol, suffix: Multiaddr | str
    ) -> None:
        self.local_addr = conn.local_addr.encapsulate(suffix)
        self.remote_addr = conn.remote_addr.encapsulate(suffix)
        self._conn = conn
        self._protocol = protocol
        self._handshake_lock = trio.Lock()
        self._send_lock = trio.Lock()
        self._open = False
        self._is_early = True
        self._frames = 0
        """That have come while the peer was not authenticated."""
        self._piece = _PIECE
        """Bytes that the library takes at a time: more, as long as frames are long."""
        self._nuisance = Nuisance(trio.current_time)
        self._failure: str | None = None
        self._ready: list[Buffer] = []
        self._control = b""
        self._ended = False
        self._torn = False
        self._is_over = False
        """The library takes no more bytes."""

    @property
    def most_bytes(self) -> int | None:
        return self._conn.most_bytes

    # --- the opening handshake ---

    async def handshake(self) -> None:
        """Open the WebSocket, if it is not open yet."""
        if not self._open:
            async with self._handshake_lock:
                await self._open_once()

    async def _open_once(self) -> None:
        if self._open:
            return
        if self._failure is not None:
            raise RemoteProtocolError(self._failure)
        self._failure = "the WebSocket handshake was not finished"
        try:
            if isinstance(self._protocol, ClientProtocol):
                rest = await self._open_as_client(self._protocol)
            else:
                rest = await self._open_as_server(self._protocol)
        except RemoteProtocolError as error:
            self._failure = str(error)
            raise
        self._failure = None
        self._open = True
        await self._feed(rest)
        await self._answer()

    async def _open_as_client(self, protocol: ClientProtocol) -> bytes:
        protocol.send_request(protocol.connect())
        await self._conn.send(b"".join(protocol.data_to_send()))
        head, rest = await self._receive_head(b"HTTP/")
        if head is None:
            raise RemoteProtocolError(f"HTTP response head of more than {MAX_HEAD} bytes")
        status_line = head.partition(b"\r\n")[0]
        if status_line.split(b" ")[1:2] != [b"101"]:
            # Not left to the library, which would wait for the whole body.
            text = status_line[:100].decode("ascii", "backslashreplace")
            raise RemoteProtocolError(f"no WebSocket there, the server answered: {text}")
        protocol.receive_data(head)
        if protocol.handshake_exc is not None:
            raise RemoteProtocolError(f"no WebSocket there: {_chain(protocol.handshake_exc)}")
        return rest

    async def _open_as_server(self, protocol: ServerProtocol) -> bytes:
        head, rest = await self._receive_head(b"")
        if head is None:
            response = protocol.reject(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request is too large.\n"
            )
            problem = f"HTTP request head of more than {MAX_HEAD} bytes"
        else:
            protocol.receive_data(head)
            match protocol.events_received():
                case [Request() as request]:
                    response = protocol.accept(request)
                    problem = _chain(protocol.handshake_exc)
                case _:  # the library has answered already where that makes sense
                    await self._send_last_words()
                    problem = _chain(protocol.handshake_exc)
                    raise RemoteProtocolError(f"bad HTTP request: {problem}")
        protocol.send_response(response)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            await self._send_last_words()
            raise RemoteProtocolError(f"refused with HTTP {response.status_code}: {problem}")
        await self._conn.send(b"".join(protocol.data_to_send()))
        return rest

    async def _receive_head(self, start: bytes) -> tuple[bytes | None, bytes]:
        """Read up to the empty line; return the head (None if too large) and what follows.

        The head is cut off here because the library would take what follows it for frames
        before the handshake is decided.
        """
        buffer = bytearray()
        while True:
            data = await self._conn.receive()
            if not data:
                raise ConnectionClosedError("connection closed in the WebSocket handshake")
            searched = max(0, len(buffer) - len(_HEAD_END))
            buffer += data
            if not _may_be_http(buffer, start):
                raise RemoteProtocolError(
                    f"expected HTTP, the peer sent {bytes(buffer[:20])!r}; "
                    "does it take this address for one without /ws?"
                )
            end = buffer.find(_HEAD_END, searched, MAX_HEAD)
            if end >= 0:
                end += len(_HEAD_END)
                return bytes(buffer[:end]), bytes(buffer[end:])
            if len(buffer) >= MAX_HEAD:
                return None, b""

    async def _send_last_words(self) -> None:
        """Tell the peer what was wrong, if it listens; the connection is over anyway."""
        data = b"".join(self._protocol.data_to_send())
        if data and not self._send_lock.locked():
            self._torn = True
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                with trio.move_on_after(_CLOSE_TIMEOUT):
                    await self._conn.send(data)

    # --- bytes ---

    async def receive(self) -> memoryview:
        """Wait for bytes; empty at the end, which is a close frame or the end of the pipe."""
        await self.handshake()
        while not self._ready:
            if self._failure is not None:
                raise RemoteProtocolError(self._failure)
            if self._ended:
                return memoryview(b"")
            data = await self._conn.receive()
            if not data:
                self._ended = True
                continue
            await self._feed(bytes(data))
            await self._answer()
        ready, self._ready = self._ready, []
        return memoryview(ready[0] if len(ready) == 1 else b"".join(ready))

    async def _feed(self, data: bytes) -> None:
        """Run received bytes through the library, piece by piece; others run in between."""
        position = 0
        while position < len(data) and not (self._failure or self._ended or self._is_over):
            piece = data[position : position + self._piece]
            position += len(piece)
            frames = self._take(piece)
            if frames >= _TURN_FRAMES:
                self._piece = _PIECE
                await trio.lowlevel.checkpoint()
            elif self._piece < _MOST_IN_PIECE:
                self._piece *= 2

    def _take(self, data: bytes) -> int:
        """Run bytes through the library; sort what comes of it, and return how many frames."""
        protocol = self._protocol
        protocol.receive_data(data)
        events = protocol.events_received()
        try:
            self._count(events)
        except RemoteProtocolError as error:
            protocol.fail(CloseCode.POLICY_VIOLATION, "too many frames")
            self._failure = f"WebSocket: {error}"
            return len(events)
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode in (Opcode.BINARY, Opcode.CONT):
                if event.data:
                    self._ready.append(event.data)
            elif event.opcode is Opcode.TEXT:
                protocol.fail(CloseCode.UNSUPPORTED_DATA, "binary messages only")
                self._failure = "the peer sent a text message, where only binary ones are allowed"
                return len(events)
            elif event.opcode is Opcode.CLOSE:
                self._ended = True
        if protocol.parser_exc is not None:
            self._failure = f"WebSocket: {_chain(protocol.parser_exc)}"
            return len(events)
        # All that the library has to send now is pongs, and after a close frame its echo.
        # RFC 6455 section 5.5.3: it is enough to answer the latest ping.
        writes = [write for write in protocol.data_to_send() if write]
        if writes:
            self._control = b"".join(writes[-2:] if self._ended else writes[-1:])
        return len(events)

    def _count(self, events: Sequence[Event]) -> None:
        """Frames have come. Raises :class:`RemoteProtocolError` when they are too many."""
        if self._is_early:
            self._frames += len(events)
            if self._frames > MAX_EARLY_FRAMES:
                raise RemoteProtocolError("too many frames before the peer is authenticated")
        for event in events:
            if isinstance(event, Frame) and (event.opcode is Opcode.PING or not event.data):
                self._nuisance.refuse("a WebSocket frame")

    async def _answer(self) -> None:
        """Send what the received frames call for, unless a `send` takes it along."""
        if self._failure is not None:
            await self._send_last_words()
        elif self._control and not self._send_lock.locked():
            # A peer that has gone without waiting for the answer is no reason to lose what
            # it sent before: whether it has, the next `receive` tells.
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                async with self._send_lock:
                    await self._send_control()

    async def send(self, data: Buffer) -> None:
        """Send all of `data`, as messages of at most 256 KiB."""
        await self.handshake()
        view = memoryview(data)
        async with self._send_lock:
            for start in range(0, len(view), MAX_SEND):
                if self._torn or self._protocol.state is not State.OPEN:
                    raise ConnectionClosedError("the WebSocket is closed")
                self._protocol.send_binary(view[start : start + MAX_SEND])
                frame = b"".join(self._protocol.data_to_send())
                await self._send_frame(self._take_control() + frame)
            await self._send_control()

    def _take_control(self) -> bytes:
        control, self._control = self._control, b""
        return control

    async def _send_control(self) -> None:
        """Send what the receiving side has left here; holds the lock."""
        while self._control and not self._torn:
            await self._send_frame(self._take_control())

    async def _send_frame(self, frame: bytes) -> None:
        self._torn = True  # until it is out: half a frame cannot be mended
        await self._conn.send(frame)
        self._torn = False

    # --- the end ---

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return self._conn.unanswered()

    def mark_authenticated(self) -> None:
        self._is_early = False
        self._protocol.max_fragment_size = MAX_FRAME
        self._conn.mark_authenticated()

    def delivery(self) -> Delivery | None:
        return self._conn.delivery()

    async def aclose(self) -> None:
        """Send a close frame if that is possible within half a second, and close the pipe."""
        try:
            if self._open:
                with (
                    contextlib.suppress(OSError, trio.ClosedResourceError),
                    trio.move_on_after(_CLOSE_TIMEOUT),
                ):
                    await self._say_goodbye()
        finally:
            self._let_go()
            await self._conn.aclose()

    async def _say_goodbye(self) -> None:
        async with self._send_lock:
            if self._protocol.state is State.OPEN and not self._torn:
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                await self._send_frame(b"".join(self._protocol.data_to_send()))

    def abort(self) -> None:
        self._let_go()
        self._conn.abort()

    def _let_go(self) -> None:
        """Free what has come of a frame: the library's parser and what it is a part of refer to
        each other, and would wait for the garbage collector.
        """
        self._is_over = True
        self._protocol.parser.close()
        self._protocol.parser_exc = self._protocol.handshake_exc = None


def _may_be_http(head: bytearray, start: bytes) -> bool:
    """Whether it begins like a response (`start`), or like a request: with a method's name."""
    if start:
        return head[: len(start)] == start[: len(head)]
    return head[:1].isalpha() and head[:1].isupper()


def _chain(error: BaseException | None) -> str:
    """An exception of the library and what caused it, in one line."""
    texts = []
    while error is not None:
        texts.append(str(error) or type(error).__name__)
        error = error.__cause__
    return ": ".join(texts)[:300]


def accepted(conn: RawConn) -> WebSocketConn:
    """The server's side of a pipe."""
    protocol = ServerProtocol(max_size=(None, MAX_EARLY_FRAME), logger=_library_logger)
    return WebSocketConn(conn, protocol, "/ws")


def dialed(conn: RawConn, uri: WebSocketURI, suffix: Multiaddr) -> WebSocketConn:
    """The client's side of a pipe to the server of `uri`; `suffix` is what the address of the
    pipe lacks to that of the WebSocket.
    """
    protocol = ClientProtocol(uri, max_size=(None, MAX_EARLY_FRAME), logger=_library_logger)
    return WebSocketConn(conn, protocol, suffix)
