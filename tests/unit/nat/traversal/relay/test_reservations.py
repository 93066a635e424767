"""When a relay is asked for a reservation, and what is believed of its answer."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.checks import FieldError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.limits.backoff import Backoff
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.client.reservations import (
    Reserving,
    clock_offset,
    lifetime_of,
)
from lattica.nat.traversal.relay.messages import Reservation
from lattica.nat.traversal.relay.voucher import seal

CONFIG = RelayClientConfig()
RELAY, OURS, OTHER = (Identity.generate() for _ in range(3))
WALL = 1_800_000_000.0


def reserving(seed: int = 1) -> Reserving:
    return Reserving(CONFIG, random.Random(seed), 0.0)


def held(lifetime: float = 3600.0) -> Reserving:
    machine = reserving()
    machine.ask(0.0)
    assert machine.granted(0.0, lifetime)
    return machine


# --- asking ---


def test_asks_at_once_and_one_at_a_time():
    machine = reserving()
    assert machine.is_due(0.0)
    machine.ask(0.0)
    assert not machine.is_due(1e9)
    assert machine.next_wake(0.0) == math.inf
    with pytest.raises(LocalProtocolError):
        machine.ask(1.0)


def test_renews_before_the_end():
    machine = held(3600.0)
    assert machine.is_held(0.0)
    assert 0.65 * 3600 <= machine.next_wake(0.0) == machine.due <= 0.75 * 3600
    assert not machine.is_due(machine.due - 1)
    machine.ask(machine.due)
    assert machine.is_held(2700.0)
    assert not machine.granted(2700.0, 3600.0)  # it is no new one
    assert machine.is_held(2700.0 + 3599)
    assert not machine.is_held(2700.0 + 3600)


def test_refusal_waits_longer_each_time_and_is_news_once():
    machine, now, pauses = reserving(), 0.0, []
    for attempt in range(14):
        machine.ask(now)
        assert machine.failed(now, "no") is (attempt == 0)
        assert machine.is_avoided(now)
        assert machine.last_error == "no"
        pauses.append(machine.due - now)
        now = machine.due
    assert 0.5 <= pauses[0] <= 1.0
    assert pauses[-1] <= CONFIG.retry_limit
    assert all(0.5 * 2**i <= pause <= 2**i for i, pause in enumerate(pauses[:8]))
    machine.ask(now)
    assert not machine.failed(now, "another reason")  # a relay could think of a new one each time
    assert machine.last_error == "another reason"
    machine.ask(machine.due)
    machine.granted(now, 3600.0)
    assert machine.last_error == ""


def test_a_failed_renewal_keeps_what_there_is_until_it_ends():
    machine = held(100.0)
    now = machine.due
    machine.ask(now)
    machine.failed(now, "busy")
    assert machine.is_held(99.0)
    assert not machine.is_avoided(now)
    assert now < machine.next_wake(now) <= now + 1.0
    assert not machine.is_held(100.0)


def test_relay_gone_is_asked_at_once_and_then_with_pauses():
    machine = held()
    assert machine.lost(10.0, "gone")
    assert machine.is_due(10.0)
    assert not machine.is_held(10.0)
    assert machine.last_error == "gone"
    machine.ask(10.0)
    machine.granted(10.0, 3600.0)
    assert machine.lost(12.0, "gone")  # young again: it may be overloaded
    assert not machine.is_due(12.0)
    assert machine.due <= 12.0 + 2.0


def test_relay_gone_after_a_long_time_counts_as_a_good_one():
    machine, now = reserving(), 0.0
    for _ in range(6):
        machine.ask(now)
        machine.failed(now, "no")
        now = machine.due
    machine.ask(now)
    machine.granted(now, 3600.0)
    assert machine.lost(now + 60.0, "gone")
    assert machine.is_due(now + 60.0)


def test_loss_while_asking_is_a_failure():
    machine = reserving()
    machine.ask(0.0)
    assert not machine.lost(1.0, "gone")
    assert machine.due > 1.0
    assert not machine.granted(2.0, 3600.0)  # too late
    assert not machine.is_held(2.0)
    assert not machine.failed(2.0, "late")


def test_loss_without_anything_changes_nothing():
    machine = reserving()
    assert not machine.lost(1.0, "gone")
    assert machine.is_due(1.0)
    assert machine.last_error == ""


def test_network_change_renews_at_once():
    machine = held()
    machine.renew(5.0)
    assert machine.is_due(5.0)
    assert machine.is_held(5.0)


ACTIONS = st.sampled_from(["ask", "grant", "fail", "lose", "renew"])


@given(
    st.lists(st.tuples(ACTIONS, st.floats(0.0, 1000.0), st.floats(0.0, 1e6)), max_size=60),
    st.integers(0, 99),
)
def test_whatever_happens_the_relay_is_asked_again_and_not_too_often(steps, seed):
    machine, now, asked = reserving(seed), 0.0, []
    for action, wait, lifetime in steps:
        now += wait
        match action:
            case "ask" if machine.is_due(now):
                machine.ask(now)
                asked.append(now)
            case "grant":
                machine.granted(now, lifetime)
            case "fail":
                machine.failed(now, "no")
            case "lose":
                machine.lost(now, "gone")
            case "renew":
                machine.renew(now)
        assert machine.next_wake(now) > now or machine.is_due(now)
        assert not (machine.is_avoided(now) and machine.is_held(now))
        if machine.next_wake(now) == math.inf:
            machine.failed(now, "no")  # the driver's request ends at some time
        assert machine.next_wake(now) < math.inf
        assert machine.due <= now + max(CONFIG.retry_limit, 1e6)


@given(st.integers(1, 500), st.integers(0, 99))
def test_backoff_stays_in_its_bounds(failures, seed):
    backoff = Backoff(1.0, 60.0, random.Random(seed), 0.0)
    now = 0.0
    for _ in range(failures):
        backoff.failed(now)
        assert 0.5 <= backoff.due - now <= 60.0
        now = backoff.due
    backoff.again(now)
    assert backoff.due <= now
    assert backoff.failures == 0


# --- what the relay says ---


def lifetime(reservation: Reservation, wall: float = WALL) -> float:
    return lifetime_of(
        reservation, relay=RELAY.peer_id, ours=OURS.peer_id, wall=wall, config=CONFIG
    )


def test_lifetime():
    expire = int(WALL) + 600
    voucher = seal(RELAY, OURS.peer_id, expire)
    assert lifetime(Reservation(expire, (), voucher)) == 600.0
    assert lifetime(Reservation(expire)) == 600.0  # a voucher need not be


@pytest.mark.parametrize("seconds", [-7200, -3601, -1, 0, 4])
def test_an_end_that_is_past_says_that_a_clock_is_wrong(seconds):
    assert lifetime(Reservation(int(WALL) + seconds)) == 120.0


@pytest.mark.parametrize("error", [-7200, 0, 7200, 10**8])
def test_what_the_relay_says_it_lasts_counts_whatever_the_clocks_say(error):
    expire = int(WALL) + 600 + error
    reservation = Reservation(expire, (), seal(RELAY, OURS.peer_id, expire), 600)
    assert lifetime(reservation) == 600.0
    assert clock_offset(reservation, WALL) == pytest.approx(error, abs=1.0)
    assert lifetime(Reservation(expire, (), b"", 10**7)) == CONFIG.max_lifetime


@pytest.mark.parametrize("seconds", [0, 4])
def test_reservation_that_lasts_for_next_to_no_time(seconds):
    with pytest.raises(RemoteProtocolError, match="lasts for"):
        lifetime(Reservation(int(WALL) + 3600, (), b"", seconds))


@pytest.mark.parametrize(
    ("left", "offset"),
    [(600, None), (3600, None), (24 * 3600, None), (-3600, -7200.0), (2**40, 2**40 - 3600)],
)
def test_what_an_end_tells_of_the_relays_clock(left, offset):
    wall = int(WALL)
    assert clock_offset(Reservation(wall + left), wall) == offset


def test_a_life_that_is_not_certain_is_renewed_early():
    for lifetime_s, is_certain, latest in (
        (3600.0, True, 2700.0),
        (3600.0, False, 300.0),
        (120.0, False, 90.0),
        (120.0, True, 90.0),
    ):
        machine = Reserving(CONFIG, random.Random(1), 0.0)
        machine.ask(0.0)
        assert machine.granted(0.0, lifetime_s, is_certain=is_certain)
        assert latest * 0.8 <= machine.due <= latest
        assert machine.is_held(lifetime_s - 1)


@pytest.mark.parametrize("expire", [int(WALL) + 10**7, 2**63, 2**64 - 1])
def test_absurdly_long_reservation_is_renewed_in_time(expire):
    assert lifetime(Reservation(expire)) == CONFIG.max_lifetime


@pytest.mark.parametrize(
    ("signer", "peer", "later", "what"),
    [
        (OTHER, OURS, 0, "another relay"),
        (RELAY, OTHER, 0, "another peer"),
        (RELAY, OURS, 3600, "another time"),
        (RELAY, OURS, -3600, "another time"),
    ],
)
def test_voucher_that_is_not_right(signer, peer, later, what):
    expire = int(WALL) + 600
    voucher = seal(signer, peer.peer_id, expire + later)
    with pytest.raises(RemoteProtocolError, match=what):
        lifetime(Reservation(expire, (), voucher))


def test_voucher_with_a_damaged_signature():
    expire = int(WALL) + 600
    voucher = bytearray(seal(RELAY, OURS.peer_id, expire))
    voucher[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        lifetime(Reservation(expire, (), bytes(voucher)))


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2**64 - 1))
def test_any_voucher_and_any_time(voucher, expire):
    try:
        found = lifetime(Reservation(expire, (), voucher))
    except RemoteProtocolError:
        return
    assert CONFIG.min_lifetime <= found <= CONFIG.max_lifetime


# --- settings ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reservations", -1),
        ("reservations", 17),
        ("request_timeout", 0.0),
        ("retry_limit", math.inf),
        ("max_lifetime", 1.0),
        ("max_inbound_pending", 0),
        ("relays", ("x",) * 65),
    ],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(FieldError) as caught:
        RelayClientConfig(**{field: value})
    assert caught.value.field == field
