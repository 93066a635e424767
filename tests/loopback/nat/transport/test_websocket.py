"""WebSocket: the pipe, the HTTP before it, control frames, and peers that misbehave."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import WebSocketConnection, open_websocket, serve_websocket
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from lattica.errors import AddressError, ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.transport.tcp import TcpTransport
from lattica.nat.transport.websocket import (
    MAX_EARLY_FRAME,
    MAX_HEAD,
    MAX_SEND,
    WebSocketConn,
)
from lattica.nat.transport.websocket_transport import WebSocketTransport
from tests.support.pairs.raw_pipe import PipeEnd, raw_pipe, read, read_to_end

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def client_on(pipe: PipeEnd) -> WebSocketConn:
    uri = WebSocketURI(False, "127.0.0.1", 4001, "/", "")
    return WebSocketConn(pipe, ClientProtocol(uri, max_size=(None, MAX_EARLY_FRAME)), "/ws")


def server_on(pipe: PipeEnd) -> WebSocketConn:
    return WebSocketConn(pipe, ServerProtocol(max_size=(None, MAX_EARLY_FRAME)), "/ws")


async def pair(chunk: int = 1 << 16) -> tuple[WebSocketConn, WebSocketConn, PipeEnd, PipeEnd]:
    """A client and a server that are open, and the pipe between them."""
    a, b = raw_pipe()
    a.chunk = b.chunk = chunk
    client, server = client_on(a), server_on(b)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        nursery.start_soon(server.handshake)
    return client, server, a, b


# --- the pipe ---


@pytest.mark.parametrize("chunk", [1, 7, 4096])
async def test_bytes_go_both_ways(chunk: int) -> None:
    client, server, _, _ = await pair(chunk)
    async with trio.open_nursery() as nursery:
        for one, other in ((client, server), (server, client)):
            nursery.start_soon(one.send, b"hello ")
            nursery.start_soon(one.send, bytearray(b"world "))
            nursery.start_soon(one.send, memoryview(b"again "))
            assert sorted((await read(other, 18)).split()) == [b"again", b"hello", b"world"]


async def test_large_data_goes_as_several_messages() -> None:
    client, server, _, b = await pair()
    data = bytes(range(256)) * 4 * (MAX_SEND // 1024) + b"rest"
    b.capacity = 50_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, data)
        assert await read(server, len(data)) == data


async def test_sending_nothing_is_no_message() -> None:
    client, _, _, b = await pair()
    await client.send(b"")
    assert b.waiting == 0


async def test_addresses_say_ws() -> None:
    client, server, _, _ = await pair()
    assert str(client.remote_addr) == "/ip4/127.0.0.1/tcp/4001/ws"
    assert str(client.local_addr) == "/ip4/127.0.0.1/tcp/50000/ws"
    assert str(server.remote_addr) == "/ip4/127.0.0.1/tcp/50000/ws"


async def test_close_is_the_end_of_the_stream() -> None:
    client, server, a, b = await pair()
    await client.send(b"last words")
    await client.aclose()
    assert a.closed
    assert await read_to_end(server) == b"last words"
    assert len(await server.receive()) == 0
    with pytest.raises(ConnectionClosedError):
        await server.send(b"x")
    await server.aclose()
    assert b.closed


async def test_a_broken_pipe_is_the_end_of_the_stream() -> None:
    client, server, a, _ = await pair()
    await client.send(b"last words")
    a.abort()
    assert await read_to_end(server) == b"last words"
    with pytest.raises(ConnectionClosedError):
        await server.send(b"x")
    await server.aclose()


async def test_abort() -> None:
    client, _, a, _ = await pair()
    client.abort()
    assert a.aborted
    await client.aclose()


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(
    autojump_clock: MockClock,
) -> None:
    client, _, a, b = await pair()
    b.capacity = 100
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionClosedError):
                await client.send(bytes(1000))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await client.aclose()
        assert a.closed


async def test_a_cancelled_send_leaves_no_way_to_send() -> None:
    client, _, a, b = await pair()
    b.capacity = 100
    with trio.move_on_after(0):
        await client.send(bytes(1000))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(1000))
            await wait_all_tasks_blocked()
            scope.cancel()
    b.capacity = 1 << 20
    with pytest.raises(ConnectionClosedError):
        await client.send(b"x")
    before = b.waiting
    await client.aclose()
    assert b.waiting == before  # no close frame into the middle of another one
    assert a.closed


# --- the handshake as a server ---


async def answer_to(request: bytes, *, chunk: int = 1 << 16) -> tuple[bytes, Exception]:
    """What our server answers to a bad request, and what it raises."""
    a, b = raw_pipe()
    b.chunk = chunk
    a.capacity = b.capacity = 1 << 21
    await a.send(request)
    server = server_on(b)
    with pytest.raises(RemoteProtocolError) as caught:
        await server.receive()
    await server.aclose()
    answer = b"".join([bytes(piece) async for piece in pieces(a)])
    return answer.partition(b"\r\n")[0], caught.value


async def pieces(pipe: PipeEnd) -> AsyncIterator[memoryview]:
    while piece := await pipe.receive():
        yield piece


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 Upgrade Required"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), b"HTTP/1.1 505 HTTP Version Not Supported"),
        (REQUEST.replace(b": 13", b": 12"), b"HTTP/1.1 400 Bad Request"),
        (REQUEST.replace(b"AAAAA=", b"A="), b"HTTP/1.1 400 Bad Request"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD, b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 3, b"HTTP/1.1 431 "),
    ],
)
@pytest.mark.parametrize("chunk", [1000, 1 << 20])
async def test_a_bad_request_gets_an_answer(request_head: bytes, status: bytes, chunk: int) -> None:
    answer, error = await answer_to(request_head, chunk=chunk)
    assert answer.startswith(status)
    assert "HTTP" in str(error)


async def test_bytes_behind_a_bad_request_do_no_harm() -> None:
    # The library alone would take them for frames, fail, and then fail to answer.
    answer, _ = await answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nxxxxxxxxxx")
    assert answer.startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize("data", [b"\x13/multistream/1.0.0\n", b"\x16\x03\x01\x02\x00", b"\x00"])
async def test_what_is_no_http_is_refused_at_once(data: bytes) -> None:
    answer, error = await answer_to(data)
    assert answer == b""
    assert "without /ws" in str(error)


@pytest.mark.parametrize("data", [b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx\r\n\r\n", b"A\n\r\n\r\n"])
async def test_broken_http_is_refused(data: bytes) -> None:
    _, error = await answer_to(data)
    assert "valid HTTP request" in str(error)


async def test_frames_may_follow_the_request_at_once() -> None:
    a, b = raw_pipe()
    await a.send(REQUEST + Frame(Opcode.BINARY, b"early").serialize(mask=True))
    server = server_on(b)
    assert bytes(await server.receive()) == b"early"


async def test_control_frames_may_follow_the_request_at_once() -> None:
    a, b = raw_pipe()
    await a.send(REQUEST + Frame(Opcode.PING, b"?").serialize(mask=True))
    await server_on(b).handshake()
    answer = bytes(await a.receive())
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\n\r\n\x8a\x01?")


async def test_a_failed_handshake_stays_failed() -> None:
    a, b = raw_pipe()
    await a.send(b"\x00")
    server = server_on(b)
    for use in (server.receive, server.handshake, lambda: server.send(b"x")):
        with pytest.raises(RemoteProtocolError, match="expected HTTP"):
            await use()


async def test_an_interrupted_handshake_stays_failed() -> None:
    _, b = raw_pipe()
    server = server_on(b)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(RemoteProtocolError, match="not finished"):
        await server.receive()


async def test_the_pipe_may_end_in_the_handshake() -> None:
    a, b = raw_pipe()
    await a.send(REQUEST[:20])
    await a.aclose()
    with pytest.raises(ConnectionClosedError):
        await server_on(b).receive()


# --- the handshake as a client ---


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\n<html>", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 OK"),
        (b"HTTP/1.1 101 \r\n\r\n", "missing Connection header"),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAA\r\n\r\n",
            "Accept",
        ),
        (b"HTTP/1.1 101\r\n\r\n", "valid HTTP response"),
        (b"HTTP/9 101 x\r\n\r\n", "valid HTTP response"),
        (b"HTTP/1.1 101 x\r\nbad\r\n\r\n", "valid HTTP response"),
        (b"\x13/multistream/1.0.0\n", "expected HTTP"),
        (b"HTTP/1.1 101 x\r\n" + b"x: y\r\n" * 4000, "16384 bytes"),
    ],
)
async def test_a_server_that_is_none(response: bytes, says: str) -> None:
    a, b = raw_pipe()
    await b.send(response)
    with pytest.raises(RemoteProtocolError, match=says):
        await client_on(a).handshake()


async def test_a_server_that_compresses_is_refused() -> None:
    a, b = raw_pipe()
    client = client_on(a)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            protocol = ServerProtocol()
            protocol.receive_data(bytes(await b.receive()))
            [request] = protocol.events_received()
            assert isinstance(request, Request)
            response = protocol.accept(request)
            response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
            protocol.send_response(response)
            await b.send(b"".join(protocol.data_to_send()))

        nursery.start_soon(serve)
        with pytest.raises(RemoteProtocolError, match="extensions"):
            await client.handshake()


# --- frames ---


@asynccontextmanager
async def raw_client() -> AsyncIterator[tuple[WebSocketConn, PipeEnd]]:
    """Our server, open, and the pipe from which a client may send it anything."""
    a, b = raw_pipe()
    server = server_on(b)
    await a.send(REQUEST)
    await server.handshake()
    assert bytes(await a.receive()).startswith(b"HTTP/1.1 101 ")
    yield server, a


async def test_fragments_are_passed_on_as_they_come() -> None:
    async with raw_client() as (server, pipe):
        await pipe.send(Frame(Opcode.BINARY, b"one ", fin=False).serialize(mask=True))
        assert bytes(await server.receive()) == b"one "
        await pipe.send(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True))
        await pipe.send(Frame(Opcode.CONT, b"two ", fin=False).serialize(mask=True))
        await pipe.send(Frame(Opcode.CONT, b"three").serialize(mask=True))
        assert bytes(await server.receive()) == b"two three"


async def test_fragments_together_may_be_large() -> None:
    async with raw_client() as (server, pipe):
        pipe.peer.capacity = 1 << 22
        piece = bytes(MAX_EARLY_FRAME)
        async with trio.open_nursery() as nursery:
            for opcode in (Opcode.BINARY, Opcode.CONT, Opcode.CONT):
                await pipe.send(Frame(opcode, piece, fin=False).serialize(mask=True))
                nursery.start_soon(read, server, MAX_EARLY_FRAME)
                await wait_all_tasks_blocked()


async def test_an_authenticated_peer_may_send_larger_frames() -> None:
    async with raw_client() as (server, pipe):
        server.mark_authenticated()
        pipe.peer.capacity = 1 << 22
        piece = bytes(MAX_EARLY_FRAME + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, server, len(piece))
            await pipe.send(Frame(Opcode.BINARY, piece).serialize(mask=True))


async def test_pings_are_answered_the_latest_first() -> None:
    async with raw_client() as (server, pipe):
        pings = [Frame(Opcode.PING, b"%d" % n).serialize(mask=True) for n in range(100)]
        await pipe.send(b"".join(pings) + Frame(Opcode.BINARY, b"x").serialize(mask=True))
        assert bytes(await server.receive()) == b"x"
        assert bytes(await pipe.receive()) == b"\x8a\x0299"
        await pipe.send(Frame(Opcode.PONG, b"unasked").serialize(mask=True))
        await pipe.send(Frame(Opcode.BINARY, b"y").serialize(mask=True))
        assert bytes(await server.receive()) == b"y"


async def test_a_pong_waits_for_a_send_in_progress() -> None:
    async with raw_client() as (server, pipe):
        pipe.capacity = 100
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, b"a" * 1000)
            await wait_all_tasks_blocked()
            await pipe.send(Frame(Opcode.PING, b"1").serialize(mask=True))
            await pipe.send(Frame(Opcode.PING, b"2").serialize(mask=True))
            await pipe.send(Frame(Opcode.BINARY, b"x").serialize(mask=True))
            got = bytes(await server.receive())
            assert got == b"x"
            answer = b""
            while not answer.endswith(b"\x8a\x012"):
                answer += bytes(await pipe.receive())
        assert answer == b"\x82\x7e\x03\xe8" + b"a" * 1000 + b"\x8a\x012"


async def test_a_close_frame_is_echoed() -> None:
    async with raw_client() as (server, pipe):
        close = Frame(Opcode.CLOSE, b"\x03\xe8")
        await pipe.send(
            Frame(Opcode.BINARY, b"x").serialize(mask=True)
            + close.serialize(mask=True)
            + b"whatever"
        )
        assert bytes(await server.receive()) == b"x"
        assert len(await server.receive()) == 0
        assert bytes(await pipe.receive()) == close.serialize(mask=False)


@pytest.mark.parametrize(
    ("data", "says", "code"),
    [
        (Frame(Opcode.TEXT, b"hi").serialize(mask=True), "text", 1003),
        (Frame(Opcode.BINARY, b"hi").serialize(mask=False), "masking", 1002),
        (b"\x83\x80xxxx", "opcode", 1002),
        (b"\xf2\x80xxxx", "reserved bits", 1002),
        (Frame(Opcode.CONT, b"hi").serialize(mask=True), "continuation", 1002),
        (b"\x82\xff" + (MAX_EARLY_FRAME + 1).to_bytes(8, "big"), "exceeds limit", 1009),
        (b"\x82\xff" + b"\xff" * 8, "exceeds limit", 1009),
        (b"\x89\xfe\x00\x7exxxx" + bytes(126), "control frame", 1002),
        (b"\x88\x81\x00\x00\x00\x00\x00", "close frame", 1002),
        (b"\x88\x84\x00\x00\x00\x00\x03\xe8\xff\xfe", "utf-8", 1007),
    ],
)
async def test_bad_frames(data: bytes, says: str, code: int) -> None:
    async with raw_client() as (server, pipe):
        await pipe.send(Frame(Opcode.BINARY, b"good").serialize(mask=True) + data)
        assert bytes(await server.receive()) == b"good"
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match=says):
                await server.receive()
        answer = bytes(await pipe.receive())
        assert answer[0] == 0x88
        assert int.from_bytes(answer[2:4], "big") == code
        with pytest.raises(ConnectionClosedError):
            await server.send(b"x")


async def test_telling_a_peer_that_does_not_read_takes_no_time(autojump_clock: MockClock) -> None:
    async with raw_client() as (server, pipe):
        pipe.capacity = 0
        await pipe.send(Frame(Opcode.TEXT, b"hi").serialize(mask=True))
        with pytest.raises(RemoteProtocolError, match="text"):
            await server.receive()
        await server.aclose()


# --- the transport ---


def test_what_can_be_dialed() -> None:
    transport = WebSocketTransport(TcpTransport())
    for good in ("/ip4/192.0.2.1/tcp/1/ws", "/ip6/::1/tcp/1/ws"):
        assert transport.can_dial(Multiaddr(good))
        assert transport.can_listen(Multiaddr(good))
    for secure in ("/ip4/192.0.2.1/tcp/1/wss", "/ip4/192.0.2.1/tcp/1/tls/sni/a.example/ws"):
        assert transport.can_dial(Multiaddr(secure))
        assert not transport.can_listen(Multiaddr(secure))
    for bad in ("/ip4/192.0.2.1/tcp/1", "/dns4/a.example/tcp/1/ws", "/ip4/192.0.2.1/udp/1", ""):
        assert not transport.can_dial(Multiaddr(bad))
        assert not transport.can_listen(Multiaddr(bad))


async def test_other_addresses_are_refused() -> None:
    with pytest.raises(AddressError, match="not a WebSocket address"):
        await WebSocketTransport(TcpTransport()).dial(Multiaddr("/ip4/127.0.0.1/tcp/1"))


@pytest.mark.parametrize("host", ["ip4/127.0.0.1", "ip6/::1"])
async def test_over_tcp(host: str) -> None:
    transport = WebSocketTransport(TcpTransport())
    listener = await transport.listen(Multiaddr(f"/{host}/tcp/0/ws"))
    [addr] = listener.addrs
    assert str(addr).startswith(f"/{host}/tcp/")
    assert str(addr).endswith("/ws")
    data = bytes(range(256)) * 4096

    async def echo() -> None:
        conn = await listener.accept()
        while piece := await conn.receive():
            await conn.send(bytes(piece))
        await conn.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            conn = await transport.dial(addr)
            assert conn.remote_addr == addr
            nursery.start_soon(conn.send, data)
            assert await read(conn, len(data)) == data
            await conn.aclose()
    await listener.aclose()


async def test_a_silent_client_holds_up_nobody() -> None:
    tcp = TcpTransport()
    transport = WebSocketTransport(tcp)
    listener = await transport.listen(Multiaddr("/ip4/127.0.0.1/tcp/0/ws"))
    [addr] = listener.addrs
    with trio.fail_after(60):
        silent = await tcp.dial(Multiaddr(str(addr).removesuffix("/ws")))
        first = await listener.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.dial, addr)
            second = await listener.accept()
            await second.handshake()
    for conn in (silent, first, second):
        conn.abort()
    await listener.aclose()


async def test_a_dial_that_fails_closes_its_socket() -> None:
    tcp = TcpTransport()
    listener = await tcp.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def refuse() -> None:
                conn = await listener.accept()
                assert bytes(await conn.receive()).startswith(b"GET / HTTP/1.1\r\n")
                await conn.send(b"HTTP/1.1 503 Busy\r\n\r\n")
                assert len(await conn.receive()) == 0
                conn.abort()

            nursery.start_soon(refuse)
            with pytest.raises(RemoteProtocolError, match="503 Busy"):
                await WebSocketTransport(tcp).dial(listener.addrs[0].encapsulate("/ws"))
    await listener.aclose()


# --- another implementation: trio-websocket, on wsproto ---


async def test_dialing_another_implementation() -> None:
    data = bytes(range(256)) * 2000

    async def echo(request) -> None:
        websocket: WebSocketConnection = await request.accept()
        while True:
            await websocket.ping(b"are you there")
            await websocket.send_message(await websocket.get_message())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
            addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{server.port}/ws")
            conn = await WebSocketTransport(TcpTransport()).dial(addr)
            nursery.start_soon(conn.send, data)
            assert await read(conn, len(data)) == data
            await conn.aclose()
            nursery.cancel_scope.cancel()


async def test_being_dialed_by_another_implementation() -> None:
    listener = await WebSocketTransport(TcpTransport()).listen(Multiaddr("/ip4/127.0.0.1/tcp/0/ws"))
    port = to_endpoint(listener.addrs[0]).port

    async def echo() -> None:
        conn = await listener.accept()
        while piece := await conn.receive():
            await conn.send(bytes(piece))
        await conn.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            async with open_websocket("127.0.0.1", port, "/p2p", use_ssl=False) as websocket:
                await websocket.ping(b"are you there")
                await websocket.send_message(b"x" * 100_000)
                got = b""
                while len(got) < 100_000:
                    message = await websocket.get_message()
                    assert isinstance(message, bytes)
                    got += message
                assert got == b"x" * 100_000
    await listener.aclose()


@pytest.mark.parametrize("how", ["abort", "aclose", "too long"])
async def test_a_frame_that_has_not_ended_goes_with_its_pipe(how: str) -> None:
    client, server, a, _ = await pair()
    reader = weakref.ref(server._protocol.reader)
    size = MAX_EARLY_FRAME + (how == "too long")
    await a.send(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + bytes(1000))
    gc.disable()
    try:
        if how == "too long":
            with pytest.raises(RemoteProtocolError):
                await server.receive()
        else:
            with trio.move_on_after(0.01):
                await server.receive()
        if how == "aclose":
            await server.aclose()
        else:
            server.abort()
        del server
        await trio.lowlevel.checkpoint()
        assert reader() is None
    finally:
        gc.enable()
        client.abort()
