"""Targets of the secure channel: Noise, the set-up of a connection, private networks."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.errors import ConfigError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.swarm_key import parse_swarm_key
from lattica.nat.secure.ciphers import AesGcmState, Cipher
from lattica.nat.secure.noise import (
    MAX_HANDSHAKE_MESSAGE,
    CipherState,
    MessageReader,
    TransportReader,
    TransportWriter,
    XXHandshake,
    frame,
)
from lattica.nat.secure.noise_identity import make_payload, verify_payload
from lattica.nat.secure.upgrade import Upgrade
from lattica.nat.transport.pnet import PnetCipher
from tools.fuzz.target import KIB, Target, Violation
from tools.fuzz.targets.pieces import (
    APPEND,
    FLIP,
    PASS,
    REPLACE,
    in_pieces,
    option,
    record,
    records,
    tampered,
)

OURS = Identity(b"\x01" * 32)
THEIRS = Identity(b"\x02" * 32)
STATIC = X25519PrivateKey.from_private_bytes(b"\x03" * 32)
STATIC_PUBLIC = STATIC.public_key().public_bytes_raw()
KEY = bytes(range(32))

AES = frozenset({Cipher.AES_256_GCM})

_WIDTH = 1
"""Of a place in a message, bytes."""


def _read_handshake_message(handshake: XXHandshake, wire: bytes) -> None:
    """What the driver does with bytes of the handshake phase."""
    reader = MessageReader(MAX_HANDSHAKE_MESSAGE)
    for piece in in_pieces(wire, 7):
        reader.feed(piece)
    while not handshake.done and (message := reader.next_message()) is not None:
        payload = handshake.read(message)
        if handshake.remote_static is not None:
            verify_payload(payload, handshake.remote_static)
        if not _is_done(handshake):
            handshake.write(make_payload(OURS, STATIC_PUBLIC))


def _is_done(handshake: XXHandshake) -> bool:
    # Behind a call, because mypy believes that `done` stays what it was.
    return handshake.done


def _noise_handshake_initiator(data: bytes) -> None:
    kind, rest = option(data)
    changes = records(rest)
    ours = XXHandshake(initiator=True, static_key=STATIC)
    peer = XXHandshake(initiator=False, static_key=STATIC)
    first = ours.write()
    if kind % 2:
        _read_handshake_message(ours, rest)  # nothing but the fuzzer's bytes
        return
    peer.read(first)
    # An honest handshake around a payload of the fuzzer's, which may also be a right one.
    payload = tampered(make_payload(THEIRS, STATIC_PUBLIC), changes, _WIDTH)
    _read_handshake_message(ours, tampered(frame(peer.write(payload)), changes, _WIDTH))
    _check_done(ours)


def _noise_handshake_responder(data: bytes) -> None:
    kind, rest = option(data)
    changes = records(rest)
    ours = XXHandshake(initiator=False, static_key=STATIC)
    peer = XXHandshake(initiator=True, static_key=STATIC)
    if kind % 2:
        _read_handshake_message(ours, rest)
        return
    first = tampered(peer.write(), changes, _WIDTH)
    if first != b"":
        ours.read(first)
    else:
        return
    try:
        peer.read(ours.write(make_payload(OURS, STATIC_PUBLIC)))
    except RemoteProtocolError:
        return  # the honest peer noticed the tampering first
    payload = tampered(make_payload(THEIRS, STATIC_PUBLIC), changes, _WIDTH)
    _read_handshake_message(ours, tampered(frame(peer.write(payload)), changes, _WIDTH))
    _check_done(ours)


def _check_done(handshake: XXHandshake) -> None:
    if handshake.done and handshake.remote_static != STATIC_PUBLIC:
        raise Violation("the handshake is done, with a key that nobody has")


def _noise_payload(data: bytes) -> None:
    identity = verify_payload(data, STATIC_PUBLIC)
    # Nothing but the honest payload, however encoded, is signed with this key.
    if identity.peer_id != THEIRS.peer_id and identity.peer_id != OURS.peer_id:
        raise Violation(f"{identity.peer_id} is accepted, whose key nobody has")


def _noise_transport(data: bytes) -> None:
    step, rest = option(data)
    state = AesGcmState if step & 0x80 else CipherState
    writer = TransportWriter(state(KEY))
    wire, honest, received, tampered = bytearray(), bytearray(), bytearray(), False
    for kind, payload in records(rest):
        if kind % 4 == 0:
            wire += payload
            tampered |= bool(payload)
        else:
            wire += writer.seal(payload * kind)
            if not tampered:
                honest += payload * kind
    buffered = wire[: step % 32]
    reader = TransportReader(state(KEY), bytes(buffered))
    pieces = max(step, len(wire) // 4096) if step else 0  # a few bytes may seal megabytes
    try:
        for piece in in_pieces(bytes(wire[len(buffered) :]), pieces):
            received += b"".join(reader.receive(piece))
    finally:
        if not honest.startswith(received):
            raise Violation("plaintext that nobody sealed")


def _upgrade(data: bytes) -> None:
    """One side against an honest other, whose bytes are changed on their way."""
    kind, rest = option(data)
    initiator = bool(kind & 1)
    changes = records(rest)
    offers = AES if kind & 4 else frozenset()
    ours = Upgrade(
        OURS,
        initiator=initiator,
        expected_peer=THEIRS.peer_id if kind & 2 else None,
        ciphers=offers,
    )
    peer = Upgrade(THEIRS, initiator=not initiator, ciphers=offers)
    for _ in range(8):
        try:
            peer.receive(ours.data_to_send())
        except RemoteProtocolError:
            return  # the honest peer noticed first
        if not (wire := peer.data_to_send()):
            return
        for piece in in_pieces(tampered(wire, changes, _WIDTH), kind >> 3):
            ours.receive(piece)
            if (result := ours.result) is not None:
                if result.remote.peer_id != THEIRS.peer_id:
                    raise Violation(f"{result.remote.peer_id} is accepted, who was not there")
                return


def _pnet(data: bytes) -> None:
    step, stream = option(data)
    cipher = PnetCipher(KEY)
    plain = b"".join(cipher.receive(piece) for piece in in_pieces(stream, step))
    nonce, sealed = stream[:24], stream[24:]
    if len(plain) != len(sealed):
        raise Violation(f"{len(sealed)} bytes became {len(plain)}")
    if len(nonce) == 24 and PnetCipher(KEY, nonce=nonce).encrypt(plain) != sealed:
        raise Violation("decrypting depends on the pieces")


def _key_file(key: bytes) -> bytes:
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{key.hex()}\n".encode()


def _swarm_key(data: bytes) -> None:
    key = parse_swarm_key(data)
    if parse_swarm_key(_key_file(key)) != key:
        raise Violation("a parsed key does not survive being written")


_PAYLOAD = make_payload(THEIRS, STATIC_PUBLIC)
_PROTOBUF_TOKENS = [
    b"\x0a\x24", b"\x12\x40", b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x12\x20",
    b"\x12\x21\x02", b"\xff\xff\xff\xff\x0f",
]  # fmt: skip
_RSA_KEY = b"\x08\x00\x12\x0a\x30\x08\x02\x01\x00\x02\x03\x01\x00\x01"
_LOW_ORDER = record(REPLACE, b"\x00\x20" + bytes(32))

NOISE_HANDSHAKE_INITIATOR = Target(
    "noise-handshake-initiator",
    _noise_handshake_initiator,
    (RemoteProtocolError,),
    seeds=[
        b"\x00",
        b"\x00" + record(PASS) + record(FLIP, b"\x05\x01"),
        b"\x00" + record(REPLACE, _PAYLOAD[:200]),
        b"\x00" + record(PASS) + _LOW_ORDER,
        b"\x01" + frame(bytes(96)) + frame(bytes(200)),
        b"\x01\xff\xff" + bytes(64),
    ],
    tokens=_PROTOBUF_TOKENS,
)
NOISE_HANDSHAKE_RESPONDER = Target(
    "noise-handshake-responder",
    _noise_handshake_responder,
    (RemoteProtocolError,),
    seeds=[
        b"\x00",
        b"\x00" + record(APPEND, b"early data") + record(PASS),
        b"\x00" + record(REPLACE, bytes(32)),
        b"\x00" + record(PASS) + record(REPLACE, _PAYLOAD[:200]) + record(FLIP, b"\x30\x01"),
        b"\x01" + frame(b"\x09" + bytes(31)) + frame(bytes(200)),
    ],
    tokens=_PROTOBUF_TOKENS,
)
NOISE_PAYLOAD = Target(
    "noise-payload",
    _noise_payload,
    (RemoteProtocolError,),
    seeds=[
        _PAYLOAD,
        make_payload(OURS, STATIC_PUBLIC),
        make_payload(THEIRS, STATIC_PUBLIC, AES),
        make_payload(OURS, bytes(32)),
        b"\x0a" + bytes((len(_RSA_KEY),)) + _RSA_KEY + b"\x12\x40" + bytes(64),
        b"\x0a\x25\x08\x02\x12\x21\x02" + b"\x11" * 32 + b"\x12\x40" + bytes(64),
        b"\x0a\x25\x08\x03\x12\x21\x02" + b"\x11" * 32 + b"\x12\x40" + bytes(64),
    ],
    tokens=_PROTOBUF_TOKENS,
    max_size=2 * KIB,
)
NOISE_TRANSPORT = Target(
    "noise-transport",
    _noise_transport,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + record(1, b"hello") * 3,
        b"\x01" + record(1, b"hello") * 3,
        b"\x81" + record(1, b"hello") * 3,
        b"\x1f" + record(255, b"x" * 255) + record(1),
        b"\x00" + record(1, b"hello") + record(0, b"\x00\x05short"),
        b"\x00" + record(0, b"\xff\xff" + b"x" * 200),
    ],
)
UPGRADE = Target(
    "upgrade",
    _upgrade,
    (RemoteProtocolError,),
    seeds=[
        b"\x00",
        b"\x01",
        b"\x03",
        b"\x06",
        b"\x07",
        b"\x00" + record(PASS) * 2 + record(APPEND, b"early"),
        b"\x01" + record(REPLACE, b"\x13/multistream/1.0.0\n\x03na\n"),
        b"\x01" + record(REPLACE, b"\x13/multistream/1.0.0\n\x07/noise\n" + frame(bytes(32))),
        b"\x00" + record(REPLACE, b"\x13/multistream/1.0.0\n\x03ls\n\x07/noise\n"),
    ],
    tokens=[b"\x13/multistream/1.0.0\n", b"\x07/noise\n", b"\x03na\n", b"\x03ls\n", bytes(32)],
)
PNET = Target(
    "pnet",
    _pnet,
    (),
    seeds=[b"\x00" + bytes(24), b"\x05" + bytes(range(60)), b"\x17" + bytes(24) + b"x" * 200],
)
SWARM_KEY = Target(
    "swarm-key",
    _swarm_key,
    (ConfigError,),
    seeds=[
        _key_file(KEY),
        b"/key/swarm/psk/1.0.0/\n/base64/\n" + b"A" * 43 + b"=\n",
        b"/key/swarm/psk/1.0.0/\n/bin/\n" + KEY,
    ],
    tokens=[b"/key/swarm/psk/1.0.0/\n", b"/base16/\n", b"/base64/\n", b"/bin/\n", b"=", b"\n"],
    max_size=256,
)
