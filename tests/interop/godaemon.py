"""go-libp2p's daemon `p2pd`, and a client for the part of its control protocol we need.

The control protocol is length-prefixed protobuf over a unix socket, one request a connection
(go-libp2p-daemon, specs/CONTROL.md; field numbers from hivemind's p2pd.proto). After
STREAM_OPEN the connection *is* the stream. For inbound streams the daemon connects to a
socket of ours and sends a StreamInfo first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio
from multiaddr import Multiaddr

from tests.interop.foreign import (
    ECHO,
    IDENTIFY,
    PING,
    REQUEST_TIMEOUT,
    START_TIMEOUT,
    EchoResult,
    ForeignError,
    ForeignPeer,
    Identified,
    process,
)

IDENTIFY_REQUEST, CONNECT, STREAM_OPEN, STREAM_HANDLER, DHT, LIST_PEERS = range(6)
PUBSUB = 8
TOPIC_PEERS, PUBLISH, SUBSCRIBE = 1, 2, 3
"""Of its pubsub (`-pubsub`)."""
FIND_PROVIDERS, PROVIDE = 2, 8
"""Of its DHT (`-dhtServer`, `-dhtClient`)."""
DHT_END = 2
CHUNK = 65536

UNIX, P2P = b"\x90\x03", b"\xa5\x03"
"""Multiaddr protocol codes 400 and 421, as uvarints."""

Field = int | bytes


def uvarint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(*fields: tuple[int, Field]) -> bytes:
    """A protobuf message of varint and length-delimited fields."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += uvarint(number << 3) + uvarint(value)
        else:
            out += uvarint(number << 3 | 2) + uvarint(len(value)) + value
    return bytes(out)


def decode(message: bytes) -> Iterator[tuple[int, Field]]:
    """The fields of a protobuf message of varint and length-delimited fields, in order."""
    at = 0

    def varint() -> int:
        nonlocal at
        shift = number = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            length = varint()
            yield tag >> 3, message[at : at + length]
            at += length


def only_bytes(message: bytes, number: int) -> list[bytes]:
    """Every length-delimited field `number` of a message."""
    return [value for at, value in decode(message) if at == number and isinstance(value, bytes)]


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a topic."""

    data: bytes
    source: str


class Control:
    """One control connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def receive(self) -> bytes:
        """What comes next; empty at the end, however the stream ended."""
        try:
            return bytes(await self.stream.receive_some(CHUNK))
        except trio.BrokenResourceError:
            return b""

    async def send(self, data: bytes) -> None:
        """Send all, or as much as the other end takes."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def receive_exactly(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            data = await self.stream.receive_some(count - len(out))
            if not data:
                raise ForeignError(f"p2pd closed after {len(out)} of {count} bytes")
            out += data
        return bytes(out)

    async def receive_message(self) -> bytes:
        length = shift = 0
        while True:
            byte = (await self.receive_exactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return await self.receive_exactly(length)

    async def request(self, kind: int, *fields: tuple[int, Field]) -> bytes:
        message = encode((1, kind), *fields)
        await self.stream.send_all(uvarint(len(message)) + message)
        response = await self.receive_message()
        for error in only_bytes(response, 2):
            reason = b" ".join(only_bytes(error, 1)).decode(errors="replace")
            raise ForeignError(f"go: {reason}")
        return response


class GoDaemon(ForeignPeer):
    """A running p2pd."""

    name = "go"

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[Control]:
        stream = await trio.open_unix_socket(str(self._socket))
        async with stream:
            yield Control(stream)

    async def wait_ready(self) -> None:
        with trio.fail_after(START_TIMEOUT):
            while True:
                with suppress(OSError):
                    async with self._control():
                        break
                await trio.sleep(0.05)
        response = await self._ask(IDENTIFY_REQUEST)
        (identity,) = only_bytes(response, 4)
        self.peer_id = _peer_text(only_bytes(identity, 1)[0])
        self.addrs = tuple(f"{Multiaddr(a)}/p2p/{self.peer_id}" for a in only_bytes(identity, 2))

    async def _ask(self, kind: int, *fields: tuple[int, Field]) -> bytes:
        with trio.fail_after(REQUEST_TIMEOUT):
            async with self._control() as control:
                return await control.request(kind, *fields)

    async def connect(self, addr: str) -> None:
        transport, _, peer = addr.rpartition("/p2p/")
        await self._ask(
            CONNECT, (2, encode((1, _peer_bytes(peer)), (2, Multiaddr(transport).to_bytes())))
        )

    async def peers(self) -> set[str]:
        response = await self._ask(LIST_PEERS)
        return {_peer_text(only_bytes(peer, 1)[0]) for peer in only_bytes(response, 6)}

    @asynccontextmanager
    async def open_stream(self, peer: str, protocol: str) -> AsyncIterator[Control]:
        async with self._control() as control:
            with trio.fail_after(REQUEST_TIMEOUT):
                request = encode((1, _peer_bytes(peer)), (2, protocol.encode()))
                await control.request(STREAM_OPEN, (3, request))
            yield control

    async def ping(self, peer: str) -> float | None:
        payload = os.urandom(32)
        async with self.open_stream(peer, PING) as stream:
            begin = time.perf_counter()
            with trio.fail_after(REQUEST_TIMEOUT):
                await stream.stream.send_all(payload)
                if await stream.receive_exactly(32) != payload:
                    raise ForeignError("the pong is not the ping")
            return time.perf_counter() - begin

    async def identified(self, peer: str) -> Identified | None:
        """Asks anew, since the daemon does not tell what it has learned itself."""
        async with self.open_stream(peer, IDENTIFY) as stream:
            with trio.fail_after(REQUEST_TIMEOUT):
                message = await stream.receive_message()

        def text(number: int) -> str:
            return b"".join(only_bytes(message, number)).decode()

        return Identified(
            agent=text(6),
            protocol_version=text(5),
            protocols=tuple(name.decode() for name in only_bytes(message, 3)),
            addrs=tuple(str(Multiaddr(addr)) for addr in only_bytes(message, 2)),
        )

    async def echo(self, peer: str, size: int) -> EchoResult:
        payload = os.urandom(size)
        received = hashlib.sha256()
        count = 0
        async with self.open_stream(peer, ECHO) as control, trio.open_nursery() as nursery:
            nursery.start_soon(control.send, payload)
            with trio.fail_after(REQUEST_TIMEOUT):
                # The daemon closes both directions as soon as either ends, so that the
                # half-close can only come after the last byte.
                while count < size and (data := await control.receive()):
                    received.update(data)
                    count += len(data)
        return EchoResult(size, count, received.digest() == hashlib.sha256(payload).digest())

    async def serve_echo(self, folder: Path, task_status: trio.TaskStatus[None]) -> None:
        """Handle inbound streams of the echo protocol until cancelled."""
        path = folder / "echo.sock"
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as sock:
            await sock.bind(str(path))
            sock.listen()
            handler = encode((1, _unix_addr(path)), (2, ECHO.encode()), (3, 0))
            await self._ask(STREAM_HANDLER, (4, handler))
            task_status.started()
            listener = trio.SocketListener(sock)
            await trio.serve_listeners(self._echo, [listener])

    async def _echo(self, stream: trio.SocketStream) -> None:
        control = Control(stream)
        with suppress(ForeignError):
            await control.receive_message()
            while data := await control.receive():
                await control.send(data)

    # --- the DHT, with `-dhtServer` or `-dhtClient` ---

    async def provide(self, cid: bytes) -> None:
        """Say that it has what a binary CID names."""
        await self._ask(DHT, (5, encode((1, PROVIDE), (3, cid))))

    async def find_providers(self, cid: bytes, count: int) -> dict[str, tuple[str, ...]]:
        """At most `count` peers that have it, and where each is."""
        found: dict[str, tuple[str, ...]] = {}
        with trio.fail_after(REQUEST_TIMEOUT):
            async with self._control() as control:
                await control.request(DHT, (5, encode((1, FIND_PROVIDERS), (3, cid), (6, count))))
                while True:
                    message = await control.receive_message()
                    if (1, DHT_END) in decode(message):
                        return found
                    for peer in only_bytes(message, 2):
                        addrs = tuple(str(Multiaddr(addr)) for addr in only_bytes(peer, 2))
                        found[_peer_text(only_bytes(peer, 1)[0])] = addrs

    # --- topics, with `-pubsub` ---

    async def publish(self, topic: str, data: bytes) -> None:
        """Say something in a topic."""
        request = encode((1, PUBLISH), (2, topic.encode()), (3, data))
        await self._ask(PUBSUB, (8, request))

    async def subscribers(self, topic: str) -> set[str]:
        """The connected peers that have subscribed."""
        response = await self._ask(PUBSUB, (8, encode((1, TOPIC_PEERS), (2, topic.encode()))))
        answers = only_bytes(response, 7)
        return {_peer_text(peer) for answer in answers for peer in only_bytes(answer, 2)}

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Callable[[], Awaitable[Heard]]]:
        """Subscribe; what is called gives the next message."""
        async with self._control() as control:
            with trio.fail_after(REQUEST_TIMEOUT):
                request = encode((1, SUBSCRIBE), (2, topic.encode()))
                await control.request(PUBSUB, (8, request))

            async def receive() -> Heard:
                with trio.fail_after(REQUEST_TIMEOUT):
                    message = await control.receive_message()
                data = b"".join(only_bytes(message, 2))
                return Heard(data, _peer_text(only_bytes(message, 1)[0]))

            yield receive


def _unix_addr(path: Path) -> bytes:
    # By hand: py-multiaddr 0.2.0 drops the leading slash of the path, which go keeps.
    text = str(path).encode()
    return UNIX + uvarint(len(text)) + text


def _peer_bytes(peer: str) -> bytes:
    return Multiaddr(f"/p2p/{peer}").to_bytes()[3:]


def _peer_text(peer: bytes) -> str:
    return Multiaddr(P2P + uvarint(len(peer)) + peer).value_for_protocol("p2p") or ""


@asynccontextmanager
async def go_daemon(installed: Path, folder: Path, *options: str) -> AsyncIterator[GoDaemon]:
    """A p2pd on TCP and loopback only, that serves the echo protocol."""
    # Not in pytest's folders: a unix socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="p2pd-") as sockets:
        control = Path(sockets) / "control.sock"
        command = [str(installed / "p2pd"), "-listen", f"/unix{control}"]
        command += ["-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-bootstrapPeers", ""]
        command += ["-relayService=false", "-tls=false", *options]
        async with process(command, folder / "go.log"), trio.open_nursery() as nursery:
            daemon = GoDaemon(control)
            await daemon.wait_ready()
            await nursery.start(daemon.serve_echo, Path(sockets))
            yield daemon
            nursery.cancel_scope.cancel()
