from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.errors import LocalProtocolError, PeerMismatchError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.quic.session.noise import PROLOGUE, QuicNoise
from lattica.nat.secure.noise import LENGTH_SIZE, MAX_HANDSHAKE_MESSAGE, XXHandshake, frame
from lattica.nat.secure.noise_identity import make_payload

ALICE, BOB, EVE = (Identity.generate() for _ in range(3))
CERTIFICATE = bytes(range(32))
OTHER_CERTIFICATE = bytes(range(1, 33))
KEY = b"\x07" * 32
OTHER_KEY = b"\x08" * 32


def client(
    expected: PeerId | None = BOB.peer_id,
    certificate: bytes = CERTIFICATE,
    key: bytes | None = None,
    identity: Identity = ALICE,
) -> QuicNoise:
    return QuicNoise(
        identity,
        initiator=True,
        expected_peer=expected,
        certificate_hash=certificate,
        private_network_key=key,
    )


def server(
    expected: PeerId | None = None,
    certificate: bytes = CERTIFICATE,
    key: bytes | None = None,
    identity: Identity = BOB,
) -> QuicNoise:
    return QuicNoise(
        identity,
        initiator=False,
        expected_peer=expected,
        certificate_hash=certificate,
        private_network_key=key,
    )


def finish(a: QuicNoise, b: QuicNoise) -> None:
    b.feed(a.data_to_send())
    a.feed(b.data_to_send())
    b.feed(a.data_to_send())
    assert b.data_to_send() == b""


@pytest.mark.parametrize("key", [None, KEY])
def test_both_learn_who_the_other_is(key: bytes | None) -> None:
    a, b = client(key=key), server(ALICE.peer_id, key=key)
    finish(a, b)
    assert a.result is not None
    assert b.result is not None
    assert (a.result.peer_id, b.result.peer_id) == (BOB.peer_id, ALICE.peer_id)
    assert a.result.public_key == BOB.public_key
    assert (a.rest, b.rest) == (b"", b"")


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("size", [1, 2, 3, 40, 1000])
def test_any_size_of_pieces_and_what_follows(key: bytes | None, size: int) -> None:
    def pieces(data: bytes) -> Iterator[bytes]:
        return (data[i : i + size] for i in range(0, len(data), size))

    a, b = client(key=key), server(key=key)
    for piece in pieces(a.data_to_send()):
        b.feed(piece)
    for piece in pieces(b.data_to_send()):
        a.feed(piece)
    assert a.result is not None
    *most, last = pieces(a.data_to_send())
    for piece in most:
        b.feed(piece)
        assert b.rest == b""
    b.feed(memoryview(last + b"control"))
    assert b.result is not None
    assert b.rest == b"control"


def test_the_first_message_is_the_key_and_with_a_network_key_its_proof() -> None:
    assert len(client().data_to_send()) == LENGTH_SIZE + 32
    assert len(client(key=KEY).data_to_send()) == LENGTH_SIZE + 32 + 32


def test_nothing_more_is_taken_when_it_is_over() -> None:
    a, b = client(), server()
    finish(a, b)
    for over in (a, b):
        with pytest.raises(LocalProtocolError):
            over.feed(b"x")
    c = client()
    with pytest.raises(RemoteProtocolError):
        c.feed(frame(b""))
    with pytest.raises(LocalProtocolError):
        c.feed(frame(b""))


def test_the_hash_has_to_be_one() -> None:
    with pytest.raises(LocalProtocolError):
        client(certificate=b"short")


# --- who the peer is ---


def test_wrong_peer() -> None:
    a, b = client(EVE.peer_id), server()
    b.feed(a.data_to_send())
    with pytest.raises(PeerMismatchError) as info:
        a.feed(b.data_to_send())
    assert (info.value.expected, info.value.actual) == (EVE.peer_id, BOB.peer_id)
    # Our identity has not been told to whoever that is.
    assert a.data_to_send() == b""
    assert a.result is None


def test_a_server_may_expect_a_peer() -> None:
    a, b = client(), server(EVE.peer_id)
    b.feed(a.data_to_send())
    a.feed(b.data_to_send())
    with pytest.raises(PeerMismatchError):
        b.feed(a.data_to_send())
    assert b.result is None


def test_dialing_oneself() -> None:
    a, b = client(None), server(identity=ALICE)
    b.feed(a.data_to_send())
    with pytest.raises(RemoteProtocolError, match="itself"):
        a.feed(b.data_to_send())


@pytest.mark.parametrize("initiator", [True, False])
def test_somebody_elses_identity(initiator: bool) -> None:
    """EVE runs the handshake herself, with a payload that Bob or Alice once made."""
    static = X25519PrivateKey.generate()
    stolen = make_payload(ALICE if initiator else BOB, bytes(32))
    eve = XXHandshake(initiator=initiator, static_key=static, prologue=PROLOGUE + CERTIFICATE)
    if initiator:
        b = server()
        b.feed(frame(eve.write()))
        eve.read(b.data_to_send()[LENGTH_SIZE:])
        with pytest.raises(RemoteProtocolError, match="signature"):
            b.feed(frame(eve.write(stolen)))
    else:
        a = client()
        eve.read(a.data_to_send()[LENGTH_SIZE:])
        with pytest.raises(RemoteProtocolError, match="signature"):
            a.feed(frame(eve.write(stolen)))


# --- attacks ---


@pytest.mark.parametrize("key", [None, KEY])
def test_a_man_in_the_middle_cannot_relay(key: bytes | None) -> None:
    """He ends the client's TLS with his certificate, and passes on what is inside."""
    a = client(certificate=OTHER_CERTIFICATE, key=key)
    b = server(certificate=CERTIFICATE, key=key)
    if key is not None:
        with pytest.raises(RemoteProtocolError, match="key"):
            b.feed(a.data_to_send())
        assert b.data_to_send() == b""
        return
    b.feed(a.data_to_send())
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        a.feed(b.data_to_send())
    assert a.data_to_send() == b""


def test_a_man_in_the_middle_cannot_answer_in_anothers_name() -> None:
    """With his own Noise on both sides, he is just himself."""
    a = client(certificate=OTHER_CERTIFICATE)
    middle = server(certificate=OTHER_CERTIFICATE, identity=EVE)
    middle.feed(a.data_to_send())
    with pytest.raises(PeerMismatchError):
        a.feed(middle.data_to_send())


def test_a_replayed_first_message_shows_nothing() -> None:
    """Replayed to the same server, which answers, but to a key that only Alice has."""
    a, b = client(key=KEY), server(key=KEY)
    first = a.data_to_send()
    b.feed(first)
    again = server(key=KEY)
    again.feed(first)
    answer = again.data_to_send()
    assert BOB.public_key_bytes not in answer
    eve = client(None, key=KEY, identity=EVE)  # even with the network's key
    eve.data_to_send()
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        eve.feed(answer)


def test_a_first_message_replayed_to_another_server_of_the_network() -> None:
    first = client(key=KEY).data_to_send()
    other = server(certificate=OTHER_CERTIFICATE, key=KEY, identity=EVE)
    with pytest.raises(RemoteProtocolError, match="key"):
        other.feed(first)
    assert other.data_to_send() == b""


@pytest.mark.parametrize("key", [None, KEY])
def test_a_replayed_conversation(key: bytes | None) -> None:
    """Everything Alice said, said again: the server's new key makes it worthless."""
    a, b = client(key=key), server(key=key)
    first = a.data_to_send()
    b.feed(first)
    a.feed(b.data_to_send())
    third = a.data_to_send()
    b.feed(third)
    assert b.result is not None
    again = server(key=key)
    again.feed(first)
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        again.feed(third)
    assert again.result is None


def test_a_third_message_on_another_connection() -> None:
    a, b = client(), server()
    b.feed(a.data_to_send())
    a.feed(b.data_to_send())
    other_client, other = client(identity=EVE), server()
    other.feed(other_client.data_to_send())
    with pytest.raises(RemoteProtocolError):
        other.feed(a.data_to_send())


@pytest.mark.parametrize("key", [None, KEY])
def test_reflected_messages(key: bytes | None) -> None:
    a = client(None, key=key)
    with pytest.raises(RemoteProtocolError):
        a.feed(a.data_to_send())
    # To a server of ours, and back from there to ourselves.
    b = server(key=key)
    b.feed(client(key=key).data_to_send())
    with pytest.raises(RemoteProtocolError):
        b.feed(b.data_to_send())


def test_two_initiators_or_two_responders() -> None:
    one, other = client(), client(identity=EVE)
    with pytest.raises(RemoteProtocolError):
        one.feed(other.data_to_send())
    assert server().data_to_send() == b""


def test_a_degenerate_key() -> None:
    a, b = client(), server()
    a.data_to_send()
    with pytest.raises(RemoteProtocolError, match="degenerate"):
        a.feed(frame(bytes(200)))
    with pytest.raises(RemoteProtocolError, match="degenerate"):
        b.feed(frame(bytes(32)))


# --- private networks ---


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (KEY, OTHER_KEY, "does not have"),
        (KEY, None, "does not have"),
        (None, KEY, "private network, and this node is not"),
    ],
)
def test_a_server_says_nothing_to_an_outsider(
    ours: bytes | None, theirs: bytes | None, reason: str
) -> None:
    b = server(key=ours)
    with pytest.raises(RemoteProtocolError, match=reason):
        b.feed(client(key=theirs).data_to_send())
    assert b.data_to_send() == b""
    assert b.result is None


@pytest.mark.parametrize("theirs", [None, OTHER_KEY])
def test_a_client_says_nothing_to_an_outsider(theirs: bytes | None) -> None:
    """The outsider answers whatever the proof is, and learns no identity for it."""
    a = client(None, key=KEY)
    message = a.data_to_send()[LENGTH_SIZE:]
    static = X25519PrivateKey.generate()
    eve = XXHandshake(initiator=False, static_key=static, prologue=PROLOGUE + CERTIFICATE)
    eve.read(message)
    payload = make_payload(EVE, static.public_key().public_bytes_raw())
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        a.feed(frame(eve.write(payload)))
    assert a.data_to_send() == b""


def test_a_proof_does_not_fit_another_ephemeral() -> None:
    proof = client(key=KEY).data_to_send()[-32:]
    eve = XXHandshake(initiator=True, static_key=X25519PrivateKey.generate())
    b = server(key=KEY)
    with pytest.raises(RemoteProtocolError, match="key"):
        b.feed(frame(eve.write(proof)))
    assert b.data_to_send() == b""


def test_the_key_is_never_in_an_error() -> None:
    b = server(key=KEY)
    with pytest.raises(RemoteProtocolError) as info:
        b.feed(frame(bytes(32)))
    assert KEY.hex() not in repr(info.value)


# --- garbage ---


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n",
        frame(b""),
        frame(b"x"),
        frame(bytes(31)),
        frame(b"\x09" * 95),
        b"\xff\xff",
        (MAX_HANDSHAKE_MESSAGE + 1).to_bytes(LENGTH_SIZE, "big"),
        frame(b"\x09" * MAX_HANDSHAKE_MESSAGE),
        b"\x13/multistream/1.0.0\n" + bytes(6000),
    ],
)
def test_garbage(initiator: bool, garbage: bytes) -> None:
    noise = client() if initiator else server()
    noise.data_to_send()
    with pytest.raises(RemoteProtocolError):
        noise.feed(garbage)
    assert noise.data_to_send() == b""
    assert noise.result is None


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("payload", [b"", b"\xff" * 200, b"\x0a\x7f", b"\x0a\x24\x08\x01\x12\x20"])
def test_garbage_for_an_identity(initiator: bool, payload: bytes) -> None:
    static = X25519PrivateKey.generate()
    eve = XXHandshake(initiator=initiator, static_key=static, prologue=PROLOGUE + CERTIFICATE)
    noise = server() if initiator else client()
    if initiator:
        noise.feed(frame(eve.write()))
        eve.read(noise.data_to_send()[LENGTH_SIZE:])
    else:
        eve.read(noise.data_to_send()[LENGTH_SIZE:])
    with pytest.raises(RemoteProtocolError):
        noise.feed(frame(eve.write(payload)))
    assert noise.data_to_send() == b""
