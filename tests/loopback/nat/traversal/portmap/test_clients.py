"""The clients of port mapping against routers on loopback, honest ones and others."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from lattica.nat.traversal.portmap import natpmp, pcp, upnp, upnp_client
from lattica.nat.traversal.portmap.clients import NatPmpClient, PcpClient
from lattica.nat.traversal.portmap.gateway import Gateway
from lattica.nat.traversal.portmap.mapping import (
    Mapping,
    Method,
    Port,
    PortMappingError,
    Reason,
    Transport,
)
from lattica.nat.traversal.portmap.upnp_client import UpnpClient

HOST = ipaddress.IPv4Address("127.0.0.1")
OUTSIDE = ipaddress.IPv4Address("11.0.0.1")
GATEWAY = Gateway(HOST, "lo", HOST)
UDP = Port(Transport.UDP, 4001)
NONCE = bytes(range(12))


@asynccontextmanager
async def router(
    monkeypatch: Any, answer: Callable[[bytes], list[bytes]]
) -> AsyncIterator[list[bytes]]:
    """One that answers datagrams; gives the requests."""
    requests: list[bytes] = []
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((str(HOST), 0))
        for module in (pcp, natpmp):
            monkeypatch.setattr(module, "PORT", sock.getsockname()[1])

        async def serve() -> None:
            while True:
                data, source = await sock.recvfrom(2048)
                requests.append(data)
                for reply in answer(data):
                    await sock.sendto(reply, source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield requests
            nursery.cancel_scope.cancel()


def pcp_answer(request: bytes, *, result: int = 0, epoch: int = 100, port: int = 4001) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x80 | request[1], 0, result, 600, epoch)
    outside = bytes(10) + b"\xff\xff" + OUTSIDE.packed
    return head + (request[24:42] + struct.pack("!H", port) + outside if request[1] else b"")


def natpmp_answer(request: bytes, *, result: int = 0, epoch: int = 100) -> bytes:
    head = struct.pack("!BBHI", 0, 0x80 | request[1], result, epoch)
    if not request[1]:
        return head + OUTSIDE.packed
    return head + request[4:6] + struct.pack("!HI", 5000, 600)


def pcp_client() -> PcpClient:
    return PcpClient(GATEWAY, lambda port: NONCE)


async def reason(call: Any) -> Reason:
    with pytest.raises(PortMappingError) as caught:
        await call
    return caught.value.reason


class TestPcp:
    async def test_maps_checks_and_removes(self, monkeypatch):
        epochs = iter((100, 100, 100, 3))

        def answer(request: bytes) -> list[bytes]:
            return [pcp_answer(request, epoch=next(epochs))]

        async with router(monkeypatch, answer) as requests:
            client = pcp_client()
            await client.search()
            grant = await client.request(UDP, 4001, None, 600)
            assert (grant.external_ip, grant.external_port) == (OUTSIDE, 4001)
            await client.remove(UDP, 4001)
            assert requests[-1] == pcp.encode_map(HOST, NONCE, 17, 4001, lifetime=0)
            assert (await client.check(())).state_lost

    async def test_answers_to_others_do_not_count(self, monkeypatch):
        def answer(request: bytes) -> list[bytes]:
            forged = pcp_answer(request[:24] + bytes(12) + request[36:], port=6666)
            return [forged, b"\x02", b"", pcp_answer(request)]

        async with router(monkeypatch, answer):
            assert (await pcp_client().request(UDP, 1, None, 600)).external_port == 4001

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (lambda request: [pcp_answer(request, result=2)], Reason.NOT_AUTHORIZED),
            (lambda request: [bytes((0, 0x80, 0, 1, 0, 0, 0, 9))], Reason.UNSUPPORTED_VERSION),
            (lambda request: [b"\x02\x81\x00\x00"] * 100, Reason.MALFORMED),
        ],
    )
    async def test_refusals(self, monkeypatch, answer, expected):
        async with router(monkeypatch, answer):
            assert await reason(pcp_client().request(UDP, 1, None, 600)) is expected

    async def test_nobody_listens(self, monkeypatch):
        async with router(monkeypatch, lambda request: []):
            pass
        assert await reason(pcp_client().search()) is Reason.PORT_CLOSED

    async def test_repeats_a_bounded_number_of_times(self, monkeypatch):
        monkeypatch.setattr("lattica.nat.traversal.portmap.exchange.FIRST_WAIT", 0.01)
        async with router(monkeypatch, lambda request: []) as requests:
            assert await reason(pcp_client().search()) is Reason.NO_ANSWER
        assert 1 < len(requests) <= 6


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENETUNREACH, errno.EPERM])
class TestNoSocket:
    """The system may refuse one at any time: it is a failure of this attempt, no more."""

    @pytest.fixture(autouse=True)
    def _refuse(self, monkeypatch, number):
        def refuse(*args: Any, **options: Any) -> Any:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(trio.socket, "socket", refuse)

    async def test_each_method(self, number):
        network = ipaddress.IPv4Network("127.0.0.0/8")
        upnp_one = UpnpClient(GATEWAY, network, random.Random(1))
        for client in (pcp_client(), NatPmpClient(GATEWAY), upnp_one):
            assert await reason(client.search()) is Reason.UNREACHABLE
        upnp_one._service = upnp.Service("WANIPConnection:1", upnp.Url(str(HOST), 1, "/"))
        assert await reason(upnp_one.check(())) is Reason.UNREACHABLE


class TestNatPmp:
    async def test_maps_checks_and_removes(self, monkeypatch):
        async with router(monkeypatch, lambda request: [natpmp_answer(request)]) as requests:
            client = NatPmpClient(GATEWAY)
            await client.search()
            grant = await client.request(UDP, 4001, None, 600)
            assert (grant.external_ip, grant.external_port, grant.lifetime_s) == (
                OUTSIDE,
                5000,
                600,
            )
            checked = await client.check(())
            assert (checked.state_lost, checked.external_ip) == (False, OUTSIDE)
            await client.remove(UDP, 5000)
            assert requests[-1] == natpmp.encode_map(
                Transport.UDP, 4001, external_port=0, lifetime=0
            )

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (lambda request: [natpmp_answer(request, result=4)], Reason.OUT_OF_RESOURCES),
            (lambda request: [bytes((2, 0x80, 0, 1)) + bytes(20)], Reason.UNSUPPORTED_VERSION),
        ],
    )
    async def test_refusals(self, monkeypatch, answer, expected):
        async with router(monkeypatch, answer):
            assert await reason(NatPmpClient(GATEWAY).request(UDP, 1, None, 60)) is expected


class Igd:
    """A gateway with a table; `codes` are errors it answers AddPortMapping with, in turn."""

    def __init__(self, *codes: int, kind: str = "WANIPConnection:1") -> None:
        self.kind = f"urn:schemas-upnp-org:service:{kind}"
        self.codes = list(codes)
        self.table: dict[str, tuple[str, str]] = {}
        self.leases: list[str] = []

    def answer(self, request: str) -> bytes:
        found = re.search(r"<u:(\w+)", request)
        assert found is not None
        fields = dict(re.findall(r"<(New\w+)>([^<]*)<", request))
        key = fields.get("NewExternalPort", "")
        match found.group(1):
            case "GetExternalIPAddress":
                return self.ok(NewExternalIPAddress=str(OUTSIDE))
            case "GetSpecificPortMappingEntry" if key in self.table:
                client, port = self.table[key]
                return self.ok(NewInternalClient=client, NewInternalPort=port)
            case "GetSpecificPortMappingEntry":
                return self.error(714)
            case "AddPortMapping":
                self.leases.append(fields["NewLeaseDuration"])
                if self.codes:
                    return self.error(self.codes.pop(0))
            case "AddAnyPortMapping":
                self.table["7777"] = (fields["NewInternalClient"], fields["NewInternalPort"])
                return self.ok(NewReservedPort="7777")
            case "DeletePortMapping":
                del self.table[key]
                return self.ok()
        self.table[key] = (fields["NewInternalClient"], fields["NewInternalPort"])
        return self.ok()

    def ok(self, **values: str) -> bytes:
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
        return self.http(200, f"<e><b><r>{inner}</r></b></e>")

    def error(self, code: int) -> bytes:
        return self.http(500, f"<e><b><Fault><errorCode>{code}</errorCode></Fault></b></e>")

    def http(self, status: int, body: str) -> bytes:
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head + body).encode()


@asynccontextmanager
async def igd_client(igd: Any) -> AsyncIterator[UpnpClient]:
    """A client that has found the gateway."""

    async def serve(stream: trio.SocketStream) -> None:
        request = ""
        while "</s:Envelope>" not in request:
            request += (await stream.receive_some()).decode()
        await stream.send_all(igd.answer(request))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=str(HOST))
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = UpnpClient(GATEWAY, ipaddress.IPv4Network("127.0.0.0/8"), random.Random(1))
        port = listeners[0].socket.getsockname()[1]
        client._service = upnp.Service(igd.kind, upnp.Url(str(HOST), port, "/ctl"))
        yield client
        nursery.cancel_scope.cancel()


class TestUpnp:
    async def test_maps_checks_and_removes(self):
        igd = Igd()
        async with igd_client(igd) as client:
            grant = await client.request(UDP, 4001, None, 600)
            assert (grant.external_ip, grant.external_port, grant.lifetime_s) == (
                OUTSIDE,
                4001,
                600,
            )
            mapping = Mapping(UDP, Method.UPNP, OUTSIDE, 4001)
            assert not (await client.check([mapping])).state_lost
            await client.remove(UDP, 4001)
            assert igd.table == {}
            assert (await client.check([mapping])).state_lost

    async def test_permanent_leases_only(self):
        igd = Igd(upnp.ONLY_PERMANENT)
        async with igd_client(igd) as client:
            assert (await client.request(UDP, 4001, None, 600)).lifetime_s is None
        assert igd.leases == ["600", "0"]

    async def test_a_port_that_another_host_has(self):
        igd = Igd()
        igd.table["4001"] = ("192.168.1.99", "4001")
        async with igd_client(igd) as client:
            assert (await client.request(UDP, 4001, None, 600)).external_port == 4002
            await client.remove(UDP, 4001)
        assert igd.table["4001"] == ("192.168.1.99", "4001")

    async def test_a_conflict_in_version_2(self):
        igd = Igd(upnp.CONFLICT, kind="WANIPConnection:2")
        async with igd_client(igd) as client:
            assert (await client.request(UDP, 4001, None, 600)).external_port == 7777

    async def test_the_same_port_required(self):
        igd = Igd(upnp.SAME_PORT_REQUIRED)
        async with igd_client(igd) as client:
            assert (await client.request(UDP, 9000, None, 600)).external_port == 4001

    async def test_conflicts_without_end(self):
        igd = Igd(*[upnp.CONFLICT] * 1000)
        async with igd_client(igd) as client:
            assert await reason(client.request(UDP, 4001, None, 600)) is Reason.CONFLICT
        assert len(igd.leases) < 20

    async def test_refused(self):
        async with igd_client(Igd(606)) as client:
            assert await reason(client.request(UDP, 1, None, 60)) is Reason.NOT_AUTHORIZED

    @pytest.mark.parametrize(
        "reply",
        [
            b"HTTP/1.1 200 OK\r\n\r\n" + bytes(upnp.MAX_BODY + 100),
            b'HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
            b"nonsense\r\n\r\n",
        ],
    )
    async def test_a_hostile_one(self, reply):
        igd = Igd()
        igd.answer = lambda request: reply  # type: ignore[method-assign]
        async with igd_client(igd) as client:
            assert await reason(client.request(UDP, 1, None, 60)) is Reason.MALFORMED

    async def test_one_that_says_nothing(self, monkeypatch):
        monkeypatch.setattr(upnp_client, "HTTP_TIMEOUT", 0.1)
        with trio.socket.socket() as sock:
            await sock.bind((str(HOST), 0))
            sock.listen(5)
            client = UpnpClient(GATEWAY, ipaddress.IPv4Network("127.0.0.0/8"), random.Random(1))
            url = upnp.Url(str(HOST), sock.getsockname()[1], "/")
            client._service = upnp.Service(Igd().kind, url)
            assert await reason(client.check(())) is Reason.NO_ANSWER
