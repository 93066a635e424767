"""Port mapping's decisions (the pure core), its driver on doubles, and UPnP's codec."""

from __future__ import annotations

import errno
import ipaddress
import random
from contextlib import suppress
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import ConfigError, RemoteProtocolError
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.events import EventBus, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.portmap import upnp
from lattica.nat.traversal.portmap.clients import Checked
from lattica.nat.traversal.portmap.commands import (
    Check,
    Mapped,
    MethodState,
    Remove,
    Request,
    Search,
    Unmapped,
)
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.portmap.core import FIRST_RETRY, LAST_SEARCH_AGAIN, PortMappingCore
from lattica.nat.traversal.portmap.gateway import Gateway
from lattica.nat.traversal.portmap.mapping import (
    Grant,
    Method,
    Port,
    PortMappingError,
    Reason,
    Transport,
    why_useless,
)
from lattica.nat.traversal.portmap.service import (
    PortMappingService,
    Surroundings,
    mapped_addrs,
    ports_of,
)

OUTSIDE = ipaddress.IPv4Address("11.0.0.1")
ELSEWHERE = ipaddress.IPv4Address("11.0.0.2")
UDP, TCP = Port(Transport.UDP, 4001), Port(Transport.TCP, 4001)
ALL = (Method.PCP, Method.NAT_PMP, Method.UPNP)


class Longest(random.Random):
    """Pauses are as long as they can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def mapper(*methods: Method, lifetime_s: int = 3600, check_s: float = 60) -> Any:
    made = PortMappingCore(methods or ALL, lifetime_s=lifetime_s, check_s=check_s, rng=Longest())
    made.set_ports([TCP, UDP])
    return made


def grant(port: int = 4001, lifetime: float | None = 3600) -> Grant:
    return Grant(OUTSIDE, port, lifetime)


def refused(reason: Reason = Reason.NOT_AUTHORIZED, **more) -> PortMappingError:
    return PortMappingError(reason, **more)


def all_mapped(*methods: Method, **options) -> Any:
    """UDP and TCP are mapped by the first method at time 0."""
    made = mapper(*methods, **options)
    first, *others = made.poll(0)
    made.found(0, first)
    for other in others:
        made.failed(0, other, refused(Reason.NO_ANSWER))
    for _ in range(2):
        [request] = made.poll(0)
        made.granted(0, request, grant(lifetime=options.get("lifetime_s", 3600)))
    assert made.poll(0) == []
    made.take_events()
    return made


class TestSearching:
    def test_all_methods_at_once(self):
        assert [one.method for one in mapper().poll(0)] == list(ALL)

    def test_nothing_without_ports(self):
        made = mapper()
        made.set_ports([])
        assert made.poll(0) == []
        assert made.next_timer is None

    def test_the_first_to_be_found_gets_the_ports(self):
        made = mapper()
        pcp, natpmp, _upnp = made.poll(0)
        made.failed(0, pcp, refused(Reason.PORT_CLOSED))
        made.found(0, natpmp)
        [request] = made.poll(0)
        assert request == Request(Method.NAT_PMP, 0, UDP, 4001, None, 3600)

    def test_ever_more_rarely_without_a_gateway(self):
        made = mapper()
        now, waits = 0.0, []
        for _ in range(12):
            for search in made.poll(now):
                made.failed(now, search, refused(Reason.NO_ANSWER))
            assert made.next_timer is not None
            waits.append(made.next_timer - now)
            now = made.next_timer
        assert waits == sorted(waits)
        assert waits[0] >= 60
        assert waits[-1] == LAST_SEARCH_AGAIN
        assert {status.state for status in made.statuses} == {MethodState.ABSENT}
        assert {status.reason for status in made.statuses} == {Reason.NO_ANSWER}

    def test_at_once_when_the_network_changes(self):
        made = mapper()
        for search in made.poll(0):
            made.failed(0, search, refused(Reason.NO_ANSWER))
        assert made.poll(1) == []
        made.network_changed()
        assert len(made.poll(1)) == 3

    def test_answers_of_the_old_network_count_no_more(self):
        made = mapper()
        old = made.poll(0)
        made.network_changed()
        made.poll(1)
        made.found(1, old[0])
        assert {status.state for status in made.statuses} == {MethodState.SEARCHING}


class TestMapping:
    def test_tcp_wishes_for_the_port_that_udp_got(self):
        made = mapper(Method.PCP)
        made.found(0, made.poll(0)[0])
        [request] = made.poll(0)
        assert request.port == UDP
        assert made.poll(0) == []
        made.granted(0, request, grant(5000))
        [request] = made.poll(0)
        assert (request.port, request.wished_port) == (TCP, 5000)
        made.granted(0, request, grant(5000))
        assert [(m.port, m.external_port) for m in made.mappings] == [(UDP, 5000), (TCP, 5000)]
        assert [type(one) for one in made.take_events()] == [Mapped, Mapped]

    def test_a_refused_port_goes_to_the_next_method(self):
        made = mapper()
        for search in made.poll(0):
            made.found(0, search)
        [request] = made.poll(0)
        made.failed(0, request, refused())
        [request] = made.poll(0)
        assert (request.method, request.port) == (Method.PCP, TCP)
        made.granted(0, request, grant(5000))
        [request] = made.poll(0)
        assert (request.method, request.port) == (Method.NAT_PMP, UDP)
        assert request.wished_port == 5000

    def test_twins_stay_with_one_method(self):
        made = mapper()
        _pcp, natpmp, _upnp = made.poll(0)
        made.found(0, natpmp)
        [request] = made.poll(0)
        made.found(0, _pcp)
        made.granted(0, request, grant())
        [request] = made.poll(0)
        assert (request.method, request.port) == (Method.NAT_PMP, TCP)

    def test_refused_by_all_is_tried_again_later(self):
        made = mapper(Method.PCP)
        made.set_ports([UDP])
        made.found(0, made.poll(0)[0])
        [request] = made.poll(0)
        made.failed(0, request, refused(retry_after_s=100))
        assert made.poll(50) == []
        assert made.next_timer == 100
        [request] = made.poll(100)
        made.failed(100, request, refused())
        assert made.next_timer == 100 + 2 * FIRST_RETRY
        assert made.statuses[0].reason is Reason.NOT_AUTHORIZED

    def test_a_port_that_is_not_wanted_any_more(self):
        made = all_mapped(Method.PCP)
        assert made.set_ports([UDP]) == [Remove(Method.PCP, TCP, 4001)]
        assert [type(one) for one in made.take_events()] == [Unmapped]

    def test_granted_too_late(self):
        made = mapper(Method.PCP)
        made.found(0, made.poll(0)[0])
        [request] = made.poll(0)
        made.set_ports([])
        assert made.granted(0, request, grant()) == [Remove(Method.PCP, UDP, 4001)]
        assert made.mappings == ()

    def test_what_is_removed_in_the_end(self):
        made = mapper(Method.PCP)
        made.found(0, made.poll(0)[0])
        made.granted(0, made.poll(0)[0], grant(5000))
        made.poll(0)
        assert made.shut_down() == [
            Remove(Method.PCP, UDP, 5000),
            Remove(Method.PCP, TCP, 5000),  # asked for, not answered yet
        ]

    def test_private_addresses_are_of_no_use(self):
        made = mapper(Method.PCP)
        made.found(0, made.poll(0)[0])
        [request] = made.poll(0)
        made.granted(0, request, Grant(ipaddress.IPv4Address("192.168.0.2"), 4001, 3600))
        assert "double NAT" in str(made.mappings[0].useless)


class TestRenewal:
    def test_at_half_the_lifetime(self):
        made = all_mapped(Method.PCP, lifetime_s=100, check_s=1000)
        assert made.next_timer == 50
        [request] = made.poll(50)
        assert (request.port, request.wished_port, request.wished_ip) == (UDP, 4001, OUTSIDE)
        made.granted(50, request, grant(lifetime=100))
        [request] = made.poll(50)
        made.granted(50, request, grant(lifetime=100))
        assert made.take_events() == []
        assert made.next_timer == 100

    def test_until_it_is_over(self):
        made = all_mapped(Method.PCP, lifetime_s=100, check_s=1000)
        now = 50.0
        while now < 100:
            while commands := made.poll(now):
                for request in commands:
                    made.failed(now, request, refused(Reason.NO_ANSWER))
            assert made.next_timer is not None
            assert made.next_timer > now
            now = made.next_timer
        made.poll(now)
        assert made.mappings == ()
        assert [type(one) for one in made.take_events()] == [Unmapped, Unmapped]

    def test_refused(self):
        made = all_mapped(Method.PCP, lifetime_s=100, check_s=1000)
        [request] = made.poll(50)
        made.failed(50, request, refused(Reason.CONFLICT))
        assert [mapping.port for mapping in made.mappings] == [TCP]

    def test_a_permanent_one_too(self):
        made = all_mapped(Method.UPNP, lifetime_s=3600, check_s=10000)
        assert made.next_timer == 1800


class TestLostState:
    def test_noticed_by_a_check(self):
        made = all_mapped(Method.PCP)
        assert made.next_timer == 60
        [check] = made.poll(60)
        assert isinstance(check, Check)
        made.checked(60, check, state_lost=True)
        [request] = made.poll(60)
        assert isinstance(request, Request)
        assert request.wished_port == 4001
        # A mapping that is doubtful and cannot be renewed is none.
        made.failed(60, request, refused(Reason.NO_ANSWER))
        assert [mapping.port for mapping in made.mappings] == [TCP]

    def test_announced_by_the_router(self):
        made = all_mapped(Method.PCP)
        made.state_lost(10)
        assert isinstance(made.poll(10)[0], Check)

    def test_announcements_are_not_followed_at_any_rate(self):
        made = all_mapped(Method.PCP)
        for now in (10.0, 11.0, 12.0):
            made.state_lost(now)
            for check in made.poll(now):
                made.checked(now, check, state_lost=False)
        assert made.next_timer == 14

    def test_another_address(self):
        made = all_mapped(Method.PCP)
        [check] = made.poll(60)
        made.checked(60, check, state_lost=False, external_ip=ELSEWHERE)
        assert {mapping.external_ip for mapping in made.mappings} == {ELSEWHERE}
        assert len(made.take_events()) == 2
        assert isinstance(made.poll(60)[0], Request)

    def test_a_gateway_that_says_something_else_each_time(self):
        made = all_mapped(Method.PCP, check_s=10000)
        made._address_seen(10, Method.PCP, ELSEWHERE)
        now, requests = 10.0, 0
        while now < 30:
            for request in made.poll(now):
                requests += 1
                made.granted(now, request, Grant(OUTSIDE + requests, 4001, 3600))
            assert made.next_timer is not None
            now = made.next_timer
        assert requests < 20

    def test_its_program_is_gone(self):
        made = all_mapped(Method.PCP, Method.UPNP)
        [check] = made.poll(60)
        made.failed(60, check, refused(Reason.PORT_CLOSED))
        assert made.mappings == ()
        assert made.next_timer == 64
        assert [type(one) for one in made.poll(64)] == [Search, Search]


@given(st.data())
def test_whatever_happens(data):
    """No timer is in the past, nothing is asked twice at a time, what stands is known."""
    made = mapper(lifetime_s=60, check_s=5)
    now = 0.0
    busy: list[Search | Request | Check] = []
    known = {}
    for _ in range(data.draw(st.integers(1, 60))):
        busy += made.poll(now)
        methods = [one.method for one in busy if one.generation == made._generation]
        assert len(set(methods)) == len(methods)
        timer = made.next_timer
        assert timer is None or timer > now
        for one in made.take_events():
            if isinstance(one, Mapped):
                known[one.mapping.port] = one.mapping
            else:
                del known[one.mapping.port]
        assert set(made.mappings) == set(known.values())
        what = data.draw(st.sampled_from(["answer", "answer", "answer", "time", "net", "ports"]))
        if what == "answer" and busy:
            command = busy.pop(data.draw(st.integers(0, len(busy) - 1)))
            if data.draw(st.booleans()):
                made.failed(now, command, refused(data.draw(st.sampled_from(Reason))))
            elif isinstance(command, Search):
                made.found(now, command)
            elif isinstance(command, Check):
                lost = data.draw(st.booleans())
                ip = data.draw(st.sampled_from([None, OUTSIDE, ELSEWHERE]))
                made.checked(now, command, state_lost=lost, external_ip=ip)
            else:
                ip = data.draw(st.sampled_from([OUTSIDE, ELSEWHERE]))
                life = data.draw(st.sampled_from([None, 1, 60, 2**32 - 1]))
                made.granted(now, command, Grant(ip, data.draw(st.integers(1, 65535)), life))
        elif what == "time":
            now = timer if timer is not None and data.draw(st.booleans()) else now + 7
        elif what == "net" and data.draw(st.booleans()):
            made.network_changed()
        elif what == "ports":
            made.set_ports(data.draw(st.sets(st.sampled_from([UDP, TCP]))))
            if not made._wanted:
                made.set_ports([UDP, TCP])


# --- the driver ---

LOCAL = ipaddress.IPv4Address("192.168.1.7")
HERE = Surroundings(
    Gateway(ipaddress.IPv4Address("192.168.1.1"), "eth0", LOCAL),
    ipaddress.IPv4Network("192.168.1.0/24"),
)
LISTEN = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1/noise")


class Book:
    def __init__(self):
        self.addrs = []

    def set(self, source, addrs):
        assert source == "mapped"
        self.addrs = [str(addr) for addr in addrs]


class FakeSwarm:
    identity = Identity.generate()

    def __init__(self, *listen: str) -> None:
        self.listen_addrs = tuple(Multiaddr(addr) for addr in listen or LISTEN)
        self.events = EventBus()
        self.own_addresses = Book()


class Router:
    """All methods of one router; maps anything."""

    def __init__(self) -> None:
        self.table: dict[Any, int] = {}
        self.asked = 0
        self.is_slow_to_remove = False

    async def search(self):
        self.asked += 1

    async def request(self, port, wished_port, wished_ip, lifetime_s):
        await trio.sleep(0.1)
        self.table[port] = wished_port
        return Grant(OUTSIDE, wished_port, lifetime_s)

    async def check(self, mappings):
        return Checked(any(one.port not in self.table for one in mappings), OUTSIDE)

    async def remove(self, port, external_port):
        if self.is_slow_to_remove:
            await trio.sleep_forever()
        self.table.pop(port, None)


def service(swarm: FakeSwarm, router: Router, *, has_gateway: bool = True, **config):
    async def find(family: int) -> Surroundings | None:
        await trio.lowlevel.checkpoint()
        return HERE if family == 4 and has_gateway else None

    return PortMappingService(
        cast(Swarm, swarm),
        PortMappingConfig(**config),
        find=find,
        make_clients=lambda where: dict.fromkeys(Method, router),
        rng=random.Random(1),
    )


class TestService:
    async def test_maps_and_removes(self, autojump_clock):
        swarm, router = FakeSwarm(), Router()
        tested = service(swarm, router)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tested.run)
            await trio.sleep(5)
            assert swarm.own_addresses.addrs == [
                "/ip4/11.0.0.1/tcp/4001",
                "/ip4/11.0.0.1/udp/4001/quic-v1/noise",
            ]
            assert len(tested.status().mappings) == 2
            router.table.clear()  # it restarts
            await trio.sleep(70)
            assert len(router.table) == 2
            nursery.cancel_scope.cancel()
        assert router.table == {}
        assert swarm.own_addresses.addrs == []

    async def test_the_end_is_bounded(self, autojump_clock):
        swarm, router = FakeSwarm(), Router()
        router.is_slow_to_remove = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service(swarm, router).run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    async def test_begins_anew_when_the_network_changes(self, autojump_clock):
        swarm, router = FakeSwarm(), Router()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service(swarm, router).run)
            await trio.sleep(5)
            asked = router.asked
            swarm.events.publish(NetworkChanged("test"))
            await trio.sleep(5)
            assert router.asked > asked
            assert len(swarm.own_addresses.addrs) == 2
            nursery.cancel_scope.cancel()

    async def test_the_network_changes_while_it_looks_around(self, autojump_clock):
        """One family's clients are gone before another family has been looked at."""
        swarm, router = FakeSwarm(*LISTEN, "/ip6/::/tcp/4001"), Router()

        async def find(family: int) -> Surroundings | None:
            await trio.sleep(0.2 if family == 6 else 0)
            return HERE if family == 4 else None

        tested = PortMappingService(
            cast(Swarm, swarm), find=find, make_clients=lambda where: dict.fromkeys(Method, router)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tested.run)
            for _ in range(10):
                await trio.sleep(0.13)
                swarm.events.publish(NetworkChanged("test"))
            await trio.sleep(20)
            assert len(swarm.own_addresses.addrs) == 2
            nursery.cancel_scope.cancel()

    async def test_no_answer_is_not_the_answer_that_there_is_no_gateway(self, autojump_clock):
        swarm, router = FakeSwarm(), Router()
        shortage: list[OSError] = []

        async def find(family: int) -> Surroundings | None:
            await trio.lowlevel.checkpoint()
            if shortage:
                raise shortage[0]
            return HERE if family == 4 else None

        tested = PortMappingService(
            cast(Swarm, swarm), find=find, make_clients=lambda where: dict.fromkeys(Method, router)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tested.run)
            await trio.sleep(5)
            shortage.append(OSError(errno.EMFILE, "Too many open files"))
            await trio.sleep(200)
            assert len(swarm.own_addresses.addrs) == 2
            nursery.cancel_scope.cancel()

    async def test_what_is_run_again_is_as_new(self, autojump_clock):
        """An error ends it while the router is asked: the next life asks again."""
        swarm, router = FakeSwarm(), Router()
        answer, fails = router.request, [ZeroDivisionError()]

        async def request(*args: Any) -> Grant:
            if fails:
                swarm.events.publish(NetworkChanged("test"))
                await trio.sleep_forever()
            return await answer(*args)

        async def find(family: int) -> Surroundings | None:
            await trio.lowlevel.checkpoint()
            if family == 4 and tested.status().families[:1] and fails:
                states = {m.state for m in tested.status().families[0].methods}
                if MethodState.FOUND in states:
                    raise fails.pop()
            return HERE if family == 4 else None

        router.request = request  # type: ignore[method-assign]
        tested = PortMappingService(
            cast(Swarm, swarm), find=find, make_clients=lambda where: {Method.PCP: router}
        )
        tested.network_changed = lambda: tested._wake()  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError), single_error():
            await tested.run()
        assert not swarm.own_addresses.addrs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tested.run)
            await trio.sleep(5)
            assert len(swarm.own_addresses.addrs) == 2
            nursery.cancel_scope.cancel()

    async def test_a_method_without_a_client_is_absent(self, autojump_clock):
        swarm, router = FakeSwarm(), Router()
        found = service(swarm, router)
        tested = PortMappingService(
            cast(Swarm, swarm), find=found._find, make_clients=lambda where: {Method.PCP: router}
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tested.run)
            await trio.sleep(20)
            assert {mapping.method for mapping in tested.status().mappings} == {Method.PCP}
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize(
        ("listen", "has_gateway", "config"),
        [
            (("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1/noise"), True, {}),
            (LISTEN, False, {}),
            (("/ip4/10.1.1.1/tcp/4001",), True, {}),
            (LISTEN, True, {"enabled": False}),
        ],
    )
    async def test_asks_nothing(self, autojump_clock, listen, has_gateway, config):
        swarm, router = FakeSwarm(*listen), Router()
        tested = service(swarm, router, has_gateway=has_gateway, **config)
        with trio.move_on_after(10):
            await tested.run()
        assert router.asked == 0
        assert tested.status().enabled == config.get("enabled", True)
        assert all(family.idle for family in tested.status().families)

    def test_nonces_stay_the_same(self):
        swarm = FakeSwarm()
        one, other = (service(swarm, Router()) for _ in range(2))
        assert one._nonce(UDP) == other._nonce(UDP)
        assert len({one._nonce(UDP), one._nonce(TCP), bytes(12)}) == 3


def test_whether_anything_more_may_come_soon():
    made = mapper(Method.UPNP)
    assert not made.is_settled(0.0)
    [search] = made.poll(0.0)
    assert not made.is_settled(0.0)
    made.failed(0.1, search, refused(Reason.NO_ANSWER))
    assert made.is_settled(0.1)
    [search] = made.poll(made.next_timer)
    assert not made.is_settled(100.0)
    made.found(100.0, search)
    for _ in (TCP, UDP):
        assert not made.is_settled(100.0)
        [request] = made.poll(100.0)
        assert not made.is_settled(100.0)
        made.granted(100.0, request, grant())
    assert made.is_settled(100.0)
    assert made.is_settled(5000.0)


def test_ports_and_addresses():
    addrs = [
        Multiaddr(text)
        for text in (
            *LISTEN,
            "/ip4/192.168.1.7/tcp/443/wss",
            "/ip4/10.0.0.1/tcp/5",
            "/ip6/::/tcp/4001",
            "/ip4/0.0.0.0/udp/9/quic-v1",
        )
    ]
    ports = ports_of(addrs, 4, LOCAL)
    assert ports == (TCP, UDP, Port(Transport.TCP, 443))
    made = all_mapped(Method.PCP)
    assert [str(addr) for addr in mapped_addrs(addrs, 4, LOCAL, made.mappings)] == [
        "/ip4/11.0.0.1/tcp/4001",
        "/ip4/11.0.0.1/udp/4001/quic-v1/noise",
    ]


def test_which_addresses_are_of_use():
    assert why_useless(OUTSIDE) is None
    assert why_useless(ipaddress.IPv6Address("2b00::1")) is None
    for text in ("100.64.0.1", "10.0.0.1", "0.0.0.0", "127.0.0.1", "fd00::1"):
        assert why_useless(ipaddress.ip_address(text))


def test_configuration_is_checked():
    wrongs: list[dict[str, Any]] = [{"lifetime_s": 0}, {"lifetime_s": 10**9}, {"check_s": 0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            PortMappingConfig(**wrong)


# --- UPnP ---

LOCATION = upnp.Url("192.168.1.1", 5000, "/root.xml")
DESCRIPTION = b"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>/ctl/IPConn?x=1&amp;y</controlURL></service>
<service><controlURL>/2</controlURL>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:2</serviceType></service>
</serviceList></device></deviceList></device></root>"""
ANSWER = (
    b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"LOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n"
)
ENVELOPE = b'<s:Envelope xmlns:s="x"><s:Body>%b</s:Body></s:Envelope>'


def whole(data: bytes) -> None:
    response = upnp.HttpResponse()
    if not response.feed(data):
        response.feed(b"")


class TestUpnp:
    def test_search(self):
        assert b"MX: 2\r\nST: " in upnp.encode_search(upnp.DEVICES[0])
        assert upnp.decode_search_answer(ANSWER, "192.168.1.1") == LOCATION

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            ANSWER.replace(b"200 OK", b"404 No"),
            ANSWER.replace(b"InternetGatewayDevice", b"MediaServer"),
            ANSWER.replace(b"192.168.1.1", b"192.168.1.2"),
            ANSWER.replace(b"192.168.1.1", b"evil.example"),
            ANSWER.replace(b"http:", b"file:"),
            ANSWER.replace(b"192.168.1.1", b"user@192.168.1.1"),
            ANSWER.replace(b":5000", b":99999"),
            ANSWER.replace(b"/root", b"/a b" + b"x" * 600),
        ],
    )
    def test_answers_that_lead_elsewhere(self, data):
        with pytest.raises(RemoteProtocolError):
            upnp.decode_search_answer(data, "192.168.1.1")

    def test_description(self):
        first, second = upnp.parse_description(DESCRIPTION, LOCATION)
        assert first.has_any_port
        assert str(first.control) == "http://192.168.1.1:5000/2"
        assert str(second.control) == "http://192.168.1.1:5000/ctl/IPConn?x=1&y"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"<a>",
            b"<root/>",
            b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
            DESCRIPTION.replace(b"/2<", b"http://192.168.1.9/2<"),
            b"<a>" * 40,
            b"<a>" + b"<b/>" * 5000 + b"</a>",
            b" " * (upnp.MAX_BODY + 1),
        ],
    )
    def test_bad_descriptions(self, data):
        with pytest.raises(RemoteProtocolError):
            upnp.parse_description(data, LOCATION)

    def test_actions(self):
        service = upnp.parse_description(DESCRIPTION, LOCATION)[0]
        request = upnp.encode_action(service, "Do", [("A", "<&>"), ("B", 1)])
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"<A>&lt;&amp;&gt;</A><B>1</B></u:Do>" in body
        answer = ENVELOPE % b"<u:R><NewExternalIPAddress>11.0.0.1</NewExternalIPAddress></u:R>"
        values = upnp.parse_action_answer(200, answer)
        assert not isinstance(values, upnp.SoapFault)
        assert upnp.take_ip(values) == OUTSIDE
        fault = b"<errorCode>718</errorCode><errorDescription>No</errorDescription>"
        assert upnp.parse_action_answer(500, ENVELOPE % fault) == upnp.SoapFault(718, "No")
        assert upnp.reason_of(718) is Reason.CONFLICT

    @pytest.mark.parametrize(
        ("data", "body"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
            (b"HTTP/1.0 200 OK\r\n\r\nhi", b"hi"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\nh\r\n1;x\r\ni\r\n0\r\n\r\n",
                b"hi",
            ),
        ],
    )
    @given(cut=st.integers(1, 100))
    def test_http(self, data, body, cut):
        response = upnp.HttpResponse()
        pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
        assert any(response.feed(piece) for piece in (*pieces, b""))
        assert (response.status, response.body) == (200, body)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nh",
            b"HTTP/1.1 200 OK\r\n\r\n" + bytes(upnp.MAX_BODY + 1),
            b"x" * upnp.MAX_HEAD,
        ],
    )
    def test_bad_http(self, data):
        with pytest.raises(RemoteProtocolError):
            whole(data)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data):
        for read in (
            lambda: upnp.decode_search_answer(data, "192.168.1.1"),
            lambda: upnp.parse_description(data, LOCATION),
            lambda: upnp.parse_action_answer(500, data),
            lambda: upnp.HttpResponse().feed(data),
        ):
            with suppress(RemoteProtocolError):
                read()
