"""The relay's books: admission, renewal, expiry, circuits, pacing. No I/O."""

from __future__ import annotations

import ipaddress

import pytest

from lattica.nat.base.checks import FieldError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.messages import Limit, Status
from lattica.nat.traversal.relay.server.access import Lists
from lattica.nat.traversal.relay.server.books import (
    Circuit,
    Grant,
    Refusal,
    RelayBooks,
)
from lattica.nat.traversal.relay.server.limits import (
    CircuitLimits,
    RelayLimits,
    RelayServerConfig,
    StrangerLimits,
)
from lattica.nat.traversal.relay.server.pacer import Pacer


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


RELAY, ALICE, BOB, CAROL = map(peer, range(4))
HERE = ipaddress.ip_address("192.0.2.1")


def books(*allowed: PeerId, **limits) -> RelayBooks:
    given = RelayLimits(**limits)
    return RelayBooks(RELAY, given, Lists(allowed, strangers=given.open_to_strangers))


def open_books(*allowed: PeerId, **limits) -> RelayBooks:
    return books(*allowed, open_to_strangers=True, **limits)


def status(outcome: object) -> Status:
    return outcome.status if isinstance(outcome, Refusal) else Status.OK


def circuit(server: RelayBooks, source=ALICE, target=BOB, ip=HERE, now=0.0) -> Circuit:
    outcome = server.connect(source, target, ip, now)
    assert isinstance(outcome, Circuit), outcome
    return outcome


# --- reservations ---


def test_relay_serves_nobody_unless_told():
    server = books()
    assert status(server.reserve(ALICE, HERE, 0.0)) is Status.PERMISSION_DENIED
    assert status(server.connect(ALICE, BOB, HERE, 0.0)) is Status.PERMISSION_DENIED


def test_reservation_is_made_renewed_and_runs_out():
    server = books(ALICE, reservation_lifetime=100.0)
    first = server.reserve(ALICE, HERE, 0.0)
    assert first == Grant(ALICE, 100.0, server.limits.for_allowed, renewed=False)
    assert server.has_reservation(ALICE, 99.9)
    assert not server.has_reservation(ALICE, 100.0)
    second = server.reserve(ALICE, HERE, 60.0)
    assert second == Grant(ALICE, 160.0, server.limits.for_allowed, renewed=True)
    assert server.reservation_count == 1
    assert server.expire(159.0) == []
    assert server.expire(160.0) == [ALICE]
    assert server.reservation_count == 0


def test_those_that_run_out_are_found_whatever_the_order_of_renewals():
    server = open_books(reservation_lifetime=100.0)
    for now, who in enumerate([ALICE, BOB, CAROL, ALICE]):
        server.reserve(who, HERE, float(now))
    assert server.expire(101.5) == [BOB]
    assert server.expire(102.5) == [CAROL]
    assert server.expire(1000.0) == [ALICE]


def test_reservation_ends_with_the_connection():
    server = books(ALICE)
    server.reserve(ALICE, HERE, 0.0)
    assert server.peer_gone(ALICE)
    assert not server.peer_gone(ALICE)
    assert not server.has_reservation(ALICE, 1.0)


@pytest.mark.parametrize(
    ("limits", "addresses"),
    [
        ({"max_reservations": 2}, ["192.0.2.1", "198.51.100.1", "203.0.113.1"]),
        ({"reservations_per_ip": 2}, ["192.0.2.1"] * 3),
        ({"reservations_per_ip": 2}, ["::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"]),
        ({"reservations_per_ip": 2}, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
        ({"reservations_per_network": 2}, ["192.0.2.1", "192.0.2.99", "192.0.2.255"]),
        (
            {"reservations_per_network": 2},
            ["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:ffff::1"],
        ),
    ],
)
def test_strangers_are_counted_in_total_by_address_and_by_network(limits, addresses):
    server = open_books(peer(100), **limits)
    ips = list(map(ipaddress.ip_address, addresses))
    assert status(server.reserve(ALICE, ips[0], 0.0)) is Status.OK
    assert status(server.reserve(BOB, ips[1], 0.0)) is Status.OK
    assert status(server.reserve(CAROL, ips[2], 0.0)) is Status.RESERVATION_REFUSED
    # Who has one may renew it, and those on the list are not counted.
    assert status(server.reserve(ALICE, ips[0], 1.0)) is Status.OK
    assert status(server.reserve(peer(100), ips[2], 0.0)) is Status.OK
    server.peer_gone(BOB)
    assert status(server.reserve(CAROL, ips[2], 0.0)) is Status.OK


def test_room_is_made_by_those_that_have_run_out():
    server = open_books(max_reservations=1, reservation_lifetime=10.0)
    server.reserve(ALICE, HERE, 0.0)
    assert status(server.reserve(BOB, HERE, 9.0)) is Status.RESERVATION_REFUSED
    assert status(server.reserve(BOB, HERE, 10.0)) is Status.OK


def test_renewal_from_where_there_is_no_room_leaves_what_there_was():
    server = open_books(reservations_per_ip=1, reservation_lifetime=100.0)
    there = ipaddress.ip_address("203.0.113.1")
    server.reserve(ALICE, HERE, 0.0)
    server.reserve(BOB, there, 10.0)
    assert status(server.reserve(ALICE, there, 50.0)) is Status.RESERVATION_REFUSED
    assert server.has_reservation(ALICE, 99.0)
    assert server.expire(100.0) == [ALICE]
    assert status(server.reserve(BOB, HERE, 100.0)) is Status.OK  # moved, and renewed
    assert status(server.reserve(ALICE, there, 100.0)) is Status.OK


def test_peers_without_an_ip_address_share_one_place():
    server = open_books(reservations_per_ip=1)
    assert status(server.reserve(ALICE, None, 0.0)) is Status.OK
    assert status(server.reserve(BOB, None, 0.0)) is Status.RESERVATION_REFUSED


def test_books_forget_who_has_gone():
    server = open_books()
    for number in range(10, 50):
        ip = ipaddress.ip_address(f"10.0.{number}.1")
        server.reserve(peer(number), ip, 0.0)
        made = [circuit(server, ALICE, peer(number), ip) for _ in range(3)]
        for one in made:
            server.close(one)
            server.close(one)
        server.peer_gone(peer(number))
    assert server.circuit_count == server.reservation_count == 0
    for table in (server._hosts, server._networks, server._circuits_of, server._circuits_from):
        assert not table


# --- circuits ---


def test_circuit_needs_a_reservation_of_its_target_alone():
    server = books(ALICE, BOB, reservation_lifetime=100.0)
    assert status(server.connect(ALICE, BOB, HERE, 0.0)) is Status.NO_RESERVATION
    server.reserve(BOB, HERE, 0.0)
    made = circuit(server)
    assert made.limits is server.limits.for_allowed
    assert server.circuit_count == 1
    assert status(server.connect(BOB, ALICE, HERE, 0.0)) is Status.NO_RESERVATION
    assert status(server.connect(BOB, BOB, HERE, 0.0)) is Status.CONNECTION_FAILED
    assert status(server.connect(ALICE, BOB, HERE, 100.0)) is Status.NO_RESERVATION


def test_strangers_neither_reach_allowed_peers_nor_are_reached_by_them():
    server = books(ALICE)
    server.reserve(ALICE, HERE, 0.0)
    for source, target in ((BOB, ALICE), (ALICE, BOB)):
        assert status(server.connect(source, target, HERE, 0.0)) is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("source", "target", "is_allowed"),
    [(ALICE, BOB, True), (ALICE, CAROL, False), (CAROL, ALICE, False), (CAROL, peer(9), False)],
)
def test_both_ends_must_be_on_the_list_for_its_limits(source, target, is_allowed):
    server = open_books(ALICE, BOB)
    server.reserve(target, HERE, 0.0)
    made = circuit(server, source, target)
    limits = server.limits
    assert made.limits is (limits.for_allowed if is_allowed else limits.for_strangers)
    assert (made.shared is None) is is_allowed


def test_circuits_of_a_peer_are_counted_at_either_end():
    server = open_books(for_strangers=StrangerLimits(per_peer=2))
    for who in (ALICE, BOB, CAROL):
        server.reserve(who, HERE, 0.0)
    first = circuit(server, ALICE, BOB)
    circuit(server, CAROL, ALICE)
    for source, target in ((ALICE, CAROL), (BOB, ALICE)):
        outcome = server.connect(source, target, HERE, 0.0)
        assert status(outcome) is Status.RESOURCE_LIMIT_EXCEEDED
    server.close(first)
    circuit(server, BOB, ALICE)


def test_circuits_are_counted_in_total_and_by_network():
    server = open_books(max_circuits=3, max_strangers_circuits=3, circuits_per_network=2)
    server.reserve(BOB, HERE, 0.0)
    circuit(server, peer(10))
    circuit(server, peer(11), ip=ipaddress.ip_address("192.0.2.77"))
    outcome = server.connect(peer(12), BOB, HERE, 0.0)
    assert status(outcome) is Status.RESOURCE_LIMIT_EXCEEDED
    elsewhere = ipaddress.ip_address("203.0.113.1")
    circuit(server, peer(12), ip=elsewhere)
    outcome = server.connect(peer(13), BOB, ipaddress.ip_address("10.1.1.1"), 0.0)
    assert status(outcome) is Status.RESOURCE_LIMIT_EXCEEDED


def test_strangers_leave_room_for_those_on_the_list():
    server = open_books(
        ALICE,
        BOB,
        max_circuits=8,
        circuits_per_network=100,
        max_reservations=1,
        for_strangers=StrangerLimits(per_peer=100),
    )
    assert status(server.reserve(CAROL, HERE, 0.0)) is Status.OK
    made = []
    for number in range(10, 30):
        outcome = server.connect(peer(number), CAROL, HERE, 0.0)
        if isinstance(outcome, Circuit):
            made.append(outcome)
        else:
            assert status(outcome) is Status.RESOURCE_LIMIT_EXCEEDED
    assert len(made) == server.limits.strangers_circuits == 6
    # Neither do they take the reservations.
    assert status(server.reserve(peer(9), HERE, 0.0)) is Status.RESERVATION_REFUSED
    for allowed in (ALICE, BOB):
        assert status(server.reserve(allowed, HERE, 0.0)) is Status.OK
    # Those on the list may have all there is, however many strangers there are.
    friends = [circuit(server, ALICE, BOB) for _ in range(2)]
    assert status(server.connect(ALICE, BOB, HERE, 0.0)) is Status.RESOURCE_LIMIT_EXCEEDED
    # One that ends makes room for one of its kind, or for friends.
    server.close(friends[0])
    assert status(server.connect(peer(40), CAROL, HERE, 0.0)) is Status.RESOURCE_LIMIT_EXCEEDED
    server.close(made[0])
    circuit(server, peer(40), CAROL)
    circuit(server, ALICE, BOB)
    server.close(made[1])
    circuit(server, ALICE, BOB)
    assert status(server.connect(peer(41), CAROL, HERE, 0.0)) is Status.RESOURCE_LIMIT_EXCEEDED


def test_the_share_of_strangers():
    assert RelayLimits().strangers_circuits < RelayLimits().max_circuits
    assert RelayLimits(max_circuits=1).strangers_circuits == 1
    assert RelayLimits(max_strangers_circuits=7).strangers_circuits == 7


def test_circuit_counts_its_bytes_by_direction():
    server = open_books(
        for_strangers=StrangerLimits(data=100, rate=0),
        strangers_rate=0,
    )
    server.reserve(BOB, HERE, 0.0)
    made = circuit(server)
    assert made.account(0, 60, 0.0) == 0.0
    assert (made.allowance(0), made.allowance(1)) == (40, 100)
    unlimited = books(ALICE, BOB)
    unlimited.reserve(BOB, HERE, 0.0)
    made = circuit(unlimited)
    assert made.account(0, 1 << 40, 0.0) == 0.0
    assert made.allowance(0) is None


def test_strangers_share_one_rate():
    server = open_books(for_strangers=StrangerLimits(rate=0), strangers_rate=1000)
    server.reserve(BOB, HERE, 0.0)
    one, other = circuit(server, ALICE), circuit(server, CAROL)
    assert one.account(0, 250, 0.0) == 0.0  # a quarter of a second may go at once
    assert one.account(0, 1000, 0.0) == pytest.approx(1.0)
    assert other.account(1, 1000, 0.0) == pytest.approx(2.0)


def test_ten_thousand_reconnections_of_one_client_are_one_reservation():
    server = open_books(CAROL, max_reservations=2, reservations_per_ip=1)
    places = [ipaddress.ip_address(f"198.51.{n}.1") for n in range(5)]
    for number in range(10_000):
        # It roams, and its former connection is missed before, after, or not at all.
        now = float(number)
        if number % 3 == 0:
            server.peer_gone(ALICE)
        assert status(server.reserve(ALICE, places[number % 5], now)) is Status.OK
        assert status(server.reserve(CAROL, HERE, now)) is Status.OK  # an allowed one does, too
        assert server.reservation_count == 2
    used = {usage.name: usage.used for usage in server.usage()}
    assert used["max_reservations"] == 1
    assert used["reservations_per_ip"] == used["reservations_per_network"] == 1
    assert status(server.reserve(BOB, HERE, 10_000.0)) is Status.OK
    for who in (ALICE, BOB, CAROL):
        assert server.peer_gone(who)
    assert server.reservation_count == 0
    assert all(usage.used == 0 for usage in server.usage())


def test_ten_thousand_peers_of_one_network_leave_room_for_others():
    server = open_books()
    crowd = [ipaddress.ip_address(f"192.0.2.{n}") for n in range(256)]
    for number in range(10_000):
        server.reserve(peer(1000 + number), crowd[number % 256], 0.0)
    assert server.reservation_count == server.limits.reservations_per_network
    for number in range(100):
        ip = ipaddress.ip_address(f"198.51.{number}.1")
        assert status(server.reserve(peer(100_000 + number), ip, 0.0)) is Status.OK


# --- pacing ---


def test_pacer_keeps_the_rate_whatever_the_sizes():
    for size in (10, 100, 10_000, 1_000_000):
        pacer, now, sent = Pacer(10_000), 0.0, 0
        while now < 10.0:
            sent += size
            now += pacer.pay(size, now)
        assert sent <= 10_000 * (now + 0.25) + size
        assert sent >= 10_000 * now


def test_pacer_does_not_save_up():
    pacer = Pacer(1000)
    pacer.pay(250, 0.0)
    assert pacer.pay(250, 1e6) == 0.0
    assert pacer.pay(1000, 1e6) == pytest.approx(1.0)
    assert Pacer(0).pay(1 << 60, 0.0) == 0.0


# --- configuration ---


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CircuitLimits(duration=-1.0), "duration"),
        (lambda: CircuitLimits(duration=0.5), "duration"),
        (lambda: CircuitLimits(duration=2.0**32), "duration"),
        (lambda: CircuitLimits(duration=float("nan")), "duration"),
        (lambda: CircuitLimits(data=-1), "data"),
        (lambda: CircuitLimits(data=1 << 64), "data"),
        (lambda: CircuitLimits(rate=-1), "rate"),
        (lambda: CircuitLimits(per_peer=0), "per_peer"),
        (lambda: RelayLimits(reservation_lifetime=1.0), "reservation_lifetime"),
        (lambda: RelayLimits(reservation_lifetime=float("inf")), "reservation_lifetime"),
        (lambda: RelayLimits(max_reservations=0), "max_reservations"),
        (lambda: RelayLimits(reservations_per_ip=0), "reservations_per_ip"),
        (lambda: RelayLimits(reservations_per_network=0), "reservations_per_network"),
        (lambda: RelayLimits(max_circuits=0), "max_circuits"),
        (lambda: RelayLimits(max_strangers_circuits=0), "max_strangers_circuits"),
        (
            lambda: RelayLimits(max_circuits=5, max_strangers_circuits=6),
            "max_strangers_circuits",
        ),
        (lambda: RelayLimits(circuits_per_network=0), "circuits_per_network"),
        (lambda: RelayLimits(strangers_rate=-1), "strangers_rate"),
    ],
)
def test_limits_are_checked(make, field):
    with pytest.raises(FieldError) as caught:
        make()
    assert caught.value.field == field


def test_peers_are_told_what_they_can_know_of_their_limits():
    assert CircuitLimits().advertised is None
    assert CircuitLimits(rate=5).advertised is None
    assert CircuitLimits(duration=90.7).advertised == Limit(90, None)
    assert StrangerLimits().advertised == Limit(120, 16 << 20)


def test_defaults_carry_weights_for_the_list_and_little_for_strangers():
    config = RelayServerConfig()
    assert not config.enabled
    assert not config.limits.open_to_strangers
    assert config.limits.for_allowed.advertised is None
    assert config.limits.for_allowed.rate == 0
    strangers = config.limits.for_strangers
    assert strangers.duration
    assert strangers.data
    assert strangers.rate
