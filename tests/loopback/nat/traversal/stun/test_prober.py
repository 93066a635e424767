"""The prober of a swarm, on the loopback interface: when it measures, and what it tells."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest
import trio

from lattica.errors import ConfigError
from lattica.nat.base.concurrency.watched import Watched
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.quic.endpoint import QuicEndpoint
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.swarm.addresses.own_addresses import OwnAddresses
from lattica.nat.swarm.events import EventBus, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.udp_socket import UdpSocket
from lattica.nat.traversal.stun.behaviour import Responder
from lattica.nat.traversal.stun.codec import (
    BindingRequest,
    BindingResponse,
    Endpoint,
    decode,
    encode,
)
from lattica.nat.traversal.stun.prober import NatProber, NatProberConfig
from lattica.nat.traversal.stun.responder import StunResponder
from lattica.nat.traversal.stun.transaction import StunTiming
from tests.support.nets.nets import running, settled

QUICK = NatProberConfig(
    keepalive=1.0,
    poll=0.02,
    pause=0.05,
    timing=StunTiming(first_wait=0.1, requests=2, last_wait=0.2),
)
EI = Behaviour.ENDPOINT_INDEPENDENT


def quic(host: str) -> str:
    return f"/ip4/{host}/udp/0/quic-v1/noise"


@asynccontextmanager
async def relays(*hosts: str) -> AsyncIterator[list[Responder]]:
    """Relays with two ports each; their responders."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        found = []
        for host in hosts:
            relay = await stack.enter_async_context(running(listen=(quic(host), quic(host))))
            nursery.start_soon(StunResponder(relay).run)
            found += [Responder(*endpoint.local) for endpoint in relay.udp_endpoints]
        try:
            yield found
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def probing(
    swarm: Swarm, responders: Callable[[], Sequence[Responder]]
) -> AsyncIterator[NatProber]:
    prober = NatProber(swarm, responders, QUICK, random.Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        try:
            yield prober
        finally:
            nursery.cancel_scope.cancel()


async def test_there_is_no_nat_on_this_machine():
    async with (
        relays("127.0.0.2", "127.0.0.3") as responders,
        running(listen=(quic("127.0.0.1"),)) as node,
        probing(node, lambda: responders) as prober,
    ):
        with trio.fail_after(60):
            report = await prober.measured()
        (endpoint,) = node.udp_endpoints
        assert report == NatReport(
            mapping=EI,
            filtering=EI,
            is_translated=False,
            preserves_port=True,
            udp_works=True,
            mapped=(endpoint.local,),
        )
        assert node.nat.value is report
        assert node.own_addresses.get("observed") == ()
        with trio.fail_after(60):
            assert await prober.measured(6) == NatReport()


async def test_nobody_is_asked_who_was_not_given():
    names = [Responder("relay.example", 4001), Responder("127.0.0.1", 0), Responder("", 1)]
    async with (
        running(listen=(quic("127.0.0.1"),)) as node,
        probing(node, lambda: names) as prober,
    ):
        with trio.fail_after(60):
            assert await prober.measured() == NatReport()


async def test_relays_come_and_go():
    async with (
        relays("127.0.0.2", "127.0.0.3") as responders,
        running(listen=(quic("127.0.0.1"),)) as node,
    ):
        present: list[Responder] = []
        async with probing(node, lambda: present):
            present[:] = responders[:1]
            await settled(lambda: node.nat.value.udp_works)
            present[:] = [*responders, Responder("relay.example", 4001)]
            await settled(lambda: node.nat.value.filtering)
            present.clear()
            await settled(lambda: node.nat.value == NatReport())


async def test_it_says_when_it_has_measured():
    async with (
        relays("127.0.0.2", "127.0.0.3") as responders,
        running(listen=(quic("127.0.0.1"),)) as node,
    ):
        present: list[Responder] = []
        async with probing(node, lambda: present) as prober:
            await settled(lambda: prober.has_measured(4) and prober.has_measured(6))
            present[:] = responders[:1]
            # What has just come was not asked yet.
            assert not prober.has_measured()
            assert prober.has_measured(6)
            await settled(prober.has_measured)
            # One port of one responder does not tell all, and yet that was all.
            assert prober.report(4).udp_works
            present[:] = responders
            assert not prober.has_measured()
            await settled(prober.has_measured)
            assert prober.report(4).filtering is EI


class LyingRelay:
    """A responder that tells what the test says, and counts."""

    def __init__(self, host: str, mapped: Endpoint | None) -> None:
        self.sock = UdpSocket.bind(host, 0, trio.socket.AF_INET)
        self.mapped = mapped
        self.asked = 0

    async def run(self) -> None:
        while True:
            for received in await self.sock.receive():
                request = decode(received.data)
                self.asked += 1
                if self.mapped is not None and isinstance(request, BindingRequest):
                    answer = BindingResponse(request.transaction, self.mapped)
                    self.sock.send([encode(answer)], received.source)


class Node:
    """A swarm's part that the prober uses, on a socket of its own."""

    def __init__(self, endpoint: QuicEndpoint) -> None:
        self.nat = Watched(NatReport())
        self.events = EventBus()
        self.changes = 0
        self.own_addresses = OwnAddresses(self._changed)
        self.udp_endpoints = (endpoint,)

    def _changed(self) -> None:
        self.changes += 1


@asynccontextmanager
async def mapped_to(
    *claims: Endpoint | None,
) -> AsyncIterator[tuple[Node, list[LyingRelay]]]:
    """A node that is probed, and relays that see it there."""
    async with running(listen=(quic("127.0.0.1"),)) as swarm, trio.open_nursery() as nursery:
        node = Node(swarm.udp_endpoints[0])
        found = [LyingRelay(f"127.0.0.{n}", claim) for n, claim in enumerate(claims, 2)]
        responders = [Responder(*relay.sock.local) for relay in found]
        for relay in found:
            nursery.start_soon(relay.run)
        prober = NatProber(cast(Swarm, node), lambda: responders, QUICK, random.Random(1))
        nursery.start_soon(prober.run)
        try:
            yield node, found
        finally:
            nursery.cancel_scope.cancel()
            for relay in found:
                relay.sock.close()


async def test_what_everybody_sees_is_announced():
    outside = ("192.0.2.7", 4711)
    async with mapped_to(outside, outside) as (node, found):
        await settled(lambda: node.own_addresses.get("observed"))
        (addr,) = node.own_addresses.get("observed")
        assert str(addr) == "/ip4/192.0.2.7/udp/4711/quic-v1/noise"
        assert node.nat.value.mapped == (outside,)
        # The NAT forgets the mapping, and makes another: a keep-alive shows it.
        for relay in found:
            relay.mapped = ("192.0.2.8", 4712)
        await settled(lambda: node.nat.value.mapped == (("192.0.2.8", 4712),))
        (addr,) = node.own_addresses.get("observed")
        assert str(ip_of(addr)) == "192.0.2.8"


async def test_a_hard_nat_has_no_address_to_announce():
    async with mapped_to(("192.0.2.7", 1), ("192.0.2.7", 2)) as (node, _):
        await settled(lambda: node.nat.value.is_hard)
        assert node.own_addresses.get("observed") == ()


async def test_silence_and_its_end():
    async with mapped_to(None, None) as (node, found):
        await settled(lambda: node.nat.value.udp_works is False)
        for relay in found:
            relay.mapped = ("192.0.2.7", 1)
        await settled(lambda: node.nat.value.udp_works)
        for relay in found:
            relay.mapped = None
        await settled(lambda: node.nat.value.udp_works is False)
        assert node.own_addresses.get("observed") == ()


async def test_a_change_of_network_makes_it_measure_again():
    outside = ("192.0.2.7", 4711)
    async with mapped_to(outside, outside) as (node, found):
        await settled(lambda: node.nat.value.udp_works)
        for relay in found:
            relay.mapped = ("192.0.2.8", 1)
        node.events.publish(NetworkChanged("test"))
        await settled(lambda: node.nat.value.mapped == (("192.0.2.8", 1),))


@pytest.mark.parametrize("fields", [{"keepalive": 0.5}, {"poll": 0.0}, {"pause": -1.0}])
def test_the_configuration_is_checked(fields):
    with pytest.raises(ConfigError):
        NatProberConfig(**fields)
