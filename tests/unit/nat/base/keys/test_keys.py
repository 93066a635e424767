"""Public keys of strangers: the published ones, what signs and what does not, and bad ones."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.public_keys import KeyType, decode_public_key
from tests.support.keys.stranger_keys import KINDS, encoded_key, stranger_key

# The test vectors of libp2p's specs/peer-ids.
VECTORS = {
    KeyType.ED25519: "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
    KeyType.SECP256K1: (
        "08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99"
    ),
    KeyType.ECDSA: (
        "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d83"
        "abab44abf3161f162a4bc901d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec034e9"
        "f77c409e62"
    ),
    KeyType.RSA: (
        "080012a60430820222300d06092a864886f70d01010105000382020f003082020a0282020100e1beab071d0820"
        "0bde24eef00d049449b07770ff9910257b2d7d5dda242ce8f0e2f12e1af4b32d9efd2c090f66b0f29986dbb645"
        "dae9880089704a94e5066d594162ae6ee8892e6ec70701db0a6c445c04778eb3de1293aa1a23c3825b85c6620a"
        "2bc3f82f9b0c309bc0ab3aeb1873282bebd3da03c33e76c21e9beb172fd44c9e43be32e2c99827033cf8d0f0c6"
        "06f4579326c930eb4e854395ad941256542c793902185153c474bed109d6ff5141ebf9cd256cf58893a37f8372"
        "9f97e7cb435ec679d2e33901d27bb35aa0d7e20561da08885ef0abbf8e2fb48d6a5487047a9ecb1ad41fa7ed84"
        "f6e3e8ecd5d98b3982d2a901b4454991766da295ab78822add5612a2df83bcee814cf50973e80d7ef38111b1bd"
        "87da2ae92438a2c8cbcc70b31ee319939a3b9c761dbc13b5c086d6b64bf7ae7dacc14622375d92a8ff9af7eb96"
        "2162bbddebf90acb32adb5e4e4029f1c96019949ecfbfeffd7ac1e3fbcc6b6168c34be3d5a2e5999fcbb39bba7"
        "adbca78eab09b9bc39f7fa4b93411f4cc175e70c0a083e96bfaefb04a9580b4753c1738a6a760ae1afd851a1a4"
        "bdad231cf56e9284d832483df215a46c1c21bdf0c6cfe951c18f1ee4078c79c13d63edb6e14feaeffabc90ad31"
        "7e4875fe648101b0864097e998f0ca3025ef9638cd2b0caecd3770ab54a1d9c6ca959b0f5dcbc90caeefc4135b"
        "aca6fd475224269bbe1b0203010001"
    ),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_the_published_keys(kind):
    data = bytes.fromhex(VECTORS[kind])
    key = decode_public_key(data)
    assert key.type is kind
    assert key.encode() == data
    assert key == decode_public_key(data)


# The points whose order is 1, 2, 4 or 8, the sign of x left out.
SMALL = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
# y above the prime; the first two are of small order too.
NOT_CANONICAL = [
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", [*SMALL, *NOT_CANONICAL])
def test_ed25519_points_that_are_nobodys_key(point, sign):
    raw = bytearray.fromhex(point)
    raw[31] |= sign
    with pytest.raises(RemoteProtocolError, match="ED25519"):
        decode_public_key(b"\x08\x01\x12\x20" + raw)


@pytest.mark.parametrize("kind", [KeyType.ED25519, KeyType.SECP256K1, KeyType.RSA])
def test_peer_ids_are_those_of_py_libp2p(kind):
    data = bytes.fromhex(VECTORS[kind])
    theirs = ID.from_pubkey(deserialize_public_key(data))
    assert PeerId.from_public_key(decode_public_key(data)).to_bytes() == theirs.to_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_key_has_signed_and_nothing_else(kind):
    stranger = stranger_key(kind)
    key = decode_public_key(stranger.encoded)
    assert key.encode() == stranger.encoded
    signature = stranger.sign(b"words")
    assert key.verify(b"words", signature)
    assert not key.verify(b"other words", signature)
    for wrong in (b"", b"x", signature[:-1], signature + b"\0", bytes(len(signature)), bytes(4096)):
        assert not key.verify(b"words", wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_with_a_byte_less_or_more_is_refused(kind):
    stranger = stranger_key(kind)
    number, data = stranger.encoded[1], stranger.data
    for wrong in (data[:-1], data + b"\0", b"", data[1:], b"\0" + data):
        with pytest.raises(RemoteProtocolError):
            decode_public_key(encoded_key(number, wrong))


# --- RSA ---


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def integer(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


RSA_OID = bytes.fromhex("300d06092a864886f70d0101010500")


def rsa_key(n: bytes, e: bytes, *, algorithm: bytes = RSA_OID, unused: bytes = b"\0") -> bytes:
    return encoded_key(0, der(0x30, algorithm + der(3, unused + der(0x30, n + e))))


N = (1 << 2047) + 1
E = integer(65537)


def test_rsa_keys_of_the_allowed_sizes_only():
    for bits in (2048, 2049, 3072, 4096, 8192):
        assert decode_public_key(rsa_key(integer((1 << bits - 1) + 1), E)).type is KeyType.RSA
    for bits in (1, 8, 512, 1024, 2047, 8193, 16384):
        with pytest.raises(RemoteProtocolError):
            decode_public_key(rsa_key(integer((1 << bits - 1) + 1), E))


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(integer(N - 1), E),  # even
        rsa_key(integer(N), integer(1)),
        rsa_key(integer(N), integer(4)),
        rsa_key(integer(N), integer(2**31 + 1)),
        rsa_key(integer(N), integer(0)),
        rsa_key(der(2, N.to_bytes(256, "big")), E),  # negative
        rsa_key(der(2, b"\0" + integer(N)[4:]), E),  # not the shortest form
        rsa_key(b"\x02\x84\0\0\x01\x01" + integer(N)[4:], E),
        rsa_key(integer(N), b"\x02\x81\x03\x01\0\x01"),
        rsa_key(integer(N), E + E),
        rsa_key(integer(N), b""),
        rsa_key(b"", b""),
        rsa_key(der(4, integer(N)[4:]), E),
        rsa_key(integer(N), E, unused=b"\1"),
        rsa_key(integer(N), E, unused=b""),
        rsa_key(integer(N), E, algorithm=b""),
        rsa_key(integer(N), E, algorithm=RSA_OID[:-2]),
        rsa_key(
            integer(N), E, algorithm=bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
        ),
        encoded_key(0, b"\x30\x80" + bytes(100)),
        encoded_key(0, b"\x30\x85\1\1\1\1\1" + bytes(100)),
        encoded_key(0, b"\x30\x83\0\1"),
        encoded_key(0, bytes(3000)),
    ],
)
def test_rsa_keys_that_are_not_der_or_not_usable(key):
    with pytest.raises(RemoteProtocolError):
        decode_public_key(key)


def test_a_private_rsa_key_is_refused_without_a_look_at_its_primes():
    """A library's importer took those, too, and froze the node for seconds."""
    private = stranger_key("rsa").private
    formats = (
        serialization.PrivateFormat.PKCS8,
        serialization.PrivateFormat.TraditionalOpenSSL,
    )
    nothing = serialization.NoEncryption()
    for form in formats:
        data = private.private_bytes(serialization.Encoding.DER, form, nothing)
        with pytest.raises(RemoteProtocolError):
            decode_public_key(encoded_key(0, data))
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(RemoteProtocolError):
        decode_public_key(encoded_key(0, pem))


@given(st.integers(1 << 2047, (1 << 8192) - 1), st.integers(0, 2**32))
@example(N, 65537)
def test_rsa_keys_are_read_as_the_library_writes_them(n, e):
    acceptable = n % 2 == 1 and e % 2 == 1 and 3 <= e < 2**31
    try:
        key = decode_public_key(rsa_key(integer(n), integer(e)))
    except RemoteProtocolError:
        assert not acceptable
        return
    assert acceptable
    again = (
        rsa.RSAPublicNumbers(e, n)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert key.data == again


# --- curves ---


def test_one_key_has_one_encoding():
    """Another encoding of the same key would be another peer ID."""
    public = stranger_key("secp256k1").private.public_key()
    long = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    with pytest.raises(RemoteProtocolError, match="33 are expected"):
        decode_public_key(encoded_key(2, long))
    stranger = stranger_key("ecdsa")
    point = stranger.private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    with pytest.raises(RemoteProtocolError, match="uncompressed"):
        decode_public_key(encoded_key(3, stranger.data[:26] + point))


@pytest.mark.parametrize("curve", [ec.SECP256K1, ec.SECP224R1, ec.BrainpoolP256R1])
def test_ecdsa_on_other_curves_is_refused(curve):
    public = ec.generate_private_key(curve()).public_key()
    data = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(RemoteProtocolError, match="ECDSA"):
        decode_public_key(encoded_key(3, data))


@pytest.mark.parametrize("kind", ["ecdsa", "secp256k1"])
def test_points_that_are_not_on_the_curve_are_refused(kind):
    stranger = stranger_key(kind)
    wrong = stranger.data[:-32] + b"\xff" * 32
    with pytest.raises(RemoteProtocolError):
        decode_public_key(encoded_key(stranger.encoded[1], wrong))


# --- protobuf ---


@pytest.mark.parametrize(
    "data", [b"", b"\x08\x01", b"\x12\x20" + bytes(32), encoded_key(4, bytes(32)), b"\xff" * 36]
)
def test_what_is_no_key_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode_public_key(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda data: data[2:] + data[:2],
        lambda data: data + b"\x1a\x01x",
        lambda data: data[:2] + data,
        lambda data: data[:1] + b"\x81\x00" + data[2:],
    ],
    ids=["the other order", "an unknown field", "a field twice", "a longer number"],
)
def test_a_key_written_otherwise_is_refused(write):
    data = bytes.fromhex(VECTORS[KeyType.ED25519])
    assert decode_public_key(data).encode() == data
    with pytest.raises(RemoteProtocolError, match="another form"):
        decode_public_key(write(data))


@given(st.integers(0, 4), st.binary(max_size=600))
def test_no_bytes_raise_anything_else(number, data):
    try:
        key = decode_public_key(encoded_key(number, data))
    except RemoteProtocolError:
        return
    assert key.data == data
    assert not key.verify(b"words", bytes(64))
