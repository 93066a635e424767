"""Peer IDs: the hash of a peer's public key, or a short key itself, and how they are written.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md "Peer Ids".
"""

from __future__ import annotations

import base64
import hashlib

import base58

from lattica.nat.base.checks import with_type
from lattica.nat.base.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.public_keys import PublicKey

_MAX_INLINED = 42
"""Bytes of a key in its protobuf form up to which it is not hashed: Ed25519 and secp256k1."""
_MAX_TEXT = 200
_IDENTITY = b"\x00"
_SHA256 = b"\x12\x20"
_CID = b"\x01\x72"
"""CIDv1 of the codec libp2p-key."""


class PeerId:
    """A peer's public name: a multihash of its public key.

    `str()` is the base58 form (`12D3KooW…`, `Qm…`). An ID equals that text and hashes like it, so
    that a list of texts may be asked for an ID; it equals no other form.
    Raises :class:`~lattica.errors.AddressError` for bytes that are no peer ID.
    """

    __slots__ = ("_bytes", "_text")

    def __init__(self, multihash: bytes) -> None:
        sha256 = multihash[:2] == _SHA256 and len(multihash) == 34
        length = len(multihash) - 2
        inlined = 0 < length <= _MAX_INLINED and multihash[:2] == bytes((0, length))
        if not (sha256 or inlined):
            raise AddressError(f"{len(multihash)} bytes that are not a peer ID")
        self._bytes = bytes(multihash)
        self._text = ""

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        """The peer ID of the owner of a key."""
        encoded = key.encode()
        if len(encoded) <= _MAX_INLINED:
            return cls(_IDENTITY + bytes((len(encoded),)) + encoded)
        return cls(_SHA256 + hashlib.sha256(encoded).digest())

    @classmethod
    def from_base58(cls, text: str) -> PeerId:
        """Read the base58 form.

        Raises:
            AddressError: it is no peer ID.
        """
        if len(text) > _MAX_TEXT:
            raise AddressError(f"not a peer ID: a text of {len(text)} characters")
        try:
            return cls(base58.b58decode(text))
        except ValueError:  # AddressError is one, too
            raise AddressError(
                f"{text!r} is not a peer ID (expected one like 12D3KooW… or Qm…)"
            ) from None

    def to_bytes(self) -> bytes:
        """The multihash, as peers write it in messages."""
        return self._bytes

    def to_base58(self) -> str:
        """`12D3KooW…` for Ed25519, `Qm…` for long keys."""
        if not self._text:
            self._text = base58.b58encode(self._bytes).decode()
        return self._text

    def to_cid(self) -> str:
        """The CIDv1 form, `bafz…`, in base32."""
        return "b" + base64.b32encode(_CID + self._bytes).decode().rstrip("=").lower()

    __str__ = to_base58

    def __repr__(self) -> str:
        return f"PeerId({self})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PeerId):
            return self._bytes == other._bytes
        return str(self) == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))


def parse_peer_id(text: str) -> PeerId:
    """Parse a peer ID (`12D3Koo…`, `Qm…` or CIDv1).

    Raises:
        AddressError: it is no peer ID.
    """
    text = text.strip()
    if text.startswith(("1", "Qm")) or not 0 < len(text) <= _MAX_TEXT:
        return PeerId.from_base58(text)
    raw = _from_cid(text)
    return PeerId.from_base58(text) if raw is None else PeerId(raw)


def as_peer_id(peer: PeerId | str) -> PeerId:
    """A peer ID, or the one that its text says.

    Raises:
        AddressError: it is none, nor a text of one.
    """
    if isinstance(peer, PeerId):
        return peer
    if isinstance(peer, str):
        return parse_peer_id(peer)
    raise AddressError(
        f"not a peer ID: {with_type(peer)}; pass a PeerId or its text, as by str(peer)"
    )


def decode_peer_id(data: bytes) -> PeerId:
    """Check a binary peer ID from a peer.

    Raises:
        RemoteProtocolError: it is none.
    """
    try:
        return PeerId(data)
    except AddressError as error:
        raise RemoteProtocolError(str(error)) from None


def _from_cid(text: str) -> bytes | None:
    """The multihash in a CID of a key, in one of the usual bases; None where it is none."""
    base, digits = text[:1], text[1:]
    if not (digits.isascii() and digits.isalnum()):
        return None
    try:
        match base:
            case "b" | "B":
                raw = base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
            case "k" | "K":
                number = int(digits, 36)
                raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
            case "z":
                raw = base58.b58decode(digits)
            case "f" | "F":
                raw = bytes.fromhex(digits)
            case _:
                return None
    except ValueError:
        return None
    return raw[2:] if raw[:2] == _CID else None
