"""Whom multicast DNS believes, and what it does when sockets fail."""

from __future__ import annotations

import logging
from ipaddress import ip_address, ip_interface

import pytest
import trio

from lattica.dht.discovery.mdns import service
from lattica.dht.discovery.mdns.messages import decode, encode_answer
from lattica.dht.discovery.mdns.service import MdnsSource
from lattica.dht.discovery.mdns.sockets import is_on_link
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = Identity.generate().peer_id
OWN = Identity.generate().peer_id
OTHER = Identity.generate().peer_id
ADDR = Multiaddr(f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}")


class FakeSocket:
    """Receives one packet, and then what a broken interface gives, or nothing."""

    sender: IpAddress = ip_address("127.0.0.1")
    error: OSError | None = None

    def __init__(self, version, port, interfaces):
        self.packets = [encode_answer("a" * 40, [ADDR])]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def join(self):
        return 1

    async def send(self, packet):
        await trio.lowlevel.checkpoint()

    async def receive(self, most):
        await trio.lowlevel.checkpoint()
        if self.packets:
            return self.packets.pop(), self.sender
        if self.error is not None:
            raise self.error
        return await trio.Event().wait()


async def found(monkeypatch, sender: str, error: OSError | None = None) -> list[PeerId]:
    monkeypatch.setattr(FakeSocket, "sender", ip_address(sender))
    monkeypatch.setattr(FakeSocket, "error", error)
    monkeypatch.setattr(service, "MulticastSocket", FakeSocket)
    async with trio.open_nursery() as nursery:
        source = MdnsSource(OWN, nursery, lambda: [], lambda: [])
        await trio.sleep(100.0)
        peers = [peer.peer_id async for peer in source.find("t")]
        await source.aclose()
    return peers


async def test_only_who_is_on_a_network_of_ours_is_believed(autojump_clock, monkeypatch):
    assert await found(monkeypatch, "127.0.0.1") == [PEER]
    assert await found(monkeypatch, "198.51.100.7") == []


async def test_a_socket_that_breaks_is_opened_again_and_that_is_said_once(
    autojump_clock, monkeypatch, caplog
):
    with caplog.at_level(logging.WARNING):
        assert await found(monkeypatch, "127.0.0.1", OSError("network is down")) == [PEER]
    assert caplog.text.count("no multicast DNS here") == 1


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("192.168.1.77", True),
        ("192.168.2.77", False),
        ("8.8.8.8", False),
        ("127.0.0.1", True),
        ("169.254.3.4", True),
        ("fe80::1", True),
        ("fd00:1::5", True),
        ("fd00:2::5", False),
        ("2001:db8::1", False),
    ],
)
def test_a_sender_is_on_the_link_if_one_of_our_networks_has_it(ip, expected):
    own = [ip_interface("192.168.1.5/24"), ip_interface("fd00:1::1/64")]
    assert is_on_link(ip_address(ip), own) is expected


async def test_who_floods_takes_nobody_elses_turn(autojump_clock, monkeypatch):
    flood = encode_answer("a" * 40, [ADDR] * 8)
    read: list[bytes] = []

    class Flooded(FakeSocket):
        def __init__(self, *_):
            answer = encode_answer("b" * 40, [Multiaddr(f"/ip4/127.0.0.1/tcp/1/p2p/{OTHER}")])
            self.left = [(answer, ip_address("127.0.0.1"))]
            self.left += [(flood, ip_address("127.0.0.2"))] * 5000

        async def receive(self, most):
            await trio.lowlevel.checkpoint()
            return self.left.pop() if self.left else await trio.Event().wait()

    def reading(data: bytes):
        read.append(data)
        return decode(data)

    monkeypatch.setattr(service, "decode", reading)
    monkeypatch.setattr(service, "MulticastSocket", Flooded)
    async with trio.open_nursery() as nursery:
        source = MdnsSource(OWN, nursery, lambda: [], lambda: [])
        await trio.sleep(100.0)
        assert OTHER in [peer.peer_id async for peer in source.find("t")]
        await source.aclose()
    assert sum(map(len, read)) < 256 * 1024


async def test_a_peer_that_another_has_named_before_is_told_again_with_its_own_addresses(
    autojump_clock, monkeypatch
):
    own = Multiaddr(f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}")
    wrong = Multiaddr(f"/ip4/127.0.0.8/tcp/9/p2p/{PEER}")

    class Liar(FakeSocket):
        """Its answer is there before, and after, the peer's."""

        def __init__(self, *_):
            self.left = [
                (200.0, wrong, "127.0.0.9"),
                (100.5, own, "127.0.0.1"),
                (50.0, wrong, "127.0.0.9"),
            ]

        async def receive(self, most):
            await trio.lowlevel.checkpoint()
            if not self.left:
                return await trio.Event().wait()
            when, addr, sender = self.left.pop()
            await trio.sleep_until(begun + when)
            return encode_answer("a" * 40, [addr]), ip_address(sender)

    monkeypatch.setattr(service, "MulticastSocket", Liar)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        source = MdnsSource(OWN, nursery, lambda: [], lambda: [])
        await trio.sleep(100.0)
        assert [peer.addrs async for peer in source.find("t")] == [(wrong,), (own, wrong)]
        await trio.sleep_until(begun + 210.0)
        assert [peer.addrs async for peer in source.find("t")] == [(own, wrong)]
        await source.aclose()
