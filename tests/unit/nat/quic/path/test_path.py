"""Following a peer that moves: who is believed, who is not, and what is sent where."""

from __future__ import annotations

import pytest

from lattica.nat.quic.path.peer_path import (
    CHALLENGE,
    RESPONSE,
    SIZE,
    PeerPath,
    connection_id,
    is_path_message,
)
from tests.support.clock import Clock

OLD, NEW, VICTIM = ("192.0.2.1", 1000), ("192.0.2.2", 2000), ("203.0.113.9", 53)
ALICE_CID, BOB_CID = b"alicecid", b"bobs-cid"


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def pair(clock: Clock) -> tuple[PeerPath, PeerPath]:
    """How Alice follows Bob, and how Bob follows Alice."""
    a, b = b"a" * 32, b"b" * 32
    return (
        PeerPath(OLD, sending_key=a, receiving_key=b, clock=clock),
        PeerPath(OLD, sending_key=b, receiving_key=a, clock=clock),
    )


def the_challenge(path: PeerPath) -> tuple[bytes, object]:
    challenge = path.challenge(BOB_CID)
    assert challenge is not None
    return challenge


def test_a_move(pair):
    alice, bob = pair
    alice.observe(OLD)
    assert alice.next_timer() is None
    alice.observe(NEW)
    assert alice.address == OLD  # until the new one has answered
    challenge, where = the_challenge(alice)
    assert where == NEW
    assert is_path_message(challenge)
    assert connection_id(challenge) == BOB_CID
    response = bob.answer(challenge, ALICE_CID)
    assert connection_id(response) == ALICE_CID
    assert len(response) == len(challenge) == SIZE  # nothing to amplify
    assert alice.receive_response(response, NEW)
    assert alice.address == NEW
    assert alice.next_timer() is None
    # And back, and on: any number of times.
    for address in (OLD, VICTIM, NEW) * 5:
        alice.observe(address)
        challenge, _ = the_challenge(alice)
        assert alice.receive_response(bob.answer(challenge, ALICE_CID), address)
        assert alice.address == address


def test_only_the_peer_at_the_new_address_is_believed(pair):
    alice, bob = pair
    alice.observe(NEW)
    early = bob.answer(bytes((CHALLENGE,)) + BOB_CID + bytes(16), ALICE_CID)
    assert not alice.receive_response(early, NEW)  # nothing was asked yet
    challenge, _ = the_challenge(alice)
    response = bob.answer(challenge, ALICE_CID)
    assert not alice.receive_response(response, VICTIM)
    assert not alice.receive_response(response[:-1] + bytes((response[-1] ^ 1,)), NEW)
    # Her own challenge or answer sent back to her says nothing.
    assert not alice.receive_response(challenge, NEW)
    assert not alice.receive_response(alice.answer(challenge, ALICE_CID), NEW)
    assert alice.address == OLD
    assert alice.receive_response(response, NEW)
    # A recorded answer does not serve for another move.
    alice.observe(VICTIM)
    the_challenge(alice)
    assert not alice.receive_response(response, VICTIM)
    assert alice.address == NEW


def test_a_lost_challenge_is_repeated_and_then_given_up(pair, clock):
    alice, bob = pair
    alice.observe(NEW)
    sent = []
    while (due := alice.next_timer()) is not None:
        clock.now = due
        if challenge := alice.challenge(BOB_CID):
            sent.append(challenge[0])
            assert alice.challenge(BOB_CID) is None  # not before it is due again
            alice.observe(NEW)  # more packets from there do not hurry it
    assert len(sent) == 6
    assert clock.now - 100 == pytest.approx(0.2 * 63)
    assert alice.address == OLD
    assert not alice.receive_response(bob.answer(sent[-1], ALICE_CID), NEW)
    alice.observe(NEW)  # it speaks again: it is asked again
    challenge, _ = the_challenge(alice)
    assert alice.receive_response(bob.answer(challenge, ALICE_CID), NEW)


def test_the_latest_address_is_the_one_in_doubt(pair):
    alice, bob = pair
    alice.observe(VICTIM)
    to_victim, _ = the_challenge(alice)
    alice.observe(NEW)
    challenge, where = the_challenge(alice)
    assert where == NEW
    assert not alice.receive_response(bob.answer(to_victim, ALICE_CID), VICTIM)
    assert alice.receive_response(bob.answer(challenge, ALICE_CID), NEW)


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\x10", bytes((CHALLENGE,)) + bytes(SIZE), bytes((RESPONSE,)) + bytes(SIZE - 2),
     b"\x40" + bytes(SIZE - 1)],
)  # fmt: skip
def test_what_is_no_path_message(datagram):
    assert not is_path_message(datagram)


def test_an_address_costs_no_more_than_it_has_sent(pair, clock):
    alice, _ = pair

    def challenges() -> int:
        sent = 0
        while (due := alice.next_timer()) is not None:
            clock.now = due
            sent += alice.challenge(BOB_CID) is not None
        return sent

    alice.observe(VICTIM)
    assert challenges() == 3
    alice.observe(VICTIM)
    assert challenges() == 3
    for _ in range(5):
        alice.observe(NEW)
    assert challenges() == 6
