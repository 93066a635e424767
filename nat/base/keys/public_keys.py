"""Public keys of peers: libp2p's protobuf form, read strictly, and their signatures.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md "Keys". Keys come from
strangers, before anything is known of them. So nothing here looks for the format of a key, tests
primes, or takes more time than its size and :data:`MAX_RSA_BITS` allow: every form has one
encoding, which is read byte by byte, and the library is given numbers and points only. Since each
key has one encoding, it has one peer ID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import keys_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    _Loaded: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""As go-libp2p has it. Reading such a key and checking a signature takes 0.7 ms at most."""
_MAX_RSA_EXPONENT = 2**31 - 1
_MAX_KEY = 2048
"""Bytes of a key in its protobuf form; one of 8,192 bits has 1,069."""

_RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")
"""AlgorithmIdentifier of RFC 8017, A.1: rsaEncryption, with NULL for parameters."""
_EC_PREFIXES = {
    "secp256r1": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    "secp384r1": bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
    "secp521r1": bytes.fromhex("30819b301006072a8648ce3d020106052b8104002303818600"),
}
"""A SubjectPublicKeyInfo of RFC 5480 up to the point, by curve."""
_EC_POINTS = {"secp256r1": 65, "secp384r1": 97, "secp521r1": 133}
"""Bytes of an uncompressed point."""

_ED25519_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDERS = frozenset((0, 1, _ED25519_PRIME - 1, _ORDER_8, _ED25519_PRIME - _ORDER_8))
"""y of the eight points whose order is 8 or less: under such a key anybody signs anything."""

_INTEGER, _BIT_STRING, _SEQUENCE = 0x02, 0x03, 0x30


class KeyType(IntEnum):
    """libp2p's numbers."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; :func:`decode_public_key` makes it."""

    type: KeyType
    data: bytes
    """Ed25519: 32 bytes. secp256k1: the compressed point, 33 bytes. RSA and ECDSA: DER of a
    SubjectPublicKeyInfo."""
    _loaded: _Loaded = field(repr=False, compare=False)

    def encode(self) -> bytes:
        """libp2p's protobuf form, of which a peer ID is made."""
        return pb.PublicKey(type=self.type.name, data=self.data).SerializeToString()

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the owner of the key has signed `data`; never raises.

        Ed25519 as RFC 8032; RSA with PKCS #1 v1.5 and SHA-256; the others ECDSA with SHA-256 and
        the signature in DER.
        """
        try:
            if isinstance(self._loaded, Ed25519PublicKey):
                self._loaded.verify(signature, data)
            else:
                _verify_slowly(self._loaded, signature, data)
        except InvalidSignature:
            return False
        return True


def _verify_slowly(
    key: RSAPublicKey | EllipticCurvePublicKey, signature: bytes, data: bytes
) -> None:
    # What hardly any peer has is not loaded by all.
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), SHA256())
    else:
        key.verify(signature, data, ec.ECDSA(SHA256()))


def is_weak_point(point: bytes) -> bool:
    """Whether 32 bytes are, as a point of Ed25519, of small order or not in canonical form."""
    y = int.from_bytes(point, "little") & (1 << 255) - 1
    return y >= _ED25519_PRIME or y in _SMALL_ORDERS


def ed25519_public_key(data: bytes) -> PublicKey:
    """The key of 32 bytes.

    Raises:
        ValueError: there are fewer or more; or it is a point of small order, which is nobody's
            key, or written in other than its one way (RFC 8032, section 5.1.3), so that it would
            have two peer IDs.
    """
    if is_weak_point(data):
        raise ValueError("a point that is no key, or not in its canonical form")
    return PublicKey(KeyType.ED25519, data, Ed25519PublicKey.from_public_bytes(data))


def decode_public_key(data: bytes) -> PublicKey:
    """Read a key in libp2p's protobuf form.

    Raises:
        RemoteProtocolError: it is none, of a type or size that is not supported, or written
            otherwise than :meth:`PublicKey.encode` does.
    """
    key = _decode(data)
    if key.encode() != data:
        raise RemoteProtocolError("a public key in another form than the one it has")
    return key


def _decode(data: bytes) -> PublicKey:
    message = parse_message(pb.PublicKey(), data, "the public key", limit=_MAX_KEY)
    if not message.HasField("type") or not message.HasField("data"):
        raise RemoteProtocolError("a public key without type or data")
    try:
        match message.type:
            case KeyType.ED25519:
                return ed25519_public_key(message.data)
            case KeyType.SECP256K1:
                return PublicKey(KeyType.SECP256K1, message.data, _load_secp256k1(message.data))
            case KeyType.RSA:
                return PublicKey(KeyType.RSA, message.data, _load_rsa(message.data))
            case KeyType.ECDSA:
                return PublicKey(KeyType.ECDSA, message.data, _load_ecdsa(message.data))
    except ValueError as error:
        raise RemoteProtocolError(f"unusable {KeyType(message.type).name} key: {error}") from None
    raise RemoteProtocolError(f"a public key of the unknown type {message.type}")


def _load_secp256k1(data: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(data) != 33:  # a compressed point: its other form would be another peer ID
        raise ValueError(f"{len(data)} bytes, 33 are expected")
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)


def _load_ecdsa(data: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: dict[str, type[ec.EllipticCurve]] = {
        "secp256r1": ec.SECP256R1,
        "secp384r1": ec.SECP384R1,
        "secp521r1": ec.SECP521R1,
    }
    for name, prefix in _EC_PREFIXES.items():
        point = data[len(prefix) :]
        if data.startswith(prefix) and len(point) == _EC_POINTS[name] and point[0] == 4:
            return ec.EllipticCurvePublicKey.from_encoded_point(curves[name](), point)
    raise ValueError("not an uncompressed point of P-256, P-384 or P-521")


def _load_rsa(data: bytes) -> RSAPublicKey:
    """Read a SubjectPublicKeyInfo with an RSAPublicKey (RFC 8017, A.1.1)."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    info = _whole(data, _SEQUENCE)
    if not info.startswith(_RSA_ALGORITHM):
        raise ValueError("the algorithm is another one")
    bits = _whole(info[len(_RSA_ALGORITHM) :], _BIT_STRING)
    if bits[:1] != b"\0":
        raise ValueError("the key does not end with a byte")
    modulus, rest = _element(_whole(bits[1:], _SEQUENCE), _INTEGER)
    n, e = _positive(modulus), _positive(_whole(rest, _INTEGER))
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS or n % 2 == 0:
        raise ValueError(f"a modulus of {n.bit_length()} bits")
    if not 3 <= e <= _MAX_RSA_EXPONENT or e % 2 == 0:
        raise ValueError("the public exponent is not an odd number from 3 to 2**31-1")
    return rsa.RSAPublicNumbers(e, n).public_key()


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the DER element (X.690, 10.1) that `data` begins with, and what follows."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("another element of DER is expected")
    length, start = data[1], 2
    if length >= 0x80:
        count = length & 0x7F
        start += count
        length = int.from_bytes(data[2:start], "big")
        # Two bytes are enough for the largest key; the shortest form only.
        if not 1 <= count <= 2 or length < 0x80 or (count == 2 and length < 0x100):
            raise ValueError("a length that is not DER")
    if len(data) - start < length:
        raise ValueError("DER is cut short")
    return data[start : start + length], data[start + length :]


def _whole(data: bytes, tag: int) -> bytes:
    content, rest = _element(data, tag)
    if rest:
        raise ValueError("bytes after the end of DER")
    return content


def _positive(content: bytes) -> int:
    if not content or content[0] >= 0x80 or (content[0] == 0 and content[1:2] < b"\x80"):
        raise ValueError("not a positive integer in its shortest form")
    return int.from_bytes(content, "big")
