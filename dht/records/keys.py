"""Where a record is: keys as users write them, and as they are on the wire. Pure.

A key of a value is any text or bytes. One that begins with `/p2p/ID/` belongs to the peer of that
ID, and nobody else can write it; under every other key each owner has values of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import base58

from lattica.nat.base.checks import check_several
from lattica.nat.base.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id

KeyLike: TypeAlias = str | bytes

VALUE = b"/lattica-value/"
PEER = b"/lattica-peer/"
CONTENT = b"/lattica-content/"
_OWNED = b"/p2p/"
_SHA256 = b"\x12\x20"
_CID_RAW = b"\x01\x55"
MAX_USER_KEY = 256
"""Bytes of a key as users write it."""


def key_bytes(key: KeyLike, what: str = "a key") -> bytes:
    """Raises :class:`~lattica.errors.LocalProtocolError` for what is no text or bytes, or is empty
    or too long.
    """
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError:
            raise LocalProtocolError(f"{what} is text that UTF-8 has, not {key!a:.100}") from None
    if not isinstance(key, bytes):
        raise LocalProtocolError(f"{what} is text or bytes, not {type(key).__name__}")
    if not 0 < len(key) <= MAX_USER_KEY:
        raise LocalProtocolError(f"{what} has 1 to {MAX_USER_KEY} bytes, not {len(key)}")
    return key


def several_keys(keys: Iterable[KeyLike]) -> list[KeyLike]:
    """Raises LocalProtocolError for a single key, and what :func:`key_bytes` does for each."""
    check_several("keys", keys, "several texts or bytes")
    found = [*keys]
    for key in found:
        key_bytes(key)
    return found


def key_text(key: KeyLike) -> str:
    """A key as people are shown it: text in quotes, the hash of some content as the CID of that
    (v1, raw), other bytes in hexadecimal. At most 80 characters of it.
    """
    if isinstance(key, bytes):
        if len(key) == len(_SHA256) + hashlib.sha256().digest_size and key.startswith(_SHA256):
            return "b" + base64.b32encode(_CID_RAW + key).decode().rstrip("=").lower()
        try:
            return f"{key.decode()!r:.80}"
        except UnicodeDecodeError:
            return f"0x{key.hex():.78}"
    return f"{key!r:.80}"


def value_key(key: KeyLike) -> bytes:
    """The wire's key of a value. Raises what :func:`key_bytes` does."""
    wire = VALUE + key_bytes(key)
    try:
        owner_of_key(wire)
    except RemoteProtocolError as error:
        raise LocalProtocolError(str(error)) from None
    return wire


def owner_of_key(wire: bytes) -> PeerId | None:
    """Whose the key of a value is; None: anybody's.

    Raises:
        RemoteProtocolError: it begins with `/p2p/`, but no peer ID follows.
    """
    key = wire.removeprefix(VALUE)
    if not key.startswith(_OWNED):
        return None
    text, slash, _ = key.removeprefix(_OWNED).partition(b"/")
    try:
        if slash:
            return PeerId.from_base58(text.decode("ascii"))
    except (AddressError, UnicodeDecodeError):
        pass
    raise RemoteProtocolError("a key /p2p/ID/… has a peer ID, in its base58 form, and a name")


def peer_key(peer_id: PeerId) -> bytes:
    """The wire's key of a peer's record of its own addresses."""
    return PEER + peer_id.to_bytes()


def peer_of_key(wire: bytes) -> PeerId:
    """Raises RemoteProtocolError: it is no peer's."""
    return decode_peer_id(wire.removeprefix(PEER))


def content_key(data: bytes) -> bytes:
    """The wire's key of data that is found by its hash."""
    return CONTENT + _SHA256 + hashlib.sha256(data).digest()


def provider_key(key: KeyLike) -> bytes:
    """The wire's key of providers: the multihash of a CID (given in its binary form, or as text:
    `b…`, `z…`, and `Qm…` of version 0), and for everything else that of the key itself, so that
    other implementations take it.
    """
    raw = key_bytes(key)
    multihash = _multihash_of_text(key) if isinstance(key, str) else _multihash(raw)
    return multihash or _SHA256 + hashlib.sha256(raw).digest()


def _multihash_of_text(text: str) -> bytes | None:
    if not 45 < len(text) < 120:
        return None
    try:
        if text.startswith("Qm"):
            return _multihash(base58.b58decode(text))
        if text.startswith("z"):
            return _multihash(base58.b58decode(text[1:]))
        if text.startswith("b"):
            return _multihash(base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8)))
    except (binascii.Error, ValueError):
        pass
    return None


def _multihash(raw: bytes) -> bytes | None:
    """That of a binary CIDv1 with SHA-256 (any codec below 128), or of a bare multihash."""
    if len(raw) == 36 and raw[:1] == b"\x01" and raw[1] < 0x80 and raw[2:4] == _SHA256:
        return raw[2:]
    return raw if len(raw) == 34 and raw[:2] == _SHA256 else None
