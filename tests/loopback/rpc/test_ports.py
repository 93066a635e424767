"""Ports over the mesh: real services and clients on loopback sockets, whole nodes between them."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from lattica import Node
from lattica.config import load_config
from lattica.errors import AddressError, ListenError, LocalProtocolError
from lattica.nat.base.peer_log import BURST
from lattica.rpc.ports.events import ConnectionClosed, ConnectionOpened, ConnectionRefused
from lattica.rpc.ports.forwarder import Forward
from lattica.rpc.ports.messages import PORTS, Code, PortRefusedError

TRANSPORTS = {
    "tcp": "/ip4/127.0.0.1/tcp/0",
    "quic": "/ip4/127.0.0.1/udp/0/quic-v1/noise",
}
Handler = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Bench:
    """A node with a service, one with clients, and what both are told."""

    server: Node
    client: Node
    nursery: trio.Nursery
    at_server: list[Any] = field(default_factory=list)
    at_client: list[Any] = field(default_factory=list)

    async def service(self, handler: Handler) -> int:
        """Serve a TCP port of 127.0.0.1; a reset ends a handler and nothing else."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError):
                await handler(stream)

        self.nursery.start_soon(trio.serve_listeners, serve, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def forwarded(self, handler: Handler, **options: Any) -> Forward:
        port = await self.service(handler)
        self.server.ports.expose(
            port, name="s", to=[self.client.peer_id], on_event=self.at_server.append, **options
        )
        return await self.forward("s")

    async def forward(self, name: str, **options: Any) -> Forward:
        return await self.client.ports.forward(
            self.server.peer_id, name, on_event=self.at_client.append, **options
        )

    async def closed(self) -> tuple[ConnectionClosed, ConnectionClosed]:
        """The first end that each side is told of: the server's, the client's."""
        found = []
        with trio.fail_after(60):
            for told in (self.at_server, self.at_client):
                while not (ends := [e for e in told if isinstance(e, ConnectionClosed)]):
                    await trio.sleep(0.01)
                found.append(ends[0])
        return found[0], found[1]


@asynccontextmanager
async def bench(listen: str = TRANSPORTS["tcp"], **settings: Any) -> AsyncIterator[Bench]:
    overrides = {"listen": (listen,), "nat.port_mapping.enabled": False}
    overrides |= {f"ports.{name}": value for name, value in settings.items()}
    config = load_config(environment={}, overrides=overrides)
    async with Node(config) as server, Node(config) as client, trio.open_nursery() as nursery:
        await client.connect(server.addrs[0])
        yield Bench(server, client, nursery)
        nursery.cancel_scope.cancel()


async def connected(forward: Forward) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", forward.port)


async def all_of(stream: trio.SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send_all(chunk)


async def count(stream: trio.SocketStream) -> None:
    """Answers only after the end of what it is sent."""
    async with stream:
        await stream.send_all(b"%d" % len(await all_of(stream)))


def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


# --- bytes and ends ---


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_half_close_and_what_is_told(transport: str) -> None:
    size = 5_000_000
    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(count)
        async with await connected(forward) as client:
            with trio.fail_after(60):
                await client.send_all(b"x" * size)
                await client.send_eof()
                assert await all_of(client) == b"%d" % size
        at_server, at_client = await b.closed()
        assert (at_client.bytes_to_peer, at_client.bytes_from_peer) == (size, 7)
        assert (at_server.bytes_to_peer, at_server.bytes_from_peer) == (7, size)
        assert at_server.reason == at_client.reason == "closed"
        assert at_client.path == f"direct-{transport}"
        assert at_server.peer_id == b.client.peer_id
        opened = b.at_client[0]
        assert isinstance(opened, ConnectionOpened)
        assert opened.id == at_client.id
        assert opened.local.startswith("127.0.0.1:")
        assert not b.client.ports.connections()
        assert not b.server.ports.connections()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_service_ends_first_and_the_client_goes_on(transport: str) -> None:
    heard = trio.Event()

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            if await all_of(stream) == b"bye":
                heard.set()

    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(greet)
        async with await connected(forward) as client:
            with trio.fail_after(60):
                assert await all_of(client) == b"hello"
                await client.send_all(b"bye")
                await client.send_eof()
                await heard.wait()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reset_of_the_client_is_one_at_the_service(transport: str) -> None:
    came, errors = trio.Event(), []

    async def serve(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await stream.receive_some()
                came.set()
                await stream.receive_some()
        except trio.BrokenResourceError as error:
            errors.append(error)

    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(serve)
        client = await connected(forward)
        await client.send_all(b"a")
        with trio.fail_after(60):
            await came.wait()
        reset(client)
        at_server, at_client = await b.closed()
        assert at_client.reason == "reset by the local program"
        assert at_server.reason == "reset by the program at the peer"
        with trio.fail_after(60):
            while not errors:
                await trio.sleep(0.01)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reset_of_the_service_is_one_at_the_client(transport: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        reset(stream)

    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(serve)
        async with await connected(forward) as client:
            await client.send_all(b"a")
            with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
                await all_of(client)
        at_server, at_client = await b.closed()
        assert at_server.reason == "reset by the local program"
        assert at_client.reason == "reset by the program at the peer"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_service_that_answers_before_it_has_read_all(transport: str) -> None:
    """Its whole answer arrives, though what it is sent has nowhere to go."""
    answer, arrived = os.urandom(3_000_000), trio.Event()

    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)
            await stream.send_eof()
            await arrived.wait()  # closed before, its socket would take back what has not been read

    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(refuse)
        async with await connected(forward) as client:

            async def send() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await client.send_all(b"x" * 65536)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                with trio.fail_after(60):
                    got = b""
                    while len(got) < len(answer):
                        got += await client.receive_some()
                arrived.set()
            assert got == answer


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_service_hears_soon_that_its_client_has_gone(transport: str) -> None:
    """As of tokens for a browser that was closed; it need not send a lot before it hears."""
    gone = trio.Event()

    async def tokens(stream: trio.SocketStream) -> None:
        try:
            while True:
                await stream.send_all(b"data: token\n\n")
                await trio.sleep(0.01)
        except trio.BrokenResourceError:
            gone.set()

    async with bench(TRANSPORTS[transport]) as b:
        forward = await b.forwarded(tokens)
        client = await connected(forward)
        await client.receive_some()
        await client.aclose()
        with trio.fail_after(60):
            await gone.wait()


async def test_a_client_that_does_not_read_holds_up_the_service() -> None:
    sent = 0

    async def flood(stream: trio.SocketStream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    async with bench() as b:
        forward = await b.forwarded(flood)
        client = trio.socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await client.connect(("127.0.0.1", forward.port))
        with trio.fail_after(60):
            before = -1
            while sent != before or not sent:
                before = sent
                await trio.sleep(1)
        # Kernel buffers of two sockets, and the windows of a stream.
        assert sent < 64 * 1024 * 1024
        client.close()


async def test_idle_connections_end() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with bench() as b:
        forward = await b.forwarded(silent, idle_timeout=0.2)
        async with await connected(forward) as client:
            with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        at_server, at_client = await b.closed()
        assert at_server.reason == at_client.reason == "idle for too long"


# --- http ---


class _Events(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for word in body.decode().split():
            self.wfile.write(f"data: {word}\n\n".encode())
            self.wfile.flush()
            assert self.rfile.readline() == b"next\n"  # one at a time, so nothing may be held back

    def log_message(self, *_: object) -> None:
        pass


async def test_server_sent_events_come_one_by_one() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Events)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        async with bench() as b:
            b.server.ports.expose(server.server_port, name="http", to="anyone")
            forward = await b.forward("http")
            async with await connected(forward) as client:
                await client.send_all(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\na b c")
                got = b""
                with trio.fail_after(60):
                    for word in (b"a", b"b", b"c"):
                        while not got.endswith(b"data: " + word + b"\n\n"):
                            got += await client.receive_some()
                        await client.send_all(b"next\n")
                    assert await client.receive_some() == b""
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- who may, and what else is refused ---


async def refusal(forward: Forward) -> None:
    async with await connected(forward) as client:
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_by_default_only_who_has_the_key_may_connect() -> None:
    async with bench() as b:
        exposure = b.server.ports.expose(await b.service(echo), name="s")
        assert exposure.key is not None
        assert exposure.key == b.server.ports.key_for("s") != b.client.ports.key_for("s")
        for key in ("", exposure.key[:-1] + "1", exposure.key.upper()):
            with pytest.raises(PortRefusedError) as raised:
                await b.client.ports.check(b.server.peer_id, "s", key=key)
            assert raised.value.code is Code.NOT_ALLOWED
            await refusal(await b.forward("s", key=key))
        assert {type(event) for event in b.at_client} == {ConnectionRefused}
        assert "may not connect" in b.at_client[0].reason
        assert f"exposed to this peer, {b.client.peer_id}" in b.at_client[0].reason
        async with await connected(await b.forward("s", key=exposure.key)) as client:
            await client.send_all(b"a")
            assert await client.receive_some() == b"a"


async def test_only_the_named_peers_and_no_key() -> None:
    async with bench() as b:
        ports = b.server.ports
        mine = ports.expose(await b.service(echo), name="mine", to=[b.client.peer_id])
        other = ports.expose(await b.service(echo), name="other", to=[b.server.peer_id])
        assert mine.key is other.key is None
        await b.client.ports.check(b.server.peer_id, "mine")
        codes = {"other": Code.NOT_ALLOWED, "none": Code.NOT_EXPOSED}
        for name, code in codes.items():
            with pytest.raises(PortRefusedError) as raised:
                await b.client.ports.check(b.server.peer_id, name, key=ports.key_for(name))
            assert raised.value.code is code
        # A stranger does not hear which there are.
        mine.close()
        with pytest.raises(PortRefusedError) as raised:
            await b.client.ports.check(b.server.peer_id, "none")
        assert raised.value.code is Code.NOT_ALLOWED


async def test_a_peer_cannot_say_where_to() -> None:
    """What is asked for is a name, and only what was exposed has one."""
    async with bench() as b:
        secret = await b.service(echo)
        b.server.ports.expose(await b.service(echo), name="s", to="anyone")
        for name in (str(secret), f"127.0.0.1:{secret}", "", "unix:/x", "s\0", "é"):
            stream = await b.client.open_stream(b.server.peer_id, PORTS)
            raw = name.encode("latin-1")
            await stream.send_message(bytes((0, len(raw))) + raw)
            try:
                answer = await stream.receive_message(1024)
            except OSError:  # reset, as what breaks the protocol is
                assert name != str(secret)
            else:
                assert (name, answer[0]) == (str(secret), Code.NOT_EXPOSED)


async def test_a_service_that_does_not_run() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listened on
        async with bench() as b:
            b.server.ports.expose(
                taken.getsockname()[1], name="s", to="anyone", on_event=b.at_server.append
            )
            await refusal(await b.forward("s"))
            assert "refuses connections" in b.at_client[0].reason
            assert "refuses connections" in b.at_server[0].reason
            assert str(taken.getsockname()[1]) not in b.at_client[0].reason


async def test_connections_of_one_peer_are_limited() -> None:
    async with bench(max_connections_per_peer=2) as b:
        forward = await b.forwarded(echo)
        clients = [await connected(forward) for _ in range(2)]
        for client in clients:
            await client.send_all(b"a")
            assert await client.receive_some() == b"a"
        await refusal(forward)
        assert "as many connections" in b.at_client[-1].reason
        await clients[0].aclose()
        await b.closed()
        async with await connected(forward) as client:
            await client.send_all(b"a")
            assert await client.receive_some() == b"a"
        await clients[1].aclose()


async def test_no_peer_keeps_others_from_a_port() -> None:
    async with bench(max_connections=4) as b, Node(b.client.config) as greedy:
        forward = await b.forwarded(echo)
        await greedy.connect(b.server.addrs[0])
        b.server.ports.expose(await b.service(echo), name="open", to="anyone")
        taken = await greedy.ports.forward(b.server.peer_id, "open", local=0)
        held = await connected(taken)
        await held.send_all(b"a")
        assert await held.receive_some() == b"a"
        silent = [await greedy.open_stream(b.server.peer_id, PORTS) for _ in range(3)]
        with trio.fail_after(60):
            for stream in silent:  # it has a place, and says nothing
                await stream.finish_negotiation()
            async with await connected(forward) as client:
                await client.send_all(b"b")
                assert await client.receive_some() == b"b"
                # Who has named no port yields before who is connected with one.
                while not any(stream.is_gone for stream in silent):
                    await trio.sleep(0.01)
                await held.send_all(b"c")
                assert await held.receive_some() == b"c"
                async with await connected(forward) as second:
                    await second.send_all(b"d")
                    assert await second.receive_some() == b"d"
            for stream in silent:
                stream.reset()
        await held.aclose()


async def test_refusals_write_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.server.ports.expose(1, name="s", key="right", on_event=b.at_server.append)
        with caplog.at_level("INFO", "lattica.rpc.ports"):
            for number in range(2 * BURST):
                with pytest.raises(PortRefusedError):
                    await b.client.ports.check(b.server.peer_id, "s", key=f"wrong{number}")
        assert 0 < sum("refused" in line for line in caplog.messages) <= BURST + 1


async def test_more_clients_than_a_forward_may_have_wait() -> None:
    async with bench(max_connections=1, max_connections_per_peer=8) as b:
        forward = await b.forwarded(echo)
        first, second = await connected(forward), await connected(forward)
        await second.send_all(b"b")
        await first.send_all(b"a")
        assert await first.receive_some() == b"a"
        await first.aclose()
        with trio.fail_after(60):
            assert await second.receive_some() == b"b"
        await second.aclose()


async def test_a_peer_that_is_away() -> None:
    async with bench(connect_timeout=1.0) as b:
        with pytest.raises(LocalProtocolError, match="no name"):
            await b.client.ports.forward(b.server.peer_id, "a/b")
        stranger = Node(b.client.config)
        forward = await b.client.ports.forward(stranger.peer_id, "s", on_event=b.at_client.append)
        await refusal(forward)
        assert "no path to" in b.at_client[0].reason


async def test_a_forward_outlives_its_connection_to_the_peer() -> None:
    async with bench() as b:
        forward = await b.forwarded(echo)
        for _ in range(2):
            async with await connected(forward) as client:
                await client.send_all(b"a")
                assert await client.receive_some() == b"a"
                await b.client.disconnect(b.server.peer_id)
                with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
        reasons = [e.reason for e in b.at_client if isinstance(e, ConnectionClosed)]
        assert len(reasons) == 2
        for reason in reasons:  # and why
            assert reason.startswith("the connection to the peer was lost: ")


# --- life ---


async def test_closing_ends_connections_and_listening() -> None:
    async with bench() as b:
        port = await b.service(echo)
        exposure = b.server.ports.expose(port, name="s", to="anyone")
        with await b.forward("s") as forward:
            client = await connected(forward)
            await client.send_all(b"a")
            assert await client.receive_some() == b"a"
            exposure.close()
            with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            await client.aclose()
            b.server.ports.expose(port, name="s", to="anyone")  # the name is free again
            second = await connected(forward)
            await second.send_all(b"b")
            assert await second.receive_some() == b"b"
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await second.receive_some()
        await second.aclose()
        with pytest.raises(OSError, match=r"."):
            await connected(forward)
        assert not b.client.ports.forwards


async def test_the_end_of_a_node_is_that_of_its_ports(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as service:  # which outlives the nodes
        async with bench() as b:
            b.server.ports.expose(service.getsockname()[1], name="s", to="anyone")
            forward = await b.forward("s")
            await b.forward("s", local=f"unix:{path}")
            client = await connected(forward)
            with trio.fail_after(60):
                while not b.client.ports.connections():
                    await trio.sleep(0.01)
            ports = b.client.ports
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        at_service, _ = service.accept()
        at_service.settimeout(30)
        with at_service, pytest.raises(ConnectionResetError):
            at_service.recv(1)
    await client.aclose()
    assert not path.exists()
    with pytest.raises(LocalProtocolError):
        await ports.forward(b.server.peer_id, "s")
    with pytest.raises(LocalProtocolError):
        ports.expose(1)


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    service, local = tmp_path / "service", tmp_path / "local"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(service))
    listener.listen()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(local))  # as a program that was killed leaves it
    left.close()
    async with bench() as b:
        b.nursery.start_soon(
            trio.serve_listeners,
            count,
            [trio.SocketListener(trio.socket.from_stdlib_socket(listener))],
        )
        with pytest.raises(LocalProtocolError, match="needs a name"):
            b.server.ports.expose(f"unix:{service}", to="anyone")
        b.server.ports.expose(f"unix:{service}", name="s", to="anyone")
        forward = await b.forward("s", local=f"unix:{local}")
        assert stat.S_IMODE(local.stat().st_mode) == 0o600
        with pytest.raises(ListenError):
            await b.forward("s", local=f"unix:{local}")
        async with await trio.open_unix_socket(str(local)) as client:
            await client.send_all(b"abc")
            await client.send_eof()
            assert await all_of(client) == b"3"
        forward.close()
        assert not local.exists()


async def test_where_to_listen() -> None:
    async with bench() as b:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ListenError, match=r"in use; choose .* LOCAL:PORT"):
                await b.forward(str(taken.getsockname()[1]))
        forward = await b.forward("s", local="127.0.0.1:0")
        assert forward.local.host == "127.0.0.1"
        assert forward.port
        for wrong in ("x", "1:2:3", "127.0.0.1:65536", "unix:", -1, "127.0.0.1"):
            with pytest.raises(AddressError):
                await b.forward("s", local=wrong)
        for peer in ("/ip4/127.0.0.1/tcp/1", "x", ""):
            with pytest.raises(AddressError):
                await b.client.ports.forward(peer, "s")
