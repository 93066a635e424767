"""Which relays are used, and which of their addresses are told to others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.relay.client.addresses import MAX_PER_RELAY, own_addrs_of, relayed_addrs
from lattica.nat.traversal.relay.client.selection import Candidate, RelaySelection

A, B, C, D = (Identity.generate().peer_id for _ in range(4))
SWITCH = 60.0


def up(relay: PeerId, rtt: float | None = 0.05, *, held: bool = False) -> Candidate:
    return Candidate(relay, rtt, connected=True, held=held, avoided=False)


def down(relay: PeerId) -> Candidate:
    return Candidate(relay, None, connected=False, held=False, avoided=False)


def avoided(relay: PeerId) -> Candidate:
    return Candidate(relay, 0.01, connected=True, held=False, avoided=True)


def test_nearest_first():
    selection = RelaySelection(2, SWITCH)
    assert selection.choose([up(A, 0.3), up(B, 0.1), up(C, 0.2)], 0.0) == (B, C)


def test_connected_before_unknown_and_unconnected():
    selection = RelaySelection(2, SWITCH)
    assert set(selection.choose([down(A), up(B, None), up(C, 0.9)], 0.0)) == {B, C}
    assert RelaySelection(2, SWITCH).choose([down(A), down(B), down(C)], 0.0) == (A, B)


def test_fewer_than_wanted():
    assert RelaySelection(2, SWITCH).choose([up(A)], 0.0) == (A,)
    assert RelaySelection(2, SWITCH).choose([], 0.0) == ()
    assert RelaySelection(0, SWITCH).choose([up(A)], 0.0) == ()


def test_what_works_is_kept_though_another_is_a_little_nearer():
    selection = RelaySelection(1, SWITCH)
    assert selection.choose([up(A, 0.1)], 0.0) == (A,)
    for now in range(0, 1000, 10):
        assert selection.choose([up(A, 0.1, held=True), up(B, 0.09)], float(now)) == (A,)
    assert selection.next_wake() == math.inf


def test_a_clearly_nearer_one_takes_its_place_after_a_while_and_without_a_gap():
    selection = RelaySelection(1, SWITCH)
    selection.choose([up(A, 0.2)], 0.0)
    far, near = up(A, 0.2, held=True), up(B, 0.05)
    assert selection.choose([far, near], 10.0) == (A,)
    assert selection.next_wake() == 10.0 + SWITCH
    assert selection.choose([far, near], 10.0 + SWITCH) == (B, A)  # both, for now
    assert selection.choose([far, near], 11.0 + SWITCH) == (B, A)
    assert selection.choose([far, replace(near, held=True)], 12.0 + SWITCH) == (B,)
    assert selection.next_wake() == math.inf


def test_being_nearer_now_and_then_is_not_enough():
    selection = RelaySelection(1, SWITCH)
    selection.choose([up(A, 0.2)], 0.0)
    for now in range(0, 600, 50):
        rtt = 0.05 if now % 100 else 0.2
        assert selection.choose([up(A, 0.2, held=True), up(B, rtt)], float(now)) == (A,)


def test_the_one_that_comes_refuses():
    selection = RelaySelection(1, SWITCH)
    far = up(A, 0.2, held=True)
    selection.choose([far], 0.0)
    selection.choose([far, up(B, 0.05)], 0.0)
    assert selection.choose([far, up(B, 0.05)], SWITCH) == (B, A)
    assert selection.choose([far, avoided(B)], SWITCH + 1) == (A,)
    assert selection.choose([far, up(B, 0.05)], SWITCH + 2) == (A,)  # it has to prove it anew


def test_dead_and_refusing_ones_are_replaced_at_once():
    selection = RelaySelection(2, SWITCH)
    held = [up(A, 0.1, held=True), up(B, 0.2, held=True)]
    assert selection.choose([*held, up(C, 0.3), up(D, 0.4)], 0.0) == (A, B)
    assert selection.choose([down(A), held[1], up(C, 0.3), up(D, 0.4)], 1.0) == (B, C)
    assert selection.choose([down(A), held[1], avoided(C), up(D, 0.4)], 2.0) == (B, D)
    # What has come back has no right to its old place.
    assert selection.choose([up(A, 0.35), held[1], avoided(C), up(D, 0.4)], 3.0) == (B, D)


def test_one_that_fails_to_renew_is_kept_as_long_as_it_holds():
    selection = RelaySelection(1, SWITCH)
    selection.choose([up(A, 0.1)], 0.0)
    assert selection.choose([replace(up(A, held=True), avoided=True), up(B)], 1.0) == (A,)
    assert selection.choose([avoided(A), up(B)], 2.0) == (B,)


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        relay=st.sampled_from([A, B, C, D]),
        rtt=st.none() | st.floats(0.0, 1.0),
        connected=st.booleans(),
        held=st.booleans(),
        avoided=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda c: c.relay,
)


@given(st.lists(st.tuples(CANDIDATES, st.floats(0.0, 100.0)), max_size=30), st.integers(0, 3))
def test_any_history(history, wanted):
    selection, now = RelaySelection(wanted, SWITCH), 0.0
    for candidates, wait in history:
        now += wait
        chosen = selection.choose(candidates, now)
        usable = {c.relay for c in candidates if c.held or not c.avoided}
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= usable
        assert min(wanted, len(usable)) <= len(chosen) <= (wanted and wanted + 1)
        assert selection.next_wake() > now


# --- addresses of a relay ---

PUBLIC = Multiaddr("/ip4/8.8.8.8/tcp/4001")
PRIVATE = Multiaddr("/ip4/10.1.2.3/tcp/4001")
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/4001")
NAME = Multiaddr("/dns4/relay.example/tcp/443/wss")


def test_public_first_and_loopback_only_if_there_is_nothing_else():
    assert own_addrs_of(A, [], [LOOPBACK, PRIVATE, PUBLIC, NAME]) == [PUBLIC, NAME, PRIVATE]
    assert own_addrs_of(A, [PUBLIC], [PRIVATE]) == [PUBLIC, PRIVATE]
    assert own_addrs_of(A, [], [LOOPBACK]) == [LOOPBACK]


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.168.1.1/tcp/22",
        "/ip4/127.0.0.1/tcp/22",
        "/ip4/169.254.1.1/tcp/80",
        "/ip4/224.0.1.1/udp/4001/quic-v1/noise",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/fe80::1/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip4/8.8.4.4/udp/53",
        f"/ip4/8.8.4.4/tcp/4001/p2p/{B}",
        f"/ip4/8.8.4.4/tcp/4001/p2p/{B}/p2p-circuit",
    ],
)
def test_a_lying_relay_is_not_believed(text):
    assert own_addrs_of(A, [Multiaddr(text)], [PUBLIC]) == [PUBLIC]


def test_a_relay_tells_of_its_other_ports():
    told = [Multiaddr("/ip4/10.1.2.3/udp/4001/quic-v1/noise")]
    assert own_addrs_of(A, [with_peer(told[0], A)], [PRIVATE]) == [PRIVATE, *told]


def test_a_relay_tells_of_very_many():
    told = [Multiaddr(f"/ip4/8.8.8.{n}/tcp/1") for n in range(200)]
    found = own_addrs_of(A, told, [PUBLIC])
    assert len(found) == MAX_PER_RELAY
    assert found[0] == PUBLIC


def test_relayed_addresses():
    assert relayed_addrs(A, (with_peer(PUBLIC, A),), (with_peer(PUBLIC, A),)) == (
        Multiaddr(f"{PUBLIC}/p2p/{A}/p2p-circuit"),
    )
