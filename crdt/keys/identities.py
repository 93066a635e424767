"""Identities by their keys, and by the peer IDs that say them."""

from __future__ import annotations

from lattica.crdt.keys.strict_ed25519 import load_key
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, as_peer_id
from lattica.nat.base.keys.public_keys import decode_public_key, ed25519_public_key


def identity_key(identity: PeerId | str | bytes) -> bytes:
    """The 32 bytes of an identity's Ed25519 key: of a peer ID, its text, or themselves.

    Raises:
        LocalProtocolError: it is no Ed25519 key.
        AddressError: it is no peer ID, nor a text of one.
    """
    try:
        if isinstance(identity, bytes):
            return load_key(identity).data
        multihash = as_peer_id(identity).to_bytes()
        if multihash[:1] == b"\0":  # the key itself, and not its hash
            key = decode_public_key(multihash[2:]).data
            return load_key(key).data
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"{identity!r} is no identity: {error}") from None
    raise LocalProtocolError(f"{identity} does not say its key: only those of Ed25519 do")


def peer_of(key: bytes) -> PeerId:
    """The peer ID of an identity. Raises ValueError for what is no key."""
    return PeerId.from_public_key(ed25519_public_key(key))
