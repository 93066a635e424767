"""The core of the AutoNAT v2 server: who is served, what is dialed, and what it costs first."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.interfaces import Interface
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.autonat.messages import (
    MAX_CHUNK,
    MAX_DIAL_DATA,
    MIN_DIAL_DATA,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    ResponseStatus,
)
from lattica.nat.traversal.autonat.server import choose_source
from lattica.nat.traversal.autonat.server_core import (
    MAX_LOOKED_AT,
    MIN_CHUNK,
    AutonatServerCore,
    Dial,
    Exchange,
    Reply,
    may_dial,
)
from tests.support.clock import Clock

PEERS = [Identity.generate().peer_id for _ in range(4)]
ALICE, BOB = PEERS[:2]
HERE: tuple[Interface, ...] = (
    ipaddress.IPv4Interface("11.0.0.1/24"),
    ipaddress.IPv6Interface("2b00::1/64"),
    ipaddress.IPv4Interface("127.0.0.1/8"),
)
ASKER = ipaddress.ip_address("11.0.9.9")
OWN = Multiaddr("/ip4/11.0.9.9/tcp/4001")
OTHER = Multiaddr("/ip4/11.0.8.8/udp/4001/quic-v1/noise")
REJECTED = Reply(DialResponse(ResponseStatus.E_REQUEST_REJECTED), last=True)
REFUSED = Reply(DialResponse(ResponseStatus.E_DIAL_REFUSED), last=True)


def server(clock: Clock | None = None, **changes: Any) -> AutonatServerCore:
    config = AutonatServerConfig(**changes)
    return AutonatServerCore(config, clock=clock or Clock(), rng=Random(7), local=lambda: HERE)


def enter(core: AutonatServerCore, peer: PeerId = ALICE, observed: IpAddress = ASKER) -> Exchange:
    exchange = core.enter(peer, observed)
    assert exchange is not None
    return exchange


class TestWhatMayBeDialed:
    @pytest.mark.parametrize(
        "addr",
        [
            "/ip4/11.0.9.9/tcp/4001",
            "/ip4/11.0.9.9/tcp/443/ws",
            "/ip4/11.0.9.9/tcp/443/wss",
            "/ip4/11.0.9.9/udp/4001/quic-v1/noise",
            "/ip6/2b00::9/tcp/4001",
        ],
    )
    def test_public_addresses(self, addr: str) -> None:
        assert may_dial(Multiaddr(addr), HERE)

    @pytest.mark.parametrize(
        "addr",
        [
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/172.16.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/0.1.2.3/tcp/1",
            "/ip4/224.0.0.1/udp/1/quic-v1/noise",
            "/ip4/240.0.0.1/tcp/1",
            "/ip4/255.255.255.255/udp/1/quic-v1/noise",
            "/ip4/192.0.2.1/tcp/1",
            "/ip4/198.18.0.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/::/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/fec0::1/tcp/1",
            "/ip6/ff02::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/ip6/::ffff:11.0.9.9/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/ip6/64:ff9b::a00:1/tcp/1",
            "/ip6/2002:a00:1::1/tcp/1",
            "/ip6/2001:0:a00:1::1/tcp/1",
        ],
    )
    def test_no_others(self, addr: str) -> None:
        assert not may_dial(Multiaddr(addr), HERE)

    @pytest.mark.parametrize(
        "addr",
        [
            "/ip4/11.0.0.1/tcp/22",  # this machine
            "/ip6/2b00::1/tcp/22",
            "/ip4/11.0.9.9/tcp/0",
            "/ip4/11.0.9.9/udp/4001/quic-v1",
            "/ip4/11.0.9.9",
            "/dns4/example.org/tcp/443/wss",
            "/dnsaddr/example.org",
            f"/ip4/11.0.9.9/tcp/1/p2p/{BOB}/p2p-circuit",
        ],
    )
    def test_nothing_of_our_own_and_nothing_else(self, addr: str) -> None:
        assert not may_dial(Multiaddr(addr), HERE)

    def test_families_that_this_machine_has(self) -> None:
        six, four = Multiaddr("/ip6/2b00::9/tcp/1"), Multiaddr("/ip4/11.0.9.9/tcp/1")
        behind_one_to_one_nat = [ipaddress.IPv4Interface("10.0.0.5/24")]
        only_local_six = [ipaddress.IPv6Interface("fd00::1/64")]
        assert may_dial(four, behind_one_to_one_nat)
        assert not may_dial(six, behind_one_to_one_nat)
        assert not may_dial(six, only_local_six)
        assert not may_dial(four, [ipaddress.IPv4Interface("127.0.0.1/8")])

    def test_labs_may_have_private_ones(self) -> None:
        for addr in ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/11.0.0.1/tcp/1"):
            assert may_dial(Multiaddr(addr), HERE, allow_private=True)
        for addr in ("/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/0"):
            assert not may_dial(Multiaddr(addr), HERE, allow_private=True)


class TestOneRequest:
    def test_the_first_that_may_be_dialed(self) -> None:
        addrs = (None, Multiaddr("/ip4/10.0.0.1/tcp/1"), OWN, OTHER)
        exchange = enter(server())
        assert exchange.receive(DialRequest(addrs, 7)) == Dial(OWN, 7, 0.0)
        answer = DialResponse(ResponseStatus.OK, 2, DialStatus.E_DIAL_ERROR)
        assert exchange.dialed(DialStatus.E_DIAL_ERROR) == Reply(answer, last=True)

    @pytest.mark.parametrize("addrs", [(), (None,), (Multiaddr("/ip4/10.0.0.1/tcp/1"),)])
    def test_none_may_be_dialed(self, addrs: tuple[Multiaddr | None, ...]) -> None:
        assert enter(server()).receive(DialRequest(addrs, 7)) == REFUSED

    def test_only_so_many_are_looked_at(self) -> None:
        assert enter(server()).receive(DialRequest((*[None] * MAX_LOOKED_AT, OWN), 7)) == REFUSED

    def test_an_address_of_somebody_else_is_not_dialed(self) -> None:
        named, of_another = (OWN.encapsulate(Multiaddr(f"/p2p/{peer}")) for peer in (ALICE, BOB))
        exchange = enter(server())
        assert exchange.receive(DialRequest((of_another, named), 7)) == Dial(named, 7, 0.0)

    def test_one_dial_for_each_request(self) -> None:
        exchange = enter(server())
        exchange.receive(DialRequest((OWN,), 7))
        with pytest.raises(RemoteProtocolError):
            exchange.receive(DialRequest((OWN,), 7))

    @pytest.mark.parametrize(
        "message",
        [
            DialResponse(ResponseStatus.OK, 0, DialStatus.OK),
            DialDataRequest(0, 1),
            DialDataResponse(b"x" * 200),
        ],
    )
    def test_nothing_else_comes_first(self, message: Any) -> None:
        with pytest.raises(RemoteProtocolError):
            enter(server()).receive(message)

    def test_the_answer_needs_a_dial(self) -> None:
        with pytest.raises(LocalProtocolError):
            enter(server()).dialed(DialStatus.OK)


class TestDialData:
    def asked(self, core: AutonatServerCore) -> tuple[Exchange, int]:
        exchange = enter(core)
        step = exchange.receive(DialRequest((None, OTHER), 7))
        assert isinstance(step, Reply)
        assert isinstance(step.message, DialDataRequest)
        assert not step.last
        assert step.message.addr_idx == 1
        return exchange, step.message.num_bytes

    def test_another_address_costs_data(self) -> None:
        exchange, owed = self.asked(server())
        assert MIN_DIAL_DATA <= owed <= MAX_DIAL_DATA
        step, sent = None, 0
        while sent < owed:
            assert step is None
            with pytest.raises(LocalProtocolError):
                exchange.dialed(DialStatus.OK)
            step = exchange.receive(DialDataResponse(bytes(MAX_CHUNK)))
            sent += MAX_CHUNK
        assert isinstance(step, Dial)
        assert (step.addr, step.nonce) == (OTHER, 7)
        assert 0 <= step.delay <= AutonatServerConfig().dial_data_delay

    def test_the_last_message_may_be_small(self) -> None:
        exchange, owed = self.asked(server())
        rest = owed % MAX_CHUNK
        for _ in range(owed // MAX_CHUNK):
            exchange.receive(DialDataResponse(bytes(MAX_CHUNK)))
        assert isinstance(exchange.receive(DialDataResponse(bytes(rest))), Dial)

    def test_many_small_messages_are_refused(self) -> None:
        exchange, _ = self.asked(server())
        with pytest.raises(RemoteProtocolError):
            exchange.receive(DialDataResponse(bytes(MIN_CHUNK - 1)))

    def test_no_more_than_is_owed(self) -> None:
        exchange, owed = self.asked(server())
        for _ in range(-(-owed // MAX_CHUNK)):
            exchange.receive(DialDataResponse(bytes(MAX_CHUNK)))
        with pytest.raises(RemoteProtocolError):
            exchange.receive(DialDataResponse(bytes(MAX_CHUNK)))

    def test_the_amount_cannot_be_foreseen(self) -> None:
        core = server(per_minute_and_peer=100, concurrent_per_peer=100)
        assert len({self.asked(core)[1] for _ in range(20)}) > 10


class TestAdmission:
    def serve(self, core: AutonatServerCore, count: int, **who: Any) -> int:
        """How many of so many requests, one after another, are admitted."""
        admitted = 0
        for _ in range(count):
            if (exchange := core.enter(**{"peer": ALICE, "observed": ASKER, **who})) is not None:
                exchange.leave()
                exchange.leave()
                admitted += 1
        return admitted

    def test_each_peer(self) -> None:
        clock = Clock()
        core = server(clock, per_minute_and_peer=3)
        assert self.serve(core, 5) == 3
        assert self.serve(core, 5, peer=BOB) == 3
        clock.now += 59
        assert self.serve(core, 5) == 0
        clock.now += 2
        assert self.serve(core, 5) == 3

    def test_each_network(self) -> None:
        core = server(per_minute_and_network=3)
        neighbour = ipaddress.ip_address("11.0.9.77")
        assert self.serve(core, 2) == 2
        assert self.serve(core, 5, peer=BOB, observed=neighbour) == 1
        assert self.serve(core, 1, observed=ipaddress.ip_address("11.0.10.1")) == 1

    def test_networks_of_ipv6(self) -> None:
        core = server(per_minute_and_network=3)
        for index, host in enumerate(("2b00::5", "2b00:0:0:7::1", "2b00::9:9")):
            assert self.serve(core, 1, peer=PEERS[index], observed=ipaddress.ip_address(host)) == 1
        assert self.serve(core, 1, observed=ipaddress.ip_address("2b00::1:1")) == 0
        assert self.serve(core, 1, observed=ipaddress.ip_address("2b00:0:1::1")) == 1

    def test_all_together(self) -> None:
        core = server(per_minute=5)
        total = 0
        for index in range(10):
            where = ipaddress.ip_address(f"11.{index}.0.1")
            total += self.serve(core, 1, peer=PEERS[index % 4], observed=where)
        assert total == 5

    def test_under_way(self) -> None:
        core = server(concurrent=3, concurrent_per_peer=2)
        first = [enter(core), enter(core)]
        assert core.enter(ALICE, ASKER) is None
        last = enter(core, BOB)
        assert core.enter(PEERS[2], ASKER) is None
        assert core.under_way == 3
        for exchange in (*first, last):
            exchange.leave()
        assert core.under_way == 0
        enter(core)

    def test_nobody_over_a_relay(self) -> None:
        assert server().enter(ALICE, None) is None

    def test_each_network_that_is_dialed(self) -> None:
        """Many askers cannot have one victim dialed by all of them."""
        core = server(per_minute_and_network=2, concurrent=100)
        steps = []
        for index in range(4):
            where = ipaddress.ip_address(f"11.{index}.0.1")
            steps.append(enter(core, PEERS[index], where).receive(DialRequest((OTHER,), 7)))
        assert steps[2:] == [REJECTED, REJECTED]
        assert REJECTED not in steps[:2]

    def test_all_that_is_dialed_elsewhere(self) -> None:
        core = server(per_minute_elsewhere=2, concurrent=100)
        for index, expected in enumerate((False, False, True)):
            target = Multiaddr(f"/ip4/11.7.{index}.1/tcp/1")
            step = enter(core, PEERS[index]).receive(DialRequest((target,), 7))
            assert (step == REJECTED) is expected
        assert isinstance(enter(core, PEERS[3]).receive(DialRequest((OWN,), 7)), Dial)

    @given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 40)), max_size=60))
    def test_never_more_than_allowed_in_any_minute(self, calls: list[tuple[int, float]]) -> None:
        clock = Clock()
        core = server(clock, per_minute=5, per_minute_and_peer=2)
        admitted: list[tuple[float, int]] = []
        for index, pause in calls:
            clock.now += pause
            if (exchange := core.enter(PEERS[index], ASKER)) is not None:
                exchange.leave()
                admitted.append((clock.now, index))
        for start, _ in admitted:
            within = [who for when, who in admitted if start <= when < start + 60]
            assert len(within) <= 5
            assert all(within.count(index) <= 2 for index in range(4))


class TestSource:
    """The address of a server with several that a dial comes from."""

    ONE, TWO, SIX = "11.0.0.1", "11.0.0.2", "2b00::1"

    @pytest.mark.parametrize(
        ("own", "talked_to", "target", "source"),
        [
            ((), ONE, "11.0.9.9", None),
            ((ONE, TWO), ONE, "11.0.9.9", TWO),
            ((ONE, TWO), TWO, "11.0.9.9", ONE),
            ((ONE,), ONE, "11.0.9.9", ONE),
            ((ONE, SIX), ONE, "2b00::9", SIX),
            ((ONE,), ONE, "2b00::9", None),
        ],
    )
    def test_is_one_that_the_asker_does_not_talk_to(
        self, own: Sequence[str], talked_to: str, target: str, source: str | None
    ) -> None:
        ips = ipaddress.ip_address(talked_to), ipaddress.ip_address(target)
        assert choose_source(own, *ips) == source


class TestConfig:
    @pytest.mark.parametrize(
        "change",
        [
            {"per_minute": 0},
            {"concurrent": -1},
            {"dial_timeout": 0.0},
            {"dial_data_delay": 100.0},
            {"dial_back_ips": ("example.org",)},
        ],
    )
    def test_is_checked(self, change: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(change))):
            AutonatServerConfig(**change)
