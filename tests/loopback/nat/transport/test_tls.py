"""Dialing `/wss`: the name is checked, the bytes get through, and what fails says why."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from websockets.server import ServerProtocol

from lattica.errors import ConnectionClosedError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.transport.tcp import TcpTransport
from lattica.nat.transport.tls import TlsConn
from lattica.nat.transport.websocket import WebSocketConn
from lattica.nat.transport.websocket_transport import WebSocketTransport
from tests.support.keys.certificates import Contexts, certified


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return certified(tmp_path_factory.mktemp("certificate"), "relay.example")


class StreamConn:
    """A trio stream as a pipe, for the server's side of TLS."""

    local_addr = remote_addr = Multiaddr("/ip4/127.0.0.1/tcp/1")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    @property
    def most_bytes(self) -> int | None:
        return None

    async def receive(self) -> memoryview:
        return memoryview(await self.stream.receive_some(65536))

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(memoryview(data))

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return None

    def mark_authenticated(self) -> None:
        pass

    def delivery(self) -> None:
        return None

    async def aclose(self) -> None:
        await self.stream.aclose()

    def abort(self) -> None:
        raise NotImplementedError


Handler = Callable[[trio.SSLStream], Awaitable[None]]


@asynccontextmanager
async def tls_server(context: ssl.SSLContext, handler: Handler) -> AsyncIterator[int]:
    """Serve `handler` over TLS on loopback; the port."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                lambda task_status: trio.serve_ssl_over_tcp(
                    handler, 0, context, host="127.0.0.1", task_status=task_status
                )
            )
            yield listeners[0].transport_listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def echo_websocket(stream: trio.SSLStream) -> None:
    conn = WebSocketConn(StreamConn(stream), ServerProtocol(), "/tls/ws")
    while piece := await conn.receive():
        await conn.send(bytes(piece))
    await conn.aclose()


@pytest.mark.parametrize("tail", ["tls/sni/relay.example/ws", "tls/ws", "wss"])
async def test_websocket_over_tls(contexts: Contexts, tail: str) -> None:
    server, client = contexts
    transport = WebSocketTransport(TcpTransport(), tls_context=client)
    data = bytes(range(256)) * 8192
    async with tls_server(server, echo_websocket) as port:
        conn = await transport.dial(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/{tail}"))
        kept = tail if "sni" in tail else "tls/ws"
        assert str(conn.remote_addr) == f"/ip4/127.0.0.1/tcp/{port}/{kept}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.send, data)
            got = bytearray()
            while len(got) < len(data):
                got += await conn.receive()
        assert got == data
        await conn.aclose()


async def refuse(stream: trio.SSLStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()


async def test_another_name_is_refused(contexts: Contexts) -> None:
    server, client = contexts
    transport = WebSocketTransport(TcpTransport(), tls_context=client)
    async with tls_server(server, refuse) as port:
        with pytest.raises(OSError, match=r"relay\.other"):
            await transport.dial(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/tls/sni/relay.other/ws"))


async def test_a_certificate_of_nobody_is_refused(contexts: Contexts) -> None:
    server, _ = contexts
    async with tls_server(server, refuse) as port:
        with pytest.raises(OSError, match="self-signed"):
            await WebSocketTransport(TcpTransport()).dial(
                Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/tls/sni/relay.example/ws")
            )


@pytest.mark.parametrize(("valid_from", "why"), [(-5, "has expired"), (5, "is not valid yet")])
async def test_a_certificate_of_another_time_is_called_that(
    tmp_path: Path, valid_from: int, why: str
) -> None:
    server, client = certified(tmp_path, "relay.example", valid_from=valid_from)
    transport = WebSocketTransport(TcpTransport(), tls_context=client)
    async with tls_server(server, refuse) as port:
        with pytest.raises(OSError, match=rf"certificate {why}.*this machine's clock.* UTC"):
            await transport.dial(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/wss"))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_server_without_tls(contexts: Contexts, answer: bytes) -> None:
    tcp = TcpTransport()
    listener = await tcp.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))

    async def serve() -> None:
        conn = await listener.accept()
        assert bytes(await conn.receive())[:1] == b"\x16"
        if answer:
            await conn.send(answer)
        await conn.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises((ssl.SSLError, ConnectionClosedError)):
                await WebSocketTransport(tcp).dial(listener.addrs[0].encapsulate("/wss"))
    await listener.aclose()


async def test_both_ways_of_ending(contexts: Contexts) -> None:
    server, client = contexts
    farewells: list[bool] = []

    async def handler(stream: trio.SSLStream) -> None:
        await stream.send_all(b"x" * 100_000)
        if await stream.receive_some() == b"cut":
            await stream.transport_stream.aclose()
            return
        farewells.append(await stream.receive_some() == b"")  # a truncation would raise
        await stream.aclose()

    tcp = TcpTransport()
    async with tls_server(server, handler) as port:
        for last in (b"farewell", b"cut"):
            pipe = await tcp.dial(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"))
            conn = TlsConn(pipe, client, "relay.example")
            await conn.handshake()
            got = 0
            while got < 100_000:
                got += len(await conn.receive())
            await conn.send(last)
            if last == b"cut":
                assert len(await conn.receive()) == 0
            await conn.aclose()
        while not farewells:
            await trio.sleep(0.01)
    assert farewells == [True]
