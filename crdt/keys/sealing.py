"""What only readers can read: payloads under a document's read key, and that key for each reader.

A read key is 32 random bytes, and its ID the first 16 of `H("lattica/crdt/read-key/v1\\0" ‖ doc_id
‖ key)`, H being SHA-256, so a key is the one that is meant or none. A sealed payload is

    ID of the read key ‖ salt (16) ‖ commitment (16) ‖ ChaCha20-Poly1305(entry key, 0, payload)

with `entry key = H("lattica/crdt/entry-key/v1\\0" ‖ doc_id ‖ read key ‖ author ‖ u8(kind) ‖ salt)`,
of which the commitment is the first 16 bytes of `H("lattica/crdt/entry-key-id/v1\\0" ‖ entry key)`:
no entry of others has it, whoever is given it reads this entry alone, and none other fits.

A read key is sealed to an identity by X25519, with a key pair for the occasion and the identity's
Ed25519 key as the point of Curve25519 that it is (RFC 7748, section 4.1). That is safe beside its
use for signatures: E. Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM"
(2021).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

KEY_ID_BYTES: Final = 16
READ_KEY_BYTES: Final = 32
BOX_BYTES: Final = READ_KEY_BYTES + 16
"""A read key that is sealed."""
SEALED_BYTES: Final = KEY_ID_BYTES + 16 + 16 + 16
"""By which a sealed payload is longer."""
_SALT: Final = 16
_COMMITMENT: Final = 16
_PRIME: Final = 2**255 - 19
_ONCE: Final = bytes(12)
"""The nonce of keys that are used once."""


@dataclass(frozen=True, slots=True)
class ReadKey:
    """A document's, by which payloads are read and sealed."""

    doc_id: bytes
    data: bytes = field(repr=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = _hash(b"lattica/crdt/read-key/v1\0", self.doc_id, self.data)
        object.__setattr__(self, "id", digest[:KEY_ID_BYTES])

    @classmethod
    def generate(cls, doc_id: bytes) -> ReadKey:
        """A new random one."""
        return cls(doc_id, os.urandom(READ_KEY_BYTES))

    def seal(self, author: bytes, kind: int, payload: bytes, salt: bytes | None = None) -> bytes:
        """A payload as it stands in an entry; with a random salt unless for vectors."""
        salt = salt or os.urandom(_SALT)
        key = self._entry_key(author, kind, salt)
        sealed = ChaCha20Poly1305(key).encrypt(_ONCE, payload, None)
        return self.id + salt + _commitment(key) + sealed

    def entry_key(self, author: bytes, kind: int, sealed: bytes) -> bytes:
        """The key of one entry alone, for :func:`open_payload`."""
        return self._entry_key(author, kind, sealed[KEY_ID_BYTES : KEY_ID_BYTES + _SALT])

    def _entry_key(self, author: bytes, kind: int, salt: bytes) -> bytes:
        number = bytes([kind])
        parts = (self.doc_id, self.data, author, number, salt)
        return _hash(b"lattica/crdt/entry-key/v1\0", *parts)

    def box(self, other: ReadKey) -> bytes:
        """Another key of the document for whoever has this one."""
        cipher = ChaCha20Poly1305(self._linking(other.id))
        return cipher.encrypt(_ONCE, other.data, None)

    def unbox(self, key_id: bytes, box: bytes) -> ReadKey:
        """The key that a box of :meth:`box` has in it. Raises RemoteProtocolError: not this one."""
        return _opened(self.doc_id, key_id, self._linking(key_id), box)

    def _linking(self, key_id: bytes) -> bytes:
        return _hash(b"lattica/crdt/earlier-key/v1\0", self.doc_id, self.data, key_id)


def key_id_of(sealed: bytes) -> bytes:
    """The ID of the read key of a sealed payload; empty for what is none."""
    return sealed[:KEY_ID_BYTES] if len(sealed) >= SEALED_BYTES else b""


def open_payload(entry_key: bytes, sealed: bytes) -> bytes:
    """What a sealed payload says. Raises RemoteProtocolError: it is another entry's key, or it is
    no sealed payload.
    """
    start = KEY_ID_BYTES + _SALT
    if len(sealed) < SEALED_BYTES or sealed[start : start + _COMMITMENT] != _commitment(entry_key):
        raise RemoteProtocolError("a sealed payload that is not of this key")
    try:
        return ChaCha20Poly1305(entry_key).decrypt(_ONCE, sealed[start + _COMMITMENT :], None)
    except (InvalidTag, ValueError):
        raise RemoteProtocolError("a sealed payload that its author has not sealed") from None


@dataclass(frozen=True, slots=True)
class KeyBoxes:
    """A read key for some identities."""

    ephemeral: bytes
    boxes: tuple[tuple[bytes, bytes], ...]
    """Identities in order, and the key for each."""


def seal_key(key: ReadKey, identities: list[bytes], seed: bytes | None = None) -> KeyBoxes:
    """A read key for each of these; by a random key pair unless for vectors."""
    pair = X25519PrivateKey.from_private_bytes(seed or os.urandom(32))
    ephemeral = pair.public_key().public_bytes_raw()
    boxes = []
    for identity in sorted(set(identities)):
        point = montgomery_point(identity)
        try:
            shared = pair.exchange(X25519PublicKey.from_public_bytes(point))
        except ValueError:
            continue  # a point of small order: it is nobody's, who could read
        wrap = _wrapping(key.doc_id, key.id, ephemeral, point, shared)
        boxes.append((identity, ChaCha20Poly1305(wrap).encrypt(_ONCE, key.data, None)))
    return KeyBoxes(ephemeral, tuple(boxes))


def unseal_key(
    identity: Identity, doc_id: bytes, key_id: bytes, ephemeral: bytes, box: bytes
) -> ReadKey:
    """The read key that was sealed to an identity.

    Raises:
        RemoteProtocolError: something else was, whatever its author says.
    """
    # RFC 8032, section 5.1.5; X25519 clears and sets bits itself.
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(identity.seed).digest()[:32])
    point = private.public_key().public_bytes_raw()
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    except ValueError:
        raise RemoteProtocolError("a read key that is sealed with no key") from None
    return _opened(doc_id, key_id, _wrapping(doc_id, key_id, ephemeral, point, shared), box)


@lru_cache(maxsize=4096)
def montgomery_point(identity: bytes) -> bytes:
    """The u of Curve25519 of an Ed25519 key."""
    y = int.from_bytes(identity, "little") & (1 << 255) - 1
    u = (1 + y) * pow(1 - y, _PRIME - 2, _PRIME) % _PRIME
    return u.to_bytes(32, "little")


def _wrapping(doc_id: bytes, key_id: bytes, ephemeral: bytes, point: bytes, shared: bytes) -> bytes:
    return _hash(b"lattica/crdt/seal/v1\0", doc_id, key_id, ephemeral, point, shared)


def _opened(doc_id: bytes, key_id: bytes, wrap: bytes, box: bytes) -> ReadKey:
    try:
        data = ChaCha20Poly1305(wrap).decrypt(_ONCE, box, None)
    except (InvalidTag, ValueError):
        raise RemoteProtocolError(
            "a read key that is sealed to somebody else, or to nobody"
        ) from None
    key = ReadKey(doc_id, data)
    if len(data) != READ_KEY_BYTES or key.id != key_id:
        raise RemoteProtocolError("another read key than the one that is named")
    return key


def _commitment(entry_key: bytes) -> bytes:
    return _hash(b"lattica/crdt/entry-key-id/v1\0", entry_key)[:_COMMITMENT]


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
