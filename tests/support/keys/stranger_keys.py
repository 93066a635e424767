"""Keys of peers that are not ours: every type that libp2p knows, made by another library."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lattica.nat.base.wire import encode_length_prefixed

KINDS = ("ed25519", "secp256k1", "ecdsa", "ecdsa-384", "ecdsa-521", "rsa")
_NUMBERS = {"rsa": 0, "ed25519": 1, "secp256k1": 2, "ecdsa": 3}
_CURVES: dict[str, type[Any]] = {
    "secp256k1": ec.SECP256K1,
    "ecdsa": ec.SECP256R1,
    "ecdsa-384": ec.SECP384R1,
    "ecdsa-521": ec.SECP521R1,
}


def encoded_key(number: int, data: bytes) -> bytes:
    """libp2p's protobuf form, by hand."""
    return b"\x08" + bytes((number,)) + b"\x12" + encode_length_prefixed(data)


@dataclass(frozen=True)
class StrangerKey:
    kind: str
    private: Any

    @property
    def data(self) -> bytes:
        public = self.private.public_key()
        if self.kind == "ed25519":
            return public.public_bytes_raw()
        if self.kind == "secp256k1":
            return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def encoded(self) -> bytes:
        return encoded_key(_NUMBERS[self.kind.partition("-")[0]], self.data)

    def sign(self, data: bytes) -> bytes:
        if self.kind == "ed25519":
            return self.private.sign(data)
        if self.kind == "rsa":
            return self.private.sign(data, padding.PKCS1v15(), SHA256())
        return self.private.sign(data, ec.ECDSA(SHA256()))


@cache
def stranger_key(kind: str) -> StrangerKey:
    """A key of one of :data:`KINDS`."""
    if kind == "ed25519":
        return StrangerKey(kind, ed25519.Ed25519PrivateKey.generate())
    if kind == "rsa":
        return StrangerKey(kind, rsa.generate_private_key(65537, 2048))
    return StrangerKey(kind, ec.generate_private_key(_CURVES[kind]()))
