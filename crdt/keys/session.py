"""Session keys: what writes entries for an identity, one for each store directory.

A store that comes back from a backup does not know what it wrote since. It begins a session of its
own, so that nobody signs two entries at one place of a chain, and keeps its rights, which are the
identity's. The certificate is the payload of the first entry of each chain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, SIGNATURE_BYTES, load_key, verifies
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import Identity

CONTEXT: Final = b"lattica/crdt/session/v1\0"
_MAX_CERTIFICATE: Final = 128 + 12 * 1024
_MAX_APPOINTMENTS: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class SessionCertificate:
    """An identity's word that a session key writes for it, in one document."""

    identity: bytes
    """The identity's Ed25519 key, 32 bytes."""
    signature: bytes
    """The identity's, of `CONTEXT`, the document's ID and the session key."""
    capability: bytes = b""
    """By which the identity may write, in documents where that is shown; checked elsewhere."""
    appointments: bytes = b""
    """By which the identity owns the document; checked elsewhere."""

    def encode(self) -> bytes:
        """`[identity, signature]`, and the capability if there is one, and appointments, with a
        capability that may be empty; canonical.
        """
        if self.appointments:
            return encode([self.identity, self.signature, self.capability, self.appointments])
        if self.capability:
            return encode([self.identity, self.signature, self.capability])
        return encode([self.identity, self.signature])


def decode_certificate(data: bytes, doc_id: bytes, author: bytes) -> SessionCertificate:
    """Read the certificate of the session key `author`, and verify it.

    Raises:
        RemoteProtocolError: it is none, or not signed by the identity that it names.
    """
    capability = appointments = b""
    match decode(data, _MAX_CERTIFICATE + _MAX_APPOINTMENTS):
        case [bytes(identity), bytes(signature)]:
            pass
        case [bytes(identity), bytes(signature), bytes(capability)] if capability:
            pass
        case [
            bytes(identity),
            bytes(signature),
            bytes(capability),
            bytes(appointments),
        ] if appointments:
            pass
        case _:
            raise RemoteProtocolError("not a session's certificate")
    if len(data) - len(appointments) > _MAX_CERTIFICATE or len(appointments) > _MAX_APPOINTMENTS:
        raise RemoteProtocolError("a session's certificate that is too long")
    if len(identity) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise RemoteProtocolError("not a session's certificate")
    load_key(identity)
    if not is_vouched(identity, signature, doc_id, author):
        raise RemoteProtocolError("a session's certificate that its identity has not signed")
    return SessionCertificate(identity, signature, capability, appointments)


def is_vouched(identity: bytes, signature: bytes, doc_id: bytes, author: bytes) -> bool:
    """Whether an identity has signed that a session key is its own, in a document."""
    return verifies(identity, signature, CONTEXT + doc_id + author)


class SessionKey(InProcess):
    """The private key that signs a store's entries.

    Args:
        seed: 32 bytes; raises :class:`ValueError` for another number of them.
    """

    instead = "it holds a private key, and two stores with one key would contradict each other"

    __slots__ = ("_private_key", "author")

    def __init__(self, seed: bytes) -> None:
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self.author: bytes = self._private_key.public_key().public_bytes_raw()
        """The public key, 32 bytes: the author of its entries."""

    @classmethod
    def generate(cls) -> SessionKey:
        """A new random key."""
        return cls(os.urandom(32))

    @property
    def seed(self) -> bytes:
        """The private key."""
        return self._private_key.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `data`."""
        return self._private_key.sign(data)

    def certificate(
        self,
        identity: Identity,
        doc_id: bytes,
        capability: bytes = b"",
        appointments: bytes = b"",
    ) -> SessionCertificate:
        """Have `identity` vouch for this key in a document."""
        signature = identity.sign(CONTEXT + doc_id + self.author)
        return SessionCertificate(identity.public_key.data, signature, capability, appointments)
