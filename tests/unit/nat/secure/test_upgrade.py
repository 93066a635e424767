"""A connection's set-up: both roles, every split, simultaneous open, refusals and garbage."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.errors import PeerMismatchError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.secure.multistream import PROTOCOL_ID, encode_message
from lattica.nat.secure.noise import (
    LENGTH_SIZE,
    MAX_HANDSHAKE_MESSAGE,
    MessageReader,
    TransportReader,
    TransportWriter,
    XXHandshake,
    frame,
)
from lattica.nat.secure.noise_identity import make_payload
from lattica.nat.secure.upgrade import NOISE_PROTOCOL, YAMUX_PROTOCOL, Upgrade, Upgraded

ALICE, BOB, EVE = Identity.generate(), Identity.generate(), Identity.generate()
HEADER = encode_message(PROTOCOL_ID)
NOISE = HEADER + encode_message(NOISE_PROTOCOL)
YAMUX = HEADER + encode_message(YAMUX_PROTOCOL)
NA = encode_message("na")


def dialer(expected: PeerId | None = None, *, prologue: bytes = b"") -> Upgrade:
    return Upgrade(ALICE, initiator=True, expected_peer=expected, prologue=prologue)


def listener(expected: PeerId | None = None, *, prologue: bytes = b"") -> Upgrade:
    return Upgrade(BOB, initiator=False, expected_peer=expected, prologue=prologue)


def whole(data: bytes) -> list[bytes]:
    return [data]


def join(
    a: Upgrade, b: Upgrade, split: Callable[[bytes], list[bytes]] = whole
) -> tuple[Upgraded, Upgraded, int]:
    """Carry bytes until both are done; return the results and the number of flights."""
    flights = 0
    while a.result is None or b.result is None:
        flights += 1
        assert flights < 20, "the set-up does not end"
        for sender, receiver in ((a, b), (b, a)):
            data = sender.data_to_send()
            for piece in split(data) if data else []:
                assert receiver.result is None, "bytes after the set-up"
                receiver.receive(piece)
    # What is left to be sent when the result is there.
    left_a, left_b = a.data_to_send(), b.data_to_send()
    assert not left_a
    assert not left_b
    return a.result, b.result, flights


def check_channel(one: Upgraded, other: Upgraded) -> None:
    for writer, reader in ((one.writer, other.reader), (other.writer, one.reader)):
        assert reader.receive(writer.seal(b"hello") + writer.seal(b"again")) == [b"hello", b"again"]


def test_both_roles() -> None:
    a, b, flights = join(dialer(BOB.peer_id), listener())
    assert (a.initiator, b.initiator) == (True, False)
    assert (a.remote.peer_id, b.remote.peer_id) == (BOB.peer_id, ALICE.peer_id)
    assert a.remote.public_key == BOB.public_key
    assert (a.early, b.early) == ((), ())
    check_channel(a, b)
    # Everything that needs no answer goes along: two round trips, not five.
    assert flights == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 90])
def test_any_size_of_pieces(size: int) -> None:
    a, b, _ = join(
        dialer(BOB.peer_id),
        listener(ALICE.peer_id),
        lambda data: [data[i : i + size] for i in range(0, len(data), size)],
    )
    check_channel(a, b)


def flights_of_a_set_up() -> int:
    a, b = dialer(), listener()
    total = 0
    for _ in range(5):
        for sender, receiver in ((a, b), (b, a)):
            data = sender.data_to_send()
            total += len(data)
            if receiver.result is None and data:
                receiver.receive(data)
    return total


def test_every_single_cut() -> None:
    """One cut, at each place of the whole conversation."""
    for place in range(flights_of_a_set_up()):
        position = 0

        def split(data: bytes, place: int = place) -> list[bytes]:
            nonlocal position
            cut = place - position
            position += len(data)
            return [data[:cut], data[cut:]] if 0 < cut < len(data) else [data]

        a, b, _ = join(dialer(), listener(), split)
        assert (a.initiator, b.initiator) == (True, False)


@pytest.mark.parametrize("seed", range(20))
def test_random_pieces(seed: int) -> None:
    rng = random.Random(seed)

    def split(data: bytes) -> list[bytes]:
        cuts = sorted(rng.sample(range(len(data)), min(5, len(data))))
        pieces = [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]

    a, b, _ = join(dialer(), listener(), split)
    check_channel(a, b)


def test_early_bytes_are_kept() -> None:
    """A dialer may begin to speak yamux before it has heard that yamux is welcome."""
    a, b = dialer(), listener()
    b.receive(a.data_to_send())
    a.receive(b.data_to_send())
    assert a.result is None
    # Message 3 and the proposal of yamux have been sealed; what follows is ours.
    last = a.data_to_send()
    assert a._writer is not None
    last += a._writer.seal(b"early") + a._writer.seal(b"bird") + a._writer.seal(b"partial")[:-3]
    b.receive(last)
    assert b.result is not None
    assert b.result.early == (b"early", b"bird")
    # The message that was cut is completed by what comes later; nothing is lost.
    with pytest.raises(RemoteProtocolError):
        b.result.reader.receive(bytes(3))


def test_early_bytes_within_the_message_of_the_negotiation() -> None:
    peer = ManualPeer(listener(), initiator=True)
    peer.shake_hands()
    peer.send_sealed(YAMUX + b"in one", b"and another")
    assert peer.upgrade.result is not None
    assert peer.upgrade.result.early == (b"in one", b"and another")


class ManualPeer:
    """The other side of an :class:`Upgrade`, step by step, as a peer that may do anything."""

    def __init__(self, upgrade: Upgrade, *, initiator: bool, identity: Identity = EVE) -> None:
        self.upgrade = upgrade
        self.identity = identity
        self.initiator = initiator
        self.static = X25519PrivateKey.generate()
        self.handshake = XXHandshake(initiator=initiator, static_key=self.static)
        self.messages = MessageReader(0xFFFF)
        self.received = b""

    def payload(self) -> bytes:
        return make_payload(self.identity, self.static.public_key().public_bytes_raw())

    def send(self, data: bytes) -> None:
        self.upgrade.receive(data)

    def receive_noise(self) -> bytes:
        """Take the next Noise message from the upgrade, skipping its multistream text."""
        data = self.upgrade.data_to_send()
        data = data.removeprefix(NOISE)
        self.messages.feed(data)
        message = self.messages.next_message()
        assert message is not None
        return message

    def shake_hands(self, payload: bytes | None = None) -> None:
        payload = self.payload() if payload is None else payload
        if self.initiator:
            self.send(NOISE + frame(self.handshake.write()))
            self.handshake.read(self.receive_noise())
            self.send(frame(self.handshake.write(payload)))
        else:
            self.handshake.read(self.receive_noise())
            self.send(NOISE + frame(self.handshake.write(payload)))
            self.handshake.read(self.receive_noise())
        sending, receiving = self.handshake.split()
        self.writer = TransportWriter(sending)
        self.reader = TransportReader(receiving, self.messages.rest)

    def send_sealed(self, *messages: bytes) -> None:
        self.send(b"".join(map(self.writer.seal, messages)))


def test_manual_peer_is_a_good_peer() -> None:
    """The tests below spoil one thing each: this shows that they start from what works."""
    peer = ManualPeer(listener(EVE.peer_id), initiator=True)
    peer.shake_hands()
    peer.send_sealed(YAMUX)
    assert peer.upgrade.result is not None
    assert peer.reader.receive(peer.upgrade.data_to_send()) == [YAMUX]
    peer = ManualPeer(dialer(EVE.peer_id), initiator=False)
    peer.shake_hands()
    assert peer.reader.receive(peer.upgrade.data_to_send()) == [YAMUX]
    peer.send_sealed(YAMUX)
    assert peer.upgrade.result is not None


# --- simultaneous open ---


@pytest.mark.parametrize("seed", range(10))
def test_two_initiators_become_one_of_each(seed: int) -> None:
    rng = random.Random(seed)
    one = Upgrade(ALICE, initiator=True, expected_peer=BOB.peer_id)
    other = Upgrade(BOB, initiator=True, expected_peer=ALICE.peer_id)
    first = one._first_message > other._first_message

    def split(data: bytes) -> list[bytes]:
        size = rng.choice([1, 10, 1000])
        return [data[i : i + size] for i in range(0, len(data), size)]

    # Both first flights cross on the way.
    crossing = [one.data_to_send(), other.data_to_send()]
    for piece in split(crossing[1]):
        one.receive(piece)
    for piece in split(crossing[0]):
        other.receive(piece)
    a, b, _ = join(one, other, split)
    assert (a.initiator, b.initiator) == (first, not first)
    assert (a.remote.peer_id, b.remote.peer_id) == (BOB.peer_id, ALICE.peer_id)
    check_channel(a, b)


def test_our_own_message_reflected_is_refused() -> None:
    upgrade = dialer()
    data = upgrade.data_to_send()
    with pytest.raises(RemoteProtocolError, match="came back"):
        upgrade.receive(data)


def test_a_second_first_message_is_refused() -> None:
    """A peer that changes our role twice."""
    upgrade = dialer()
    upgrade._first_message = bytes(32)
    upgrade.receive(NOISE + frame(b"\x05" * 32))
    with pytest.raises(RemoteProtocolError):
        upgrade.receive(frame(b"\x06" * 32))


def test_first_messages_without_end_are_refused() -> None:
    """The peer that keeps the responder's role out sends one such message, not many."""
    upgrade = dialer()
    upgrade._first_message = b"\xff" * 32
    upgrade.receive(NOISE + frame(b"\x05" * 32))
    with pytest.raises(RemoteProtocolError):
        upgrade.receive(frame(b"\x06" * 32))


# --- identities ---


def test_wrong_peer() -> None:
    a, b = dialer(EVE.peer_id), listener()
    b.receive(a.data_to_send())
    with pytest.raises(PeerMismatchError) as info:
        a.receive(b.data_to_send())
    assert (info.value.expected, info.value.actual) == (EVE.peer_id, BOB.peer_id)
    # Our identity has not been told to whoever that is.
    assert a.data_to_send() == b""


def test_listener_may_expect_a_peer() -> None:
    a, b = dialer(), listener(EVE.peer_id)
    b.receive(a.data_to_send())
    a.receive(b.data_to_send())
    with pytest.raises(PeerMismatchError):
        b.receive(a.data_to_send())


def test_dialing_oneself() -> None:
    a, b = Upgrade(ALICE, initiator=True), Upgrade(ALICE, initiator=False)
    b.receive(a.data_to_send())
    with pytest.raises(RemoteProtocolError, match="itself"):
        a.receive(b.data_to_send())


@pytest.mark.parametrize("initiator", [True, False])
def test_somebody_elses_identity(initiator: bool) -> None:
    peer = ManualPeer(listener() if initiator else dialer(), initiator=initiator)
    with pytest.raises(RemoteProtocolError, match="signature"):
        peer.shake_hands(make_payload(EVE, bytes(32)))


def test_prologues_must_match() -> None:
    a, b = dialer(prologue=b"one"), listener(prologue=b"two")
    b.receive(a.data_to_send())
    with pytest.raises(RemoteProtocolError):
        a.receive(b.data_to_send())
    one, other, _ = join(dialer(prologue=b"same"), listener(prologue=b"same"))
    check_channel(one, other)


# --- refusals ---


def test_peer_without_noise() -> None:
    upgrade = dialer()
    with pytest.raises(RemoteProtocolError, match="/noise"):
        upgrade.receive(HEADER + NA)


def test_peer_without_yamux() -> None:
    peer = ManualPeer(dialer(), initiator=False)
    peer.shake_hands()
    with pytest.raises(RemoteProtocolError, match="/yamux"):
        peer.send_sealed(HEADER + NA)


def test_other_proposals_get_a_refusal_and_may_be_followed_by_ours() -> None:
    upgrade = listener()
    upgrade.receive(HEADER + encode_message("/tls/1.0.0"))
    assert upgrade.data_to_send() == HEADER + NA
    peer = ManualPeer(upgrade, initiator=True)
    upgrade.receive(encode_message(NOISE_PROTOCOL) + frame(peer.handshake.write()))
    answer = upgrade.data_to_send()
    assert answer.startswith(encode_message(NOISE_PROTOCOL))
    peer.messages.feed(answer.removeprefix(encode_message(NOISE_PROTOCOL)))
    message = peer.messages.next_message()
    assert message is not None
    peer.handshake.read(message)
    peer.send(frame(peer.handshake.write(peer.payload())))
    sending, receiving = peer.handshake.split()
    peer.writer, peer.reader = TransportWriter(sending), TransportReader(receiving)
    peer.send_sealed(HEADER, encode_message("/mplex/6.7.0"))
    assert b"".join(peer.reader.receive(upgrade.data_to_send())) == HEADER + NA
    peer.send_sealed(encode_message(YAMUX_PROTOCOL))
    assert upgrade.result is not None
    assert upgrade.result.early == ()


# --- garbage ---


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\nAccept: text/html, application/json, */*\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
        b"\x00" * 10,
        b"\xff" * 100,
        HEADER + b"\xff" * 20,
        NOISE + b"\xff\xff",
        NOISE + frame(bytes(10)),
        NOISE + (MAX_HANDSHAKE_MESSAGE + 1).to_bytes(LENGTH_SIZE, "big"),
    ],
)
@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("size", [1, 1000])
def test_garbage_at_the_start(garbage: bytes, initiator: bool, size: int) -> None:
    upgrade = dialer() if initiator else listener()
    with pytest.raises(RemoteProtocolError):  # noqa: PT012
        for start in range(0, len(garbage), size):
            upgrade.receive(garbage[start : start + size])
    assert upgrade.result is None


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize(
    "garbage", [b"", b"\xff" * 200, b"\x0a\x7f", b"\x0a\x24\x08\x01\x12\x20" + bytes(32)]
)
def test_garbage_for_an_identity(initiator: bool, garbage: bytes) -> None:
    peer = ManualPeer(dialer() if not initiator else listener(), initiator=initiator)
    with pytest.raises(RemoteProtocolError):
        peer.shake_hands(garbage)


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("garbage", [b"\x00", b"\xff" * 30, b"HTTP/1.1 400 Bad Request\r\n" * 50])
def test_garbage_where_yamux_is_negotiated(initiator: bool, garbage: bytes) -> None:
    peer = ManualPeer(listener() if initiator else dialer(), initiator=initiator)
    peer.shake_hands()
    with pytest.raises(RemoteProtocolError):
        peer.send_sealed(garbage)


@pytest.mark.parametrize("initiator", [True, False])
def test_unsealed_bytes_where_yamux_is_negotiated(initiator: bool) -> None:
    peer = ManualPeer(listener() if initiator else dialer(), initiator=initiator)
    peer.shake_hands()
    with pytest.raises(RemoteProtocolError):
        peer.send(YAMUX + bytes(6000))


def test_every_flipped_bit_is_refused_or_harmless() -> None:
    """In each flight in turn; nobody ever ends up with a channel to the wrong peer."""
    flights: list[int] = []
    for flight in range(4):
        place = 0
        while True:
            a, b = dialer(BOB.peer_id), listener(ALICE.peer_id)
            ends = ((a, b), (b, a))
            number = 0
            size = 0
            try:
                while (a.result is None or b.result is None) and number < 12:
                    sender, receiver = ends[number % 2]
                    data = bytearray(sender.data_to_send())
                    if number == flight and data:
                        size = len(data)
                        data[place] ^= 1 << place % 8
                    if data and receiver.result is None:
                        receiver.receive(bytes(data))
                    number += 1
            except RemoteProtocolError:
                pass
            else:
                # Something is missing still (a length that grew), or it did not matter.
                if a.result is not None and b.result is not None:
                    check_channel(a.result, b.result)
            place += 3
            if place >= size:
                break
        flights.append(size)
    assert all(flights), flights


def test_stage_names_what_is_going_on() -> None:
    upgrade = listener()
    assert upgrade.stage == "the negotiation of security"
    upgrade.receive(NOISE)
    assert upgrade.stage == "the Noise handshake"
    peer = ManualPeer(listener(), initiator=True)
    peer.shake_hands()
    assert peer.upgrade.stage == "the negotiation of the multiplexer"


def test_the_header_is_what_tells_a_libp2p_peer() -> None:
    upgrade = listener()
    spoke = []
    for data in (HEADER[:-1], HEADER[-1:], NOISE.removeprefix(HEADER)):
        upgrade.receive(data)
        spoke.append(upgrade.speaks_libp2p)
    assert spoke == [False, True, True]
    assert upgrade.stage == "the Noise handshake"
