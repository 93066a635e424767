"""AES-256-GCM after the handshake: vectors, agreement, re-keying, and what a peer can spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.pb.noise_pb2 import NoiseHandshakePayload
from lattica.nat.secure import ciphers
from lattica.nat.secure.ciphers import AesGcmState, Cipher, agree, offered, transport_states
from lattica.nat.secure.noise import TAG_SIZE, TransportReader, TransportWriter, XXHandshake
from lattica.nat.secure.noise_identity import make_payload, verify_payload
from lattica.nat.secure.upgrade import Upgrade
from tests.support.keys import aes_vectors

VECTORS = json.loads((Path(__file__).parent / "aes_256_gcm_vectors.json").read_text())
AES = frozenset({Cipher.AES_256_GCM})
NONE: frozenset[Cipher] = frozenset()
OFFERS = list(product((NONE, AES), repeat=2))
ALICE, BOB = Identity.generate(), Identity.generate()
KEY = bytes(range(32))


def hexed(value: str) -> bytes:
    return bytes.fromhex(value)


# --- vectors ---


def test_the_vectors_are_what_the_documents_give():
    assert aes_vectors.vectors() == VECTORS


def vector_side(name: str) -> XXHandshake:
    keys = VECTORS[name]
    handshake = XXHandshake(
        initiator=name == "initiator",
        static_key=X25519PrivateKey.from_private_bytes(hexed(keys["static"])),
    )
    handshake._ephemeral = X25519PrivateKey.from_private_bytes(hexed(keys["ephemeral"]))
    return handshake


def test_vectors():
    initiator, responder = vector_side("initiator"), vector_side("responder")
    payloads = [b"", hexed(VECTORS["responder"]["payload"]), hexed(VECTORS["initiator"]["payload"])]
    writer, reader = initiator, responder
    for message, payload in zip(VECTORS["messages"], payloads, strict=True):
        assert writer.write(payload).hex() == message
        assert reader.read(hexed(message)) == payload
        if payload:
            static = reader.remote_static
            assert static is not None
            assert verify_payload(payload, static).ciphers == AES
        writer, reader = reader, writer
    assert initiator.chaining_key.hex() == responder.chaining_key.hex() == VECTORS["chaining_key"]
    assert initiator.transcript_hash.hex() == VECTORS["transcript_hash"]
    assert responder.transcript_hash.hex() == VECTORS["transcript_hash"]

    to_responder, at_initiator = transport_states(initiator, Cipher.AES_256_GCM)
    to_initiator, at_responder = transport_states(responder, Cipher.AES_256_GCM)
    for name, sending, receiving in (
        ("from_initiator", to_responder, at_responder),
        ("from_responder", to_initiator, at_initiator),
    ):
        vector = VECTORS[name]
        for record in vector["records"]:
            assert sending.encrypt(hexed(record["plaintext"])).hex() == record["ciphertext"]
            assert receiving.decrypt(hexed(record["ciphertext"])).hex() == record["plaintext"]
        for state in (sending, receiving):
            state._nonce = ciphers.AES_GCM_MESSAGES
        for record in vector["records_after_rekey"]:
            assert sending.encrypt(hexed(record["plaintext"])).hex() == record["ciphertext"]
            assert receiving.decrypt(hexed(record["ciphertext"])).hex() == record["plaintext"]


def test_no_key_serves_two_ciphers_or_two_directions():
    keys = [*VECTORS["split"], VECTORS["from_initiator"]["key"], VECTORS["from_responder"]["key"]]
    assert len(set(keys)) == 4


def test_keys_are_there_when_the_handshake_is_done():
    with pytest.raises(LocalProtocolError):
        transport_states(vector_side("initiator"), Cipher.CHACHA20_POLY1305)
    with pytest.raises(LocalProtocolError):
        transport_states(vector_side("initiator"), Cipher.AES_256_GCM)


# --- messages ---


def test_nonces_are_big_endian_and_count_from_zero():
    state, raw = AesGcmState(KEY), AESGCM(KEY)
    for count in range(300):
        nonce = bytes(4) + count.to_bytes(8, "big")
        if count % 2:
            assert state.encrypt(b"plain") == raw.encrypt(nonce, b"plain", None)
        else:
            out = memoryview(bytearray(5 + TAG_SIZE))
            state.encrypt_into(memoryview(b"plain"), out)
            assert out == raw.encrypt(nonce, b"plain", None)


def test_keys_are_replaced_at_the_same_message_on_both_sides(monkeypatch):
    monkeypatch.setattr(ciphers, "AES_GCM_MESSAGES", 3)
    writer, reader = TransportWriter(AesGcmState(KEY)), TransportReader(AesGcmState(KEY))
    messages = [b"message %d" % number for number in range(10)]
    sealed = [writer.seal(message) for message in messages]
    assert reader.receive(b"".join(sealed)) == messages
    # The first three are under the first key, the count goes on under the next ones.
    first = AESGCM(KEY)
    second = AESGCM(first.encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32])
    for number, aead in ((2, first), (3, second), (5, second)):
        nonce = bytes(4) + number.to_bytes(8, "big")
        assert aead.decrypt(nonce, sealed[number][2:], None) == messages[number]


def test_replayed_and_reordered_messages_are_refused():
    writer = TransportWriter(AesGcmState(KEY))
    one, two = writer.seal(b"one"), writer.seal(b"two")
    for stream in (two, one + one, two + one):
        with pytest.raises(RemoteProtocolError, match="decrypt"):
            TransportReader(AesGcmState(KEY)).receive(stream)


# --- the offer ---


@pytest.mark.parametrize(("ours", "theirs"), OFFERS)
def test_agreement_is_the_same_on_both_sides(ours, theirs):
    assert agree(ours, theirs) is agree(theirs, ours)
    assert (agree(ours, theirs) is Cipher.AES_256_GCM) == (ours == theirs == AES)


def test_no_offer_leaves_the_payload_as_libp2p_has_it():
    payload = NoiseHandshakePayload.FromString(make_payload(ALICE, KEY))
    assert not payload.HasField("extensions")


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_offers_nobody_knows_are_skipped(numbers):
    payload = NoiseHandshakePayload.FromString(make_payload(ALICE, KEY))
    payload.extensions.transport_ciphers.extend(numbers)
    remote = verify_payload(payload.SerializeToString(), KEY)
    assert remote.ciphers == (AES if 1 in numbers else NONE)
    assert remote.peer_id == ALICE.peer_id


def test_extensions_of_others_are_skipped():
    # webtransport_certhashes and stream_muxers, as go-libp2p sends them.
    foreign = b"\x22\x13" + b"\x0a\x03abc" + b"\x12\x0c/yamux/1.0.0"
    assert verify_payload(make_payload(ALICE, KEY) + foreign, KEY).ciphers == NONE
    assert verify_payload(make_payload(ALICE, KEY, AES) + foreign, KEY).ciphers == AES


# --- the set-up ---


def pair(ours=AES, theirs=AES) -> tuple[Upgrade, Upgrade]:
    return (
        Upgrade(ALICE, initiator=True, expected_peer=BOB.peer_id, ciphers=ours),
        Upgrade(BOB, initiator=False, ciphers=theirs),
    )


@pytest.mark.parametrize(("ours", "theirs"), OFFERS)
def test_both_sides_take_the_same_cipher_and_no_round_trip(ours, theirs):
    a, b = pair(ours, theirs)
    play(a, b)
    assert a.result is not None
    assert b.result is not None
    assert a.result.cipher is b.result.cipher is agree(ours, theirs)
    is_aes = a.result.cipher is Cipher.AES_256_GCM
    for writer, reader in (
        (a.result.writer, b.result.reader),
        (b.result.writer, a.result.reader),
    ):
        assert isinstance(writer._cipher, AesGcmState) is is_aes
        assert isinstance(reader._cipher, AesGcmState) is is_aes
        assert reader.receive(writer.seal(b"hello") + writer.seal(b"again")) == [b"hello", b"again"]


def test_two_initiators_agree_too():
    a = Upgrade(ALICE, initiator=True, expected_peer=BOB.peer_id, ciphers=AES)
    b = Upgrade(BOB, initiator=True, expected_peer=ALICE.peer_id, ciphers=AES)
    crossing = a.data_to_send(), b.data_to_send()
    a.receive(crossing[1])
    b.receive(crossing[0])
    while a.result is None or b.result is None:
        for sender, receiver in ((a, b), (b, a)):
            if data := sender.data_to_send():
                receiver.receive(data)
    assert a.result.cipher is b.result.cipher is Cipher.AES_256_GCM


def play(a: Upgrade, b: Upgrade, change: Callable[[int, bytes], bytes] = lambda _, data: data):
    """Carry four flights, as somebody in the middle may change them."""
    for number in range(4):
        sender, receiver = (a, b) if number % 2 == 0 else (b, a)
        if data := change(number, sender.data_to_send()):
            receiver.receive(data)


@pytest.mark.parametrize("changed", [1, 2])
def test_no_changed_byte_of_an_offer_gets_through(changed):
    """A downgrade would need a change of message 2 or 3: whatever it is, there is no connection."""
    sizes = []

    def measure(_: int, data: bytes) -> bytes:
        sizes.append(len(data))
        return data

    a, b = pair()
    play(a, b, measure)
    assert a.result is not None
    assert b.result is not None
    for place in range(sizes[changed]):

        def flip(number: int, data: bytes, place: int = place) -> bytes:
            if number != changed or not data:
                return data
            return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]

        a, b = pair()
        # A length that grew is no error yet: what it announces never comes.
        with suppress(RemoteProtocolError):
            play(a, b, flip)
        assert a.result is None
        assert b.result is None


def test_a_peer_that_goes_on_with_another_cipher_than_agreed_is_refused():
    a, b = pair()
    b.receive(a.data_to_send())
    a.receive(b.data_to_send())
    b.receive(a.data_to_send())
    sending, _ = b._handshake.split()  # the keys of ChaChaPoly
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        a.receive(TransportWriter(sending).seal(b"\x13/multistream/1.0.0\n"))


def test_an_offer_repeated_by_somebody_else_proves_nothing():
    """Eve answers Alice with Bob's payload, offer and all: its signature is for Bob's key."""
    static = X25519PrivateKey.generate()
    bobs = make_payload(BOB, static.public_key().public_bytes_raw(), AES)
    with pytest.raises(RemoteProtocolError, match="signature"):
        verify_payload(bobs, X25519PrivateKey.generate().public_key().public_bytes_raw())


# --- hardware ---


def cpuinfo(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return path


X86 = "processor\t: 0\nmodel name\t: some aes machine\nflags\t\t: fpu sse2 {}\nbugs\t\t:\n"
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd {} crc32\nCPU part\t: 0xd08\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("pclmulqdq aes avx"), True),
        (X86.format("aes avx"), False),
        (X86.format("pclmulqdq vaes"), False),
        (ARM.format("aes pmull sha1"), True),
        (ARM.format("aes"), False),
        (ARM.format(""), False),  # a Raspberry Pi 4
        ("cpu\t: POWER9\nfeatures : aes pmull\n", False),
        ("\xff\xfe garbage \n:::\n", False),
        ("", False),
    ],
)
def test_hardware_of_linux(tmp_path, text, expected):
    assert ciphers._has_aes_hardware("Linux", "x", cpuinfo(tmp_path, text)) is expected


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("Darwin", "arm64", True),
        ("Darwin", "x86_64", True),
        ("Darwin", "Power Macintosh", False),
        ("Windows", "AMD64", False),
    ],
)
def test_hardware_of_others(tmp_path, system, machine, expected):
    assert ciphers._has_aes_hardware(system, machine, tmp_path / "missing") is expected


@pytest.mark.parametrize("hardware", [True, False])
def test_settings(monkeypatch, hardware):
    monkeypatch.setattr(ciphers, "has_aes_hardware", lambda: hardware)
    assert offered("auto") == (AES if hardware else NONE)
    assert offered("aes-256-gcm") == AES
    assert offered("chacha20-poly1305") == NONE
