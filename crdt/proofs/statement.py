"""A signed state root: what a replica says that its state was, at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.keys.session import SessionCertificate, SessionKey, decode_certificate
from lattica.crdt.keys.strict_ed25519 import verifies
from lattica.nat.base.errors import RemoteProtocolError

SIGNATURE_CONTEXT: Final = b"lattica/crdt/state/v1\0"
HEADS_CONTEXT: Final = b"lattica/crdt/heads/v1\0"
MAX_STATEMENT: Final = 1024
"""Bytes of a signed statement."""
_HASH: Final = 32


def heads_fingerprint(heads: Iterable[tuple[bytes, int, bytes]]) -> bytes:
    """The hash that stands for which entries a replica has admitted: of author, number of entries
    and the newest one's ID, of all authors who have some.
    """
    digest = hashlib.sha256(HEADS_CONTEXT)
    for author, length, newest in sorted(heads):
        digest.update(author + length.to_bytes(8, "big") + newest)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of a document."""

    doc_id: bytes
    heads: bytes
    """:func:`heads_fingerprint` of the entries that it is the state of."""
    root: bytes
    """That of the tree; empty if whoever says so cannot read all of a sealed document."""
    entries: int
    """How many were admitted."""
    time: int
    """Milliseconds since 1970, by the clock of whoever says so."""

    @property
    def state(self) -> tuple[bytes, bytes, int]:
        """What all say alike who have the same."""
        return self.heads, self.root, self.entries

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode([1, self.doc_id, self.heads, self.root, self.entries, self.time])


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, and who has signed it."""

    statement: Statement
    author: bytes
    """The session key."""
    signature: bytes
    certificate: SessionCertificate
    """By which the identity vouches for the session key."""

    @property
    def plain(self) -> list[Plain]:
        """What of it is encoded: `[statement, author, signature, certificate]`."""
        certificate = self.certificate.encode()
        return [self.statement.encode(), self.author, self.signature, certificate]


def sign_statement(
    statement: Statement, session: SessionKey, certificate: SessionCertificate, of: bytes = b""
) -> SignedStatement:
    """Sign what is said; the certificate is the session's, for the document. `of` is the hash of
    what it is said about, if that is more than the statement itself.
    """
    signature = session.sign(SIGNATURE_CONTEXT + statement.encode() + of)
    return SignedStatement(statement, session.author, signature, certificate)


def is_of_another(encoded: bytes, doc_id: bytes) -> bool:
    """Whether a statement that is not verified yet is of another document. Raises
    RemoteProtocolError if it is none.
    """
    match decode(encoded, MAX_STATEMENT):
        case [1, bytes(document), *_]:
            return document != doc_id
    return False


def read_statement(
    value: Plain, doc_id: bytes, of: bytes = b"", *, needs_root: bool = True
) -> SignedStatement:
    """A signed statement of a document from its plain form, verified; see :func:`sign_statement`.

    Raises:
        RemoteProtocolError: it is none, of another document, or not signed by whom it names; or it
            has no root, and needs one.
    """
    match value:
        case [bytes(encoded), bytes(author), bytes(signature), bytes(certificate)]:
            pass
        case _:
            raise RemoteProtocolError("not a signed statement")
    vouched = decode_certificate(certificate, doc_id, author)
    if not verifies(author, signature, SIGNATURE_CONTEXT + encoded + of):
        raise RemoteProtocolError("a statement that is not signed by whom it names")
    match decode(encoded, MAX_STATEMENT):
        case [1, bytes(document), bytes(heads), bytes(root), entries, time] if (
            len(heads) == _HASH
            and (len(root) == _HASH or (not root and not needs_root))
            and type(entries) is int
            and type(time) is int
            and entries >= 0
            and time >= 0
        ):
            pass
        case _:
            raise RemoteProtocolError("not a statement of version 1")
    statement = Statement(document, heads, root, entries, time)
    if document != doc_id or statement.encode() != encoded:  # `true` is an int, too
        raise RemoteProtocolError("a statement about another document")
    return SignedStatement(statement, author, signature, vouched)
