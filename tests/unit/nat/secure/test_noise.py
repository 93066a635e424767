"""Noise XX: the published vector, an independent implementation, and all that a peer can spoil."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.pb.noise_pb2 import NoiseHandshakePayload
from lattica.nat.secure.noise import (
    LENGTH_SIZE,
    MAX_HANDSHAKE_MESSAGE,
    MAX_PLAINTEXT,
    PROTOCOL_NAME,
    TAG_SIZE,
    CipherState,
    MessageReader,
    TransportReader,
    TransportWriter,
    XXHandshake,
    frame,
)
from lattica.nat.secure.noise_identity import make_payload, verify_payload
from tests.support.keys.stranger_keys import KINDS, stranger_key

# Points of small order on curve25519 and its twist, and their non-canonical forms: with each of
# them the shared secret is zero (https://cr.yp.to/ecdh.html, "validate").
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]


def new_pair(prologue: bytes = b"") -> tuple[XXHandshake, XXHandshake]:
    return (
        XXHandshake(initiator=True, static_key=X25519PrivateKey.generate(), prologue=prologue),
        XXHandshake(initiator=False, static_key=X25519PrivateKey.generate(), prologue=prologue),
    )


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def ciphers() -> tuple[CipherState, CipherState]:
    """Two states with one key: what the first encrypts, the second decrypts."""
    return CipherState(bytes(range(32))), CipherState(bytes(range(32)))


# --- the handshake ---


def test_published_vector() -> None:
    """From cacophony.txt, the vectors that implementations of Noise share."""

    def side(*, initiator: bool, static: str, ephemeral: str) -> XXHandshake:
        handshake = XXHandshake(
            initiator=initiator,
            static_key=X25519PrivateKey.from_private_bytes(bytes.fromhex(static)),
            prologue=bytes.fromhex("4a6f686e2047616c74"),
        )
        handshake._ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(ephemeral))
        return handshake

    initiator = side(
        initiator=True,
        static="e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        ephemeral="893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    )
    responder = side(
        initiator=False,
        static="4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        ephemeral="bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    )
    vector = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c75647769672076"
            "6f6e204d69736573",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c"
            "48378ffce2b65285e08d6b68aaa3629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b781"
            "5528f8982ffe09be9b5c412f8a0db50f8814c7194e83f23dbd8d162c9326ad",
        ),
        (
            "462e20412e20486179656b",
            "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169a"
            "e80a89be0865b57f58c9fea0d4ec82a286427402f113e4b6ae769a1d95941d49b25030",
        ),
        (
            "4361726c204d656e676572",
            "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df",
        ),
        (
            "4a65616e2d426170746973746520536179",
            "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
        ),
    ]
    messages = [(bytes.fromhex(payload), bytes.fromhex(sent)) for payload, sent in vector]
    writer, reader = initiator, responder
    for payload, sent in messages[:3]:
        assert writer.write(payload) == sent
        assert reader.read(sent) == payload
        writer, reader = reader, writer
    assert initiator._symmetric.hash == responder._symmetric.hash
    assert initiator._symmetric.hash.hex() == (
        "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e"
    )
    # The transport phase of the vector begins with the responder and alternates.
    to_responder, from_responder = initiator.split()
    to_initiator, from_initiator = responder.split()
    for index, (payload, sent) in enumerate(messages[3:]):
        if index % 2 == 0:
            assert to_initiator.encrypt(payload) == sent
            assert from_responder.decrypt(sent) == payload
        else:
            assert to_responder.encrypt(payload) == sent
            assert from_initiator.decrypt(sent) == payload


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize("prologue", [b"", b"lattica"])
def test_against_an_independent_implementation(we_initiate: bool, prologue: bytes) -> None:
    static = X25519PrivateKey.generate()
    ours = XXHandshake(initiator=we_initiate, static_key=static, prologue=prologue)
    theirs = NoiseConnection.from_name(PROTOCOL_NAME)
    their_static = X25519PrivateKey.generate()
    if we_initiate:
        theirs.set_as_responder()
    else:
        theirs.set_as_initiator()
    theirs.set_prologue(prologue)
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, their_static.private_bytes_raw())
    theirs.start_handshake()

    for step in range(3):
        payload = b"payload %d" % step
        if (step % 2 == 0) == we_initiate:
            assert bytes(theirs.read_message(ours.write(payload))) == payload
        else:
            assert ours.read(bytes(theirs.write_message(payload))) == payload
    assert ours.done
    assert theirs.handshake_finished
    assert ours.remote_static == public(their_static)

    sending, receiving = ours.split()
    writer, reader = TransportWriter(sending), TransportReader(receiving)
    for size in (1, 100, MAX_PLAINTEXT):
        plain = bytes(size)
        assert theirs.decrypt(writer.seal(plain)[LENGTH_SIZE:]) == plain
        assert reader.receive(frame(theirs.encrypt(plain))) == [plain]


def test_payloads_and_keys_arrive() -> None:
    initiator, responder = new_pair()
    assert responder.read(initiator.write(b"one")) == b"one"
    assert initiator.read(responder.write(b"two")) == b"two"
    assert (initiator.done, responder.done) == (False, False)
    assert responder.read(initiator.write(b"three")) == b"three"
    assert (initiator.done, responder.done) == (True, True)
    assert initiator.remote_static == public(responder._static)
    assert responder.remote_static == public(initiator._static)


def test_different_prologues_do_not_match() -> None:
    initiator = XXHandshake(initiator=True, static_key=X25519PrivateKey.generate(), prologue=b"a")
    responder = XXHandshake(initiator=False, static_key=X25519PrivateKey.generate(), prologue=b"b")
    responder.read(initiator.write())
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        initiator.read(responder.write())


def test_wrong_order_is_the_callers_fault() -> None:
    initiator, responder = new_pair()
    with pytest.raises(LocalProtocolError):
        initiator.read(bytes(32))
    with pytest.raises(LocalProtocolError):
        responder.write()
    first = initiator.write()
    with pytest.raises(LocalProtocolError):
        initiator.write()
    with pytest.raises(LocalProtocolError):
        initiator.split()
    responder.read(first)
    with pytest.raises(LocalProtocolError):
        responder.read(first)
    initiator.read(responder.write())
    responder.read(initiator.write())
    for side in (initiator, responder):
        with pytest.raises(LocalProtocolError):
            side.write()
        with pytest.raises(LocalProtocolError):
            side.read(bytes(100))


def exchange(upto: int) -> tuple[XXHandshake, bytes]:
    """Play the handshake up to message `upto`; return who is to read it, and the message."""
    writer, reader = new_pair()
    for _ in range(upto):
        reader.read(writer.write(b"payload"))
        writer, reader = reader, writer
    return reader, writer.write(b"payload")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_truncated_messages(step: int) -> None:
    _, message = exchange(step)
    # The first message is not encrypted: its payload may have any length.
    last = 32 if step == 0 else len(message)
    for length in range(last):
        reader, message = exchange(step)
        with pytest.raises(RemoteProtocolError):
            reader.read(message[:length])


@pytest.mark.parametrize("step", [1, 2])
def test_garbled_messages(step: int) -> None:
    _, message = exchange(step)
    for index in range(len(message)):
        reader, message = exchange(step)
        garbled = bytearray(message)
        garbled[index] ^= 1 << index % 8
        # That includes the highest bit of a key, which X25519 ignores: the transcript does not.
        with pytest.raises(RemoteProtocolError):
            reader.read(bytes(garbled))


def test_garbled_first_message_spoils_the_second() -> None:
    initiator, responder = new_pair()
    message = bytearray(initiator.write(b"payload"))
    message[-1] ^= 1
    responder.read(bytes(message))
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        initiator.read(responder.write())


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_keys(point: bytes) -> None:
    _, responder = new_pair()
    responder.read(point)
    with pytest.raises(RemoteProtocolError, match="degenerate"):
        responder.write()

    initiator, _ = new_pair()
    initiator.write()
    with pytest.raises(RemoteProtocolError, match="degenerate"):
        initiator.read(point + bytes(64))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_static_keys(point: bytes) -> None:
    """Encrypted properly, by a peer that goes through with the handshake."""
    initiator, responder = new_pair()
    responder.read(initiator.write())
    initiator.read(responder.write())
    sealed = initiator._symmetric.encrypt_and_hash(point)
    with pytest.raises(RemoteProtocolError, match="degenerate"):
        responder.read(sealed + bytes(16))


# --- framing ---


def test_message_reader_refuses_a_length_at_once() -> None:
    reader = MessageReader(MAX_HANDSHAKE_MESSAGE)
    reader.feed(struct.pack(">H", MAX_HANDSHAKE_MESSAGE + 1))
    with pytest.raises(RemoteProtocolError, match="8193 bytes"):
        reader.next_message()
    reader = MessageReader(MAX_HANDSHAKE_MESSAGE)
    reader.feed(frame(bytes(MAX_HANDSHAKE_MESSAGE)))
    assert reader.next_message() == bytes(MAX_HANDSHAKE_MESSAGE)


def test_message_reader_keeps_the_rest() -> None:
    reader = MessageReader(100)
    stream = frame(b"one") + frame(b"") + frame(b"two")
    for index in range(len(stream) - 1):
        reader.feed(stream[index : index + 1])
    assert reader.next_message() == b"one"
    assert reader.next_message() == b""
    assert reader.next_message() is None
    assert reader.rest == frame(b"two")[:-1]
    reader.feed(memoryview(b"o" + b"more"))
    assert reader.next_message() == b"two"
    assert reader.rest == b"more"


# --- the transport phase ---


def test_nonces_count_up_from_zero() -> None:
    key = bytes(range(32))
    state = CipherState(key)
    raw = ChaCha20Poly1305(key)
    for counter in range(300):
        nonce = bytes(4) + counter.to_bytes(8, "little")
        if counter % 2:
            assert state.encrypt(b"plain", b"ad") == raw.encrypt(nonce, b"plain", b"ad")
        else:
            out = memoryview(bytearray(5 + TAG_SIZE))
            state.encrypt_into(memoryview(b"plain"), out)
            assert out == raw.encrypt(nonce, b"plain", None)


def test_the_two_directions_have_different_keys() -> None:
    initiator, responder = new_pair()
    responder.read(initiator.write())
    initiator.read(responder.write())
    responder.read(initiator.write())
    to_responder, _ = initiator.split()
    to_initiator, _ = responder.split()
    assert to_responder.encrypt(b"same") != to_initiator.encrypt(b"same")


def test_replayed_reordered_and_dropped_messages_are_refused() -> None:
    sending, _ = ciphers()
    writer = TransportWriter(sending)
    one, two = writer.seal(b"one"), writer.seal(b"two")
    for stream in (two, one + one, two + one):
        _, receiving = ciphers()
        with pytest.raises(RemoteProtocolError, match="decrypt"):
            TransportReader(receiving).receive(stream)
    _, receiving = ciphers()
    assert TransportReader(receiving).receive(one + two) == [b"one", b"two"]


def test_seal_into_writes_one_framed_message() -> None:
    sending, receiving = ciphers()
    for size in (1, 100, MAX_PLAINTEXT):
        plain = bytes([size % 251]) * size
        out = memoryview(bytearray(size + TransportWriter.OVERHEAD + 10))
        writer = TransportWriter(sending)
        end = writer.seal_into(memoryview(plain), out)
        assert end == size + TransportWriter.OVERHEAD
        assert out[end:] == bytes(10)
        assert TransportReader(receiving).receive(out[:end]) == [plain]


@pytest.mark.parametrize("length", range(TAG_SIZE))
def test_messages_shorter_than_a_tag_are_refused(length: int) -> None:
    stream = frame(bytes(length))
    for cut in range(len(stream) + 1):
        _, receiving = ciphers()
        reader = TransportReader(receiving)
        with pytest.raises(RemoteProtocolError, match="shorter than its tag"):  # noqa: PT012
            reader.receive(stream[:cut])
            reader.receive(stream[cut:])


def test_empty_messages_count_and_give_nothing() -> None:
    """The nonce moves on with them: a peer may send them as padding."""
    sending, receiving = ciphers()
    writer = TransportWriter(sending)
    reader = TransportReader(receiving)
    assert reader.receive(writer.seal(b"")) == []
    assert reader.receive(writer.seal(b"x") + writer.seal(b"") + writer.seal(b"y")) == [b"x", b"y"]


def test_the_callers_buffer_may_be_reused() -> None:
    """All connections of a thread receive into one buffer."""
    sending, receiving = ciphers()
    writer = TransportWriter(sending)
    stream = writer.seal(b"first") + writer.seal(b"second")
    reader = TransportReader(receiving)
    buffer = bytearray(len(stream))
    got = []
    for start in range(0, len(stream), 7):
        piece = stream[start : start + 7]
        buffer[: len(piece)] = piece
        got += reader.receive(memoryview(buffer)[: len(piece)])
        buffer[:] = b"\xaa" * len(buffer)
    assert got == [b"first", b"second"]


# --- identities ---


@pytest.mark.parametrize("kind", KINDS)
def test_identity_payload(kind: str) -> None:
    key = stranger_key(kind)
    static = public(X25519PrivateKey.generate())
    payload = NoiseHandshakePayload(
        identity_key=key.encoded, identity_sig=key.sign(b"noise-libp2p-static-key:" + static)
    )
    remote = verify_payload(payload.SerializeToString(), static)
    assert remote.public_key.encode() == key.encoded
    assert remote.peer_id == PeerId.from_public_key(remote.public_key)


def test_our_payload() -> None:
    identity = Identity.generate()
    remote = verify_payload(make_payload(identity, bytes(32)), bytes(32))
    assert remote.peer_id == identity.peer_id
    assert remote.public_key == identity.public_key


def test_payload_for_another_static_key_is_refused() -> None:
    identity = Identity.generate()
    payload = make_payload(identity, bytes(32))
    with pytest.raises(RemoteProtocolError, match=f"signature of {identity.peer_id}"):
        verify_payload(payload, b"\x01" + bytes(31))


def test_payload_with_anothers_key_is_refused() -> None:
    """Somebody presents a public key that is not theirs."""
    thief, victim = Identity.generate(), Identity.generate()
    payload = NoiseHandshakePayload.FromString(make_payload(thief, bytes(32)))
    payload.identity_key = victim.public_key_bytes
    with pytest.raises(RemoteProtocolError, match=f"signature of {victim.peer_id}"):
        verify_payload(payload.SerializeToString(), bytes(32))


@pytest.mark.parametrize(
    "signature",
    [b"", b"x", bytes(63), bytes(64), bytes(65), b"\xff" * 64, bytes(256), bytes(4096)],
    ids=lambda signature: f"{len(signature)}x{signature[:1].hex()}",
)
@pytest.mark.parametrize("kind", KINDS)
def test_signatures_of_any_shape_are_refused(kind: str, signature: bytes) -> None:
    payload = NoiseHandshakePayload(identity_key=stranger_key(kind).encoded, identity_sig=signature)
    with pytest.raises(RemoteProtocolError):
        verify_payload(payload.SerializeToString(), bytes(32))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 40,
        b"\x0a\x7fshort",
        NoiseHandshakePayload(identity_key=b"", identity_sig=bytes(64)).SerializeToString(),
        # Key types: Ed25519 with 31 bytes, an unknown type, RSA and ECDSA that are no DER.
        *(
            NoiseHandshakePayload(identity_key=key, identity_sig=bytes(64)).SerializeToString()
            for key in (
                b"\x08\x01\x12\x1f" + bytes(31),
                b"\x08\x01\x12\x20" + b"\xff" * 32,
                b"\x08\x63\x12\x20" + bytes(32),
                b"\x08\x00\x12\x04\x30\x82\xff\xff",
                b"\x08\x02\x12\x21" + b"\x02" + b"\xff" * 32,
                b"\x08\x03\x12\x04\x30\x82\xff\xff",
                b"\x08\x01",
                b"\x12\x20" + bytes(32),
            )
        ),
    ],
)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        verify_payload(payload, bytes(32))
