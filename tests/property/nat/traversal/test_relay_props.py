"""Circuit messages, vouchers, the relay's books and its pacing, whatever the values."""

from __future__ import annotations

import contextlib
import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.relay.messages import (
    MAX_MESSAGE,
    MAX_RELAY_ADDRS,
    Connect,
    HopStatus,
    Limit,
    Reservation,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.server.access import Lists
from lattica.nat.traversal.relay.server.books import Circuit, Grant, RelayBooks
from lattica.nat.traversal.relay.server.limits import CircuitLimits, RelayLimits, StrangerLimits
from lattica.nat.traversal.relay.server.pacer import Pacer
from lattica.nat.traversal.relay.voucher import Voucher, open_voucher, seal

RELAY = Identity.generate()

peers = st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest))
addrs = st.builds(
    lambda ip, port: Multiaddr(f"/ip4/{ip}/tcp/{port}/p2p/{RELAY.peer_id}"),
    st.ip_addresses(v=4),
    st.integers(1, 65535),
)
limits = st.builds(
    Limit,
    st.none() | st.integers(1, 2**32 - 1),
    st.none() | st.integers(1, 2**64 - 1),
).filter(lambda limit: limit != Limit())
reservations = st.builds(
    Reservation,
    st.integers(0, 2**64 - 1),
    st.lists(addrs, max_size=MAX_RELAY_ADDRS).map(tuple),
    st.binary(max_size=400),
)
statuses = st.sampled_from(Status)
hop_messages = st.one_of(
    st.just(Reserve()),
    st.builds(Connect, peers),
    st.builds(HopStatus, statuses, st.none() | reservations, st.none() | limits),
)
stop_messages = st.one_of(
    st.builds(StopConnect, peers, st.none() | limits), st.builds(StopStatus, statuses)
)


@given(hop_messages)
def test_hop_round_trip(message):
    assert decode_hop(encode(message)) == message


@given(stop_messages)
def test_stop_round_trip(message):
    assert decode_stop(encode(message)) == message


@given(st.binary(max_size=60))
def test_whatever_is_read_can_be_written_and_read_again(data):
    for decode in (decode_hop, decode_stop):
        try:
            message = decode(data)
        except RemoteProtocolError:
            continue
        written = encode(message)
        assert len(written) <= MAX_MESSAGE
        assert decode(written) == message


@settings(max_examples=30)
@given(peers, st.integers(0, 2**64 - 1), st.integers(0), st.integers(1, 255))
def test_voucher_round_trip_and_any_change_is_noticed(peer, expiration, place, change):
    data = seal(RELAY, peer, expiration)
    expected = Voucher(RELAY.peer_id, peer, expiration)
    assert open_voucher(data) == expected
    at = place % len(data)
    changed = data[:at] + bytes((data[at] ^ change,)) + data[at + 1 :]
    with contextlib.suppress(RemoteProtocolError):
        # Only what protobuf does not look at may change: the signature covers the rest.
        assert open_voucher(changed) == expected


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 10)), min_size=1, max_size=50),
)
def test_pacer_never_lets_more_through_than_its_rate(rate, sends):
    pacer, now, sent = Pacer(rate), 0.0, 0
    for size, pause in sends:
        sent += size
        now += pacer.pay(size, now) * (1 + 1e-9)
        assert sent <= rate * (now + 0.25) * (1 + 1e-6) + 1e-3
        now += pause


class Books(RuleBasedStateMachine):
    """A busy relay: what it counts is what there is."""

    people = tuple(PeerId(b"\x12\x20" + bytes((n,)) * 32) for n in range(8))
    places = tuple(
        map(ipaddress.ip_address, ["192.0.2.1", "192.0.2.2", "203.0.113.9", "2001:db8::1"])
    )
    who = st.sampled_from(people)
    where = st.sampled_from(places) | st.none()

    def __init__(self) -> None:
        super().__init__()
        self.limits = RelayLimits(
            open_to_strangers=True,
            reservation_lifetime=100.0,
            max_reservations=4,
            reservations_per_ip=2,
            reservations_per_network=3,
            max_circuits=6,
            max_strangers_circuits=4,
            circuits_per_network=3,
            for_allowed=CircuitLimits(per_peer=4),
            for_strangers=StrangerLimits(per_peer=2),
        )
        self.allowed = set(self.people[:2])
        self.server = RelayBooks(RELAY.peer_id, self.limits, Lists(self.allowed, strangers=True))
        self.now = 0.0
        self.expires: dict[PeerId, float] = {}
        self.open: list[Circuit] = []

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(peer=who, ip=where)
    def reserve(self, peer, ip):
        outcome = self.server.reserve(peer, ip, self.now)
        if isinstance(outcome, Grant):
            assert outcome.renewed is (self.expires.get(peer, 0.0) > self.now)
            self.expires[peer] = outcome.expires
        else:
            assert peer not in self.allowed

    @rule(peer=who)
    def leave(self, peer):
        self.server.peer_gone(peer)
        self.expires.pop(peer, None)

    @rule()
    def clear_away(self):
        gone = self.server.expire(self.now)
        assert all(self.expires[peer] <= self.now for peer in gone)

    @rule(source=who, goal=who, ip=where)
    def connect(self, source, goal, ip):
        outcome = self.server.connect(source, goal, ip, self.now)
        if isinstance(outcome, Circuit):
            assert self.expires[goal] > self.now
            assert source != goal
            # Circuits of strangers yield to each other, at a target and in total.
            gone = [c for c in self.open if c not in self.server._circuits]
            assert all(not {c.source, c.target} <= self.allowed for c in gone)
            assert len(gone) <= 2
            self.open = [c for c in self.open if c not in gone]
            self.open.append(outcome)

    @rule(which=st.integers(0, 10))
    def close(self, which):
        if self.open:
            self.server.close(self.open.pop(which % len(self.open)))

    @invariant()
    def reservations_are_those_that_were_granted(self):
        for peer in self.people:
            expected = self.expires.get(peer, 0.0) > self.now
            assert self.server.has_reservation(peer, self.now) is expected

    @invariant()
    def limits_hold(self):
        strangers = [p for p in self.expires if p not in self.allowed]
        current = [p for p in strangers if self.expires[p] > self.now]
        assert len(current) <= self.limits.max_reservations
        assert self.server.circuit_count == len(self.open) <= self.limits.max_circuits
        assert sum(not {c.source, c.target} <= self.allowed for c in self.open) <= 4
        for peer in self.people:
            count = sum(peer in (c.source, c.target) for c in self.open)
            assert count <= (4 if peer in self.allowed else 2)


TestBooks = Books.TestCase
