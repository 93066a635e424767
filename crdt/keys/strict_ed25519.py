"""Ed25519 of which nobody can have two opinions.

RFC 8032 leaves open whether keys and points of small order are taken, and under such a key one
signature is valid for every message. Two replicas that disagree about a signature disagree about
the state for ever. So, as ed25519-dalek's `verify_strict`: canonical encodings only, neither the
key nor R of small order, S below the order of the group, and the equation without the cofactor.

Source: RFC 8032, section 5.1.7; K. Chalkias, F. Garillot and V. Nikolaenko, "Taming the many
EdDSAs" (2020), whose edge cases are the test vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.public_keys import PublicKey, ed25519_public_key, is_weak_point

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493


@lru_cache(maxsize=4096)
def load_key(data: bytes) -> PublicKey:
    """The key of 32 bytes.

    Raises:
        RemoteProtocolError: there are fewer or more, or it is of small order or not canonical.
    """
    if len(data) != KEY_BYTES:
        raise RemoteProtocolError(f"an Ed25519 key of {len(data)} bytes, not {KEY_BYTES}")
    try:
        return ed25519_public_key(data)
    except ValueError as error:
        raise RemoteProtocolError(f"an Ed25519 key: {error}") from None


def verifies(key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's for `data`; what is no key has signed nothing."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    # That the library compares R as bytes, and S with the order, is not left to its version.
    if is_weak_point(signature[:32]) or int.from_bytes(signature[32:], "little") >= _ORDER:
        return False
    try:
        return load_key(key).verify(data, signature)
    except RemoteProtocolError:
        return False
