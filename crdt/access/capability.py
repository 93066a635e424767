"""Capabilities: signed chains of links, from an owner to whoever holds the right.

A link is `[1, doc_id, parent, issuer, subject, level, prefix, expires, depth, issued]`: the ID of
the link before or nil, identity keys, a :class:`Level`, what names have to begin with, milliseconds
since 1970 or nil, how many links may follow, and when it was made, so that a right that is given
again is another one. Its ID is the SHA-256 of `ID_CONTEXT` and its canonical
bytes, its signature the issuer's of `SIGNATURE_CONTEXT` and these. A capability is `[[link,
signature], …]`, an owner's link first. Each is at most what the one before allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.keys.identities import identity_key
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, load_key, verifies
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId

ID_CONTEXT: Final = b"lattica/crdt/capability-id/v1\0"
SIGNATURE_CONTEXT: Final = b"lattica/crdt/capability/v1\0"
VERSION: Final = 1
MAX_LINKS: Final = 8
MAX_PREFIX: Final = 1024
"""Bytes of UTF-8."""
MAX_CAPABILITY: Final = 12 * 1024
"""Bytes."""
_MAX_LINK: Final = 1400
_MAX_TIME: Final = 2**48


class Level(IntEnum):
    """What a right is for; each has those before in it."""

    PULL = 1
    """To have a sealed document and pass it on, and read nothing of it. Gives nothing in others."""
    READ = 2
    WRITE = 3
    MANAGE = 4
    """Also to give rights to others."""


def check_level(level: object) -> None:
    """Raises LocalProtocolError for what is none."""
    if level not in tuple(Level):
        levels = ", ".join(f"Level.{each.name}" for each in Level)
        raise LocalProtocolError(f"a right is one of {levels}, not {level!r}")


@dataclass(frozen=True, slots=True)
class Link:
    """One identity's word that another one has a right."""

    doc_id: bytes
    parent: bytes | None
    """The ID of the link by which the issuer may say so; None: it is an owner."""
    issuer: bytes
    subject: bytes
    level: Level
    prefix: str = ""
    """What names have to begin with that are written at."""
    expires: int | None = None
    """Milliseconds since 1970, by the times of entries."""
    depth: int = 0
    """Links that may follow."""
    issued: int = 0
    """Milliseconds since 1970, as the issuer says."""
    encoded: bytes = field(init=False, compare=False, repr=False)
    id: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        encoded = encode(
            [
                VERSION,
                self.doc_id,
                self.parent,
                self.issuer,
                self.subject,
                int(self.level),
                self.prefix,
                self.expires,
                self.depth,
                self.issued,
            ]
        )
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "id", hashlib.sha256(ID_CONTEXT + encoded).digest())


@dataclass(frozen=True, slots=True)
class Capability:
    """A right, and why its holder has it. Made by :func:`decode_capability` or :func:`issue`."""

    links: tuple[Link, ...]
    signatures: tuple[bytes, ...]

    @property
    def right(self) -> Link:
        """The last link, which says what the right is and whose."""
        return self.links[-1]

    def encode(self) -> bytes:
        """The canonical bytes."""
        pairs = zip(self.links, self.signatures, strict=True)
        return encode([[link.encoded, signature] for link, signature in pairs])


def issue(
    identity: Identity,
    doc_id: bytes,
    subject: PeerId | str | bytes,
    level: Level,
    *,
    parent: Capability | None = None,
    prefix: str = "",
    expires: int | None = None,
    depth: int = 0,
    issued: int = 0,
) -> Capability:
    """Give a right to a peer: as an owner, or by a capability of one's own.

    Raises:
        LocalProtocolError: it would be more than the parent allows, or is none.
    """
    before = parent.right if parent is not None else None
    if before is not None and before.expires is not None:
        expires = before.expires if expires is None else min(expires, before.expires)
    issuer, key = identity.public_key.data, identity_key(subject)
    parent_id = before.id if before else None
    link = Link(doc_id, parent_id, issuer, key, level, prefix, expires, depth, issued)
    try:
        _check(link, before)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"a right that cannot be given: {error}") from None
    signature = identity.sign(SIGNATURE_CONTEXT + link.encoded)
    if parent is None:
        return Capability((link,), (signature,))
    if len(parent.links) >= MAX_LINKS:
        raise LocalProtocolError(f"a right that has been passed on {MAX_LINKS} times")
    return Capability((*parent.links, link), (*parent.signatures, signature))


def decode_capability(
    data: bytes, doc_id: bytes, owners: Collection[bytes] | None = None
) -> Capability:
    """Read a capability for a document, and verify it. `owners` are those of whom it may come; if
    it does not say, who that is remains to be looked at.

    Raises:
        RemoteProtocolError: it is none, or more than its issuers may give.
    """
    match decode(data, MAX_CAPABILITY):
        case [_, *_] as pairs if len(pairs) <= MAX_LINKS:
            pass
        case _:
            raise RemoteProtocolError("not a capability")
    links: list[Link] = []
    signatures: list[bytes] = []
    for pair in pairs:
        match pair:
            case [bytes(encoded), bytes(signature)]:
                link = _decode_link(encoded, doc_id)
            case _:
                raise RemoteProtocolError("not a link of a capability")
        _check(link, links[-1] if links else None)
        if not verifies(link.issuer, signature, SIGNATURE_CONTEXT + encoded):
            raise RemoteProtocolError("a capability that its issuer has not signed")
        links.append(link)
        signatures.append(signature)
    if owners is not None and links[0].issuer not in owners:
        raise RemoteProtocolError("a capability that comes from no owner")
    return Capability(tuple(links), tuple(signatures))


def _decode_link(data: bytes, doc_id: bytes) -> Link:
    match decode(data, _MAX_LINK):
        case [
            1,
            bytes(of),
            bytes() | None as parent,
            bytes(issuer),
            bytes(subject),
            int(level),
            str(prefix),
            int() | None as expires,
            int(depth),
            int(issued),
        ] if of == doc_id and level in list(Level):
            link = Link(
                of, parent, issuer, subject, Level(level), prefix, expires, int(depth), int(issued)
            )
        case _:
            raise RemoteProtocolError("not a link of a capability for this document")
    if link.encoded != data:
        raise RemoteProtocolError("a link of a capability in another form than its one")
    return link


def _check(link: Link, before: Link | None) -> None:
    """Raises RemoteProtocolError for what cannot be, or is more than the link before allows."""
    for key in (link.issuer, link.subject):
        if len(key) != KEY_BYTES:
            raise RemoteProtocolError("an identity of a capability that is no key")
        load_key(key)
    if len(link.prefix.encode()) > MAX_PREFIX or not 0 <= link.depth < MAX_LINKS:
        raise RemoteProtocolError("a prefix or depth of a capability out of range")
    times = (link.issued, 0 if link.expires is None else link.expires)
    if not all(0 <= time < _MAX_TIME for time in times):
        raise RemoteProtocolError("a time of a capability out of range")
    if before is None:
        if link.parent is not None:
            raise RemoteProtocolError("a capability that begins in the middle")
        return
    if link.parent != before.id or link.issuer != before.subject:
        raise RemoteProtocolError("a capability with a link that does not fit")
    expires = before.expires
    is_longer = expires is not None and (link.expires is None or link.expires > expires)
    if (
        before.level is not Level.MANAGE
        or link.depth >= before.depth
        or not link.prefix.startswith(before.prefix)
        or is_longer
    ):
        raise RemoteProtocolError("a capability that gives more than its issuer has")
