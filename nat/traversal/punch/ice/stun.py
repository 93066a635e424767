"""The STUN messages of ICE's connectivity checks, as values and as bytes. Pure.

Source: RFC 8489 (STUN), RFC 8445 section 7 (attributes of checks). aioice's codec does the work
(and is imported with the first check: it brings mDNS and DNS);
here are the bounds and the errors. A check has all of USERNAME, PRIORITY, a role with its
tie-breaker, MESSAGE-INTEGRITY (short-term credentials, SHA-1) and FINGERPRINT.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.nat.base.errors import RemoteProtocolError

if TYPE_CHECKING:
    from aioice import stun

MAX_DATAGRAM = 1280
"""Bytes; checks have about 100."""
TRANSACTION_ID = 12
"""Bytes."""
ROLE_CONFLICT = 487

_HEADER = 20
_COOKIE = 0x2112A442.to_bytes(4, "big")
_USERNAME = 0x0006
_CLASS = 0x0110
_REQUEST, _RESPONSE, _ERROR = 0x0000, 0x0100, 0x0110
_FINGERPRINT_HEADER = b"\x80\x28\x00\x04"
"""Type and length of the attribute that comes last."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """A Binding request. Its integrity has not been looked at: see :func:`is_authentic`."""

    message: stun.Message
    transaction: bytes
    username: str
    priority: int
    controlling: bool
    tie_breaker: int
    use_candidate: bool


@dataclass(frozen=True, slots=True)
class CheckResponse:
    """What a Binding request is answered with. Its integrity has not been looked at."""

    message: stun.Message
    transaction: bytes
    error: int | None
    """The code; None of a success, which alone has `mapped`, where the request came from."""
    mapped: tuple[str, int] | None


def is_stun(datagram: bytes) -> bool:
    """Whether a datagram looks like a STUN message from its header (RFC 8489, section 5)."""
    return (
        _HEADER <= len(datagram) <= MAX_DATAGRAM
        and not datagram[0] & 0xC0
        and datagram[4:8] == _COOKIE
        and int.from_bytes(datagram[2:4], "big") == len(datagram) - _HEADER
    )


def recipient(datagram: bytes) -> str | bytes | None:
    """For whom a STUN message is, without looking closer; None if for nobody.

    A request names the receiver's username fragment first (a string); a response has only the
    transaction of its request (bytes).
    """
    if not is_stun(datagram):
        return None
    kind = int.from_bytes(datagram[:2], "big") & _CLASS
    if kind in (_RESPONSE, _ERROR):
        return datagram[8:_HEADER]
    if kind != _REQUEST:
        return None
    at = _HEADER
    while at + 4 <= len(datagram):
        attribute = int.from_bytes(datagram[at : at + 2], "big")
        size = int.from_bytes(datagram[at + 2 : at + 4], "big")
        if attribute == _USERNAME:
            name, colon, _ = datagram[at + 4 : at + 4 + size].partition(b":")
            return name.decode("ascii", "replace") if colon else None
        at += 4 + (size + 3 & ~3)
    return None


def parse(datagram: bytes) -> CheckRequest | CheckResponse:
    """Read a check or the answer to one.

    Raises:
        RemoteProtocolError: anything else, damaged, or without what ICE wants of it.
    """
    from aioice import stun

    if not is_stun(datagram):
        raise RemoteProtocolError("not a STUN message")
    try:
        message = stun.parse_message(datagram)
    except Exception as error:  # ValueError, struct.error and whatever else it stumbles over
        raise RemoteProtocolError(f"damaged STUN message: {str(error)[:100]}") from None
    if message.message_method is not stun.Method.BINDING:
        raise RemoteProtocolError("not a Binding message")
    have = message.attributes
    if datagram[-8:-4] != _FINGERPRINT_HEADER or "MESSAGE-INTEGRITY" not in have:
        raise RemoteProtocolError("a check proves its integrity and ends in a fingerprint")
    if message.message_class is stun.Class.REQUEST:
        roles = [name for name in ("ICE-CONTROLLING", "ICE-CONTROLLED") if name in have]
        if "USERNAME" not in have or "PRIORITY" not in have or len(roles) != 1:
            raise RemoteProtocolError("a check without name, priority or role")
        return CheckRequest(
            message,
            message.transaction_id,
            have["USERNAME"],
            have["PRIORITY"],
            roles[0] == "ICE-CONTROLLING",
            have[roles[0]],
            "USE-CANDIDATE" in have,
        )
    if message.message_class is stun.Class.INDICATION:
        raise RemoteProtocolError("an indication is no check")
    code = message.error_code
    if message.message_class is stun.Class.ERROR:
        if code is None:
            raise RemoteProtocolError("an error without a code")
        return CheckResponse(message, message.transaction_id, code, None)
    mapped = have.get("XOR-MAPPED-ADDRESS")
    if mapped is None or not mapped[1]:
        raise RemoteProtocolError("a success without an address")
    return CheckResponse(message, message.transaction_id, None, mapped)


def is_authentic(message: CheckRequest | CheckResponse, password: str) -> bool:
    """Whether who wrote it knows the password."""
    return message.message.check_message_integrity(password.encode())


def check(
    transaction: bytes,
    *,
    username: str,
    password: str,
    priority: int,
    controlling: bool,
    tie_breaker: int,
    use_candidate: bool,
) -> bytes:
    """A Binding request; `username` and `password` are the receiver's."""
    from aioice import stun

    attributes: dict[str, object] = {
        "USERNAME": username,
        "PRIORITY": priority,
        "ICE-CONTROLLING" if controlling else "ICE-CONTROLLED": tie_breaker,
    }
    if use_candidate:
        attributes["USE-CANDIDATE"] = None
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction, attributes)
    message.add_message_integrity(password.encode())
    return bytes(message)


def success(transaction: bytes, *, seen: tuple[str, int], password: str) -> bytes:
    """The answer to a check that came from `seen`; `password` is the sender's own."""
    from aioice import stun

    message = stun.Message(
        stun.Method.BINDING, stun.Class.RESPONSE, transaction, {"XOR-MAPPED-ADDRESS": seen}
    )
    message.add_message_integrity(password.encode())
    return bytes(message)


def role_conflict(transaction: bytes, *, password: str) -> bytes:
    """The answer to a check of somebody who claims this node's role."""
    from aioice import stun

    message = stun.Message(
        stun.Method.BINDING,
        stun.Class.ERROR,
        transaction,
        {"ERROR-CODE": (ROLE_CONFLICT, "Role Conflict")},
    )
    message.add_message_integrity(password.encode())
    return bytes(message)


def fragment(random: bytes) -> str:
    """A username fragment or password out of random bytes, in ice-chars (RFC 8839, 5.4)."""
    return binascii.b2a_base64(random, newline=False).decode().rstrip("=")
