"""Dialing by name: TXT records of a name server, and a proxy that serves several names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from lattica.config import load_config
from lattica.errors import DialError, ListenError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net import dnsaddr
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.transport import websocket_transport
from lattica.node import Node
from tests.support.keys.certificates import Contexts, certified
from tests.support.nets.nets import node_config, unused_port

TCP, WS = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"
STRANGER = Identity(b"s" * 32).peer_id


class Hosts(trio.abc.HostnameResolver):
    """Every name is this machine."""

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        await trio.lowlevel.checkpoint()
        if not host.endswith(b".example"):
            raise OSError("no such name")
        return [(trio.socket.AF_INET, type, proto, "", ("127.0.0.1", port))]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def on_this_machine() -> None:
    trio.socket.set_custom_hostname_resolver(Hosts())


# --- /dnsaddr ---


@asynccontextmanager
async def name_server(monkeypatch, records: dict[str, list[str]]) -> AsyncIterator[list[str]]:
    """A DNS server on loopback that the node asks; gives the names that were asked for."""
    asked: list[str] = []

    def answer(data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True)
        asked.append(name)
        response = dns.message.make_response(query)
        if name in records:
            texts = [
                " ".join(f'"{text[i : i + 200]}"' for i in range(0, len(text), 200))
                for text in records[name]
            ]
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", *texts))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()

    async def serve(sock) -> None:
        while True:
            data, source = await sock.recvfrom(4096)
            wire = answer(data)
            if len(wire) > 1232:
                short = dns.message.make_response(dns.message.from_wire(data))
                short.flags |= dns.flags.TC  # ask again by TCP
                wire = short.to_wire()
            await sock.sendto(wire, source)

    async def serve_tcp(stream) -> None:
        size = int.from_bytes(await stream.receive_some(2), "big")
        data = b""
        while len(data) < size:
            data += await stream.receive_some(size - len(data))
        wire = answer(data)
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)

    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        port = unused_port()  # the kernel's choice for UDP may be taken for TCP
        await sock.bind(("127.0.0.1", port))

        def resolver() -> dns.asyncresolver.Resolver:
            made = dns.asyncresolver.Resolver(configure=False)
            made.nameservers, made.port = ["127.0.0.1"], port
            return made

        monkeypatch.setattr(dnsaddr, "_resolver", resolver)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, sock)
            await nursery.start(
                lambda task_status: trio.serve_tcp(
                    serve_tcp, port, host="127.0.0.1", task_status=task_status
                )
            )
            yield asked
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("with_id", [True, False])
async def test_a_peer_is_found_by_its_domain(monkeypatch, with_id):
    await on_this_machine()
    async with Node(node_config(listen=(TCP,))) as server, Node(node_config(listen=())) as client:
        port = str(server.addrs[0]).split("/")[4]
        tail = f"/p2p/{server.peer_id}" if with_id else ""
        records = {
            "_dnsaddr.net.example": [
                f"dnsaddr=/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}" if with_id else "other=1",
                f"dnsaddr=/dnsaddr/host.example/p2p/{server.peer_id}",
            ],
            # Too long for one datagram.
            "_dnsaddr.host.example": [f"filler={n}" + "x" * 400 for n in range(5)]
            + [f"dnsaddr=/dns4/host.example/tcp/{port}/p2p/{server.peer_id}"],
        }
        async with name_server(monkeypatch, records) as asked:
            assert await client.connect(f"/dnsaddr/net.example{tail}") == server.peer_id
            assert set(asked) == set(records)
            # It is known that the connection is by that name.
            assert await client.connect(f"/dnsaddr/net.example{tail}") == server.peer_id


async def test_a_relay_is_found_by_its_domain(monkeypatch):
    async with Node(
        load_config(
            environment={},
            overrides={
                "listen": [TCP],
                "nat.relay_server.enabled": True,
                "nat.relay_server.limits.open_to_strangers": True,
                "nat.port_mapping.enabled": False,
            },
        )
    ) as relay:
        own = f"/dnsaddr/relay.example/p2p/{relay.peer_id}"
        records = {"_dnsaddr.relay.example": [f"dnsaddr={relay.addrs[0]}"]}
        async with name_server(monkeypatch, records):
            hidden = load_config(
                environment={},
                overrides={
                    "listen": [],
                    "relays": [own],
                    "nat.port_mapping.enabled": False,
                },
            )
            async with Node(hidden) as server, Node(node_config(listen=())) as client:
                await server.wait_reachable(60)
                addr = f"{own}/p2p-circuit/p2p/{server.peer_id}"
                assert await client.connect(addr, timeout=60) == server.peer_id
                # What it says of itself can be dialed.
                assert any("p2p-circuit" in str(a) for a in server.addrs)
                async with Node(node_config(listen=())) as other:
                    assert await other.connect(server.addrs, timeout=60) == server.peer_id


async def test_nobody_there(monkeypatch):
    async with name_server(monkeypatch, {}), Node(node_config(listen=())) as client:
        with pytest.raises(DialError, match=r"the name none\.example was not resolved"):
            await client.connect(f"/dnsaddr/none.example/p2p/{STRANGER}")


# --- behind a proxy that serves several names ---


class Proxy:
    """Passes HTTP on by the Host header, as nginx and Caddy do; what it has seen is kept."""

    def __init__(self, backends: dict[str, int]) -> None:
        self.backends = backends
        self.hosts: list[str] = []
        self.paths: list[str] = []
        self.server_names: list[str | None] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = await stream.receive_some(65536)
            if not piece:
                return
            head += piece
        lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        self.paths.append(lines[0].split(" ")[1])
        (host,) = (line[6:] for line in lines if line.lower().startswith("host: "))
        self.hosts.append(host)
        port = self.backends.get(host.partition(":")[0])
        if port is None:
            await stream.send_all(b"HTTP/1.1 421 Misdirected Request\r\n\r\n")
            await stream.aclose()
            return
        backend = await trio.open_tcp_stream("127.0.0.1", port)
        await backend.send_all(head)
        async with trio.open_nursery() as nursery:
            for one, other in ((stream, backend), (backend, stream)):
                nursery.start_soon(self._pass_on, one, other, nursery.cancel_scope)

    async def _pass_on(self, one, other, scope) -> None:
        try:
            while data := await one.receive_some(65536):
                await other.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def serving(proxy: Proxy, contexts: Contexts | None = None) -> AsyncIterator[int]:
    if contexts is not None:
        contexts[0].sni_callback = lambda _, name, __: proxy.server_names.append(name)
    async with trio.open_nursery() as nursery:

        async def serve(task_status):
            if contexts is not None:
                await trio.serve_ssl_over_tcp(
                    proxy, 0, contexts[0], host="127.0.0.1", task_status=task_status
                )
            else:
                await trio.serve_tcp(proxy, 0, host="127.0.0.1", task_status=task_status)

        (listener,) = await nursery.start(serve)
        listener = getattr(listener, "transport_listener", listener)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("tail", "tls"),
    [
        ("ws", False),
        ("wss", True),
        ("tls/ws", True),
        ("tls/sni/peer.example/ws", True),
    ],
)
@pytest.mark.parametrize("path", ["", "/http-path/a%2Fb%20c"])
@pytest.mark.parametrize("family", ["dns4", "dns"])
async def test_a_proxy_finds_the_peer_by_its_name(tmp_path, monkeypatch, tail, tls, path, family):
    await on_this_machine()
    contexts = certified(tmp_path, "peer.example", "none.example")
    monkeypatch.setattr(websocket_transport, "client_context", lambda: contexts[1])
    async with Node(node_config(listen=(WS,))) as server, Node(node_config(listen=())) as client:
        proxy = Proxy({"peer.example": int(str(server.addrs[0]).split("/")[4])})
        async with serving(proxy, contexts if tls else None) as port:
            addr = f"/{family}/peer.example/tcp/{port}/{tail}{path}"
            assert await client.connect(f"{addr}/p2p/{server.peer_id}") == server.peer_id
            assert await client.connect(addr) == server.peer_id
            assert set(proxy.hosts) == {f"peer.example:{port}"}
            assert set(proxy.paths) == {"/a/b%20c" if path else "/"}
            assert set(proxy.server_names) == ({"peer.example"} if tls else set())
            # Another name is another server.
            with pytest.raises(DialError):
                await client.connect(f"/dns4/none.example/tcp/{port}/{tail}/p2p/{STRANGER}")


async def test_a_relay_behind_a_proxy():
    """The name is still there when the relay is dialed for what is behind it."""
    await on_this_machine()
    quiet = {"nat.port_mapping.enabled": False}
    relay_config = load_config(
        environment={},
        overrides={
            "listen": [WS],
            "nat.relay_server.enabled": True,
            "nat.relay_server.limits.open_to_strangers": True,
            **quiet,
        },
    )
    async with Node(relay_config) as relay:
        proxy = Proxy({"relay.example": int(str(relay.addrs[0]).split("/")[4])})
        async with serving(proxy) as port:
            own = f"/dns4/relay.example/tcp/{port}/ws/p2p/{relay.peer_id}"
            hidden = load_config(environment={}, overrides={"listen": [], "relays": [own], **quiet})
            async with Node(hidden) as server, Node(node_config(listen=())) as client:
                await server.wait_reachable(60)
                addr = f"{own}/p2p-circuit/p2p/{server.peer_id}"
                assert await client.connect(addr, timeout=60) == server.peer_id
                assert addr in map(str, server.addrs)
                assert set(proxy.hosts) == {f"relay.example:{port}"}


# --- forms ---


async def test_old_and_foreign_forms():
    async with Node(node_config(listen=(TCP,))) as server:
        base, _ = split_peer(server.addrs[0])
        async with Node(node_config(listen=())) as client:
            assert await client.connect(f"{base}/ipfs/{server.peer_id}") == server.peer_id


async def test_a_path_of_our_own_is_told_and_dialed():
    async with Node(node_config(listen=(f"{WS}/http-path/mesh",))) as server:
        (addr,) = server.addrs
        assert f"/ws/http-path/mesh/p2p/{server.peer_id}" in str(addr)
        async with Node(node_config(listen=())) as client:
            assert await client.connect(addr) == server.peer_id


@pytest.mark.parametrize("tail", ["tcp/0", "tcp/0/ws", "udp/0/quic-v1/noise"])
@pytest.mark.parametrize("family", ["dns", "dns4"])
async def test_listening_on_a_name(family, tail):
    await on_this_machine()
    async with Node(node_config(listen=(f"/{family}/here.example/{tail}",))) as server:
        (addr,) = server.addrs
        assert str(addr).startswith("/ip4/127.0.0.1/")
        assert "sni" not in str(addr)
        async with Node(node_config(listen=())) as client:
            assert await client.connect(addr) == server.peer_id


async def test_listening_on_a_name_that_there_is_not():
    await on_this_machine()
    with pytest.raises(ListenError, match="not resolved"):
        async with Node(node_config(listen=("/dns4/none.invalid/tcp/0",))):
            pass
