"""A proof: what the state of a document says at a place, who wrote it, and who says that this is
the state. It is verified by a pure function, from the document's ID and the bytes alone.

What it shows, and what it cannot, is in `docs/formats/crdt-proofs.md`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.genesis import MAX_ENTRY_BYTES
from lattica.crdt.entries.header import Entry, Kind, check_entry, decode_header
from lattica.crdt.keys.identities import identity_key
from lattica.crdt.keys.sealing import READ_KEY_BYTES, open_payload
from lattica.crdt.keys.session import SessionCertificate, decode_certificate
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES
from lattica.crdt.proofs.query import Query, Scope, read_query
from lattica.crdt.proofs.statement import SignedStatement, Statement, read_statement
from lattica.crdt.tree.places import Standing, decode_standing
from lattica.crdt.tree.search_tree import MAX_PROOF as MAX_TREE_PROOF
from lattica.crdt.tree.search_tree import verify_range
from lattica.crdt.types.payloads import RegisterWrite, SetWrite, decode_write
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

MAX_PROOF: Final = 2 * MAX_TREE_PROOF
"""Bytes."""
MAX_WITNESSES: Final = 64
"""Entries that a proof has with it."""
_HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Witness:
    """The signed entry of a write that stands."""

    entry: Entry
    certificate: SessionCertificate
    """By which the identity vouches for the entry's author."""
    key: bytes = b""
    """Of an entry of a sealed document, by which it and no other is read."""

    @property
    def parts(self) -> list[bytes]:
        """Header, signature, payload, certificate, and the key if there is one."""
        entry = self.entry
        parts = [entry.header.encoded, entry.signature, entry.payload or b""]
        return [*parts, self.certificate.encode(), *([self.key] if self.key else [])]

    @property
    def payload(self) -> bytes:
        """What the entry says. Raises RemoteProtocolError: the key is that of another one."""
        payload = self.entry.payload or b""
        return open_payload(self.key, payload) if self.key else payload


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof consists of. Nothing of it is verified by having it."""

    query: Query
    root: bytes
    tree: bytes
    """The nodes on the way to the keys; see :mod:`~lattica.crdt.tree.search_tree`."""
    witnesses: tuple[Witness, ...] = ()
    statement: SignedStatement | None = None

    def encode(self) -> bytes:
        """`[1, query, root, tree, [[header, signature, payload, certificate], …], statement]`; of a
        sealed document there is the entry's key behind each certificate.

        Raises LocalProtocolError for more than `MAX_PROOF` bytes: ask for less at once.
        """
        witnesses: list[Plain] = [list[Plain](each.parts) for each in self.witnesses]
        statement = self.statement.plain if self.statement else None
        encoded = encode([1, self.query.plain, self.root, self.tree, witnesses, statement])
        if len(encoded) > MAX_PROOF:
            raise LocalProtocolError(f"a proof of more than {MAX_PROOF} bytes")
        return encoded


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote something, and when he says that he did."""

    identity: bytes
    """The Ed25519 key that vouches for the session key."""
    session: bytes
    entry_id: bytes
    hlc: int


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof shows."""

    doc_id: bytes
    root: bytes
    """Of the state of which it is shown."""
    query: Query
    value: Plain
    """What is there: of a register its value; of a counter the sum; of a set its elements, of one
    element whether it is in; of claims `[item, session key, since, until]` each; of a text or list
    `[SHA-256, bytes or elements]`; with a prefix a map by name. None, or none, for what is not."""
    is_contested: bool
    """Whether something else was written there by somebody who did not know of it."""
    authors: Mapping[bytes, Author]
    """By the ID of the entry: whose writes stand, as far as the proof has the entries."""
    statement: Statement | None
    """Who says that this is the state has signed this."""
    signer: bytes | None
    """The identity that did; None if nobody says so."""


def verify_proof(
    proof: bytes,
    doc_id: bytes | str,
    *,
    query: Query | None = None,
    root: bytes | None = None,
    signers: Collection[PeerId | str | bytes] | None = None,
) -> Proved:
    """What a proof shows of a document.

    Args:
        doc_id: the document's ID: 64 hexadecimal digits, or their 32 bytes.
        query: what it has to be about; otherwise it is as the proof says.
        root: the state's root, if it is known: from a replica of one's own, or somebody believed.
        signers: peers, or the keys of their identities, of which one has to say that this is the
            state.

    Raises:
        RemoteProtocolError: it does not show it.
        LocalProtocolError: an argument is no ID of a document, or no identity.
        AddressError: a signer's text is no peer ID.
    """
    doc_id = document_id(doc_id)
    believed = None if signers is None else [*map(identity_key, signers)]
    read = read_proof(proof, doc_id)
    if query is not None and read.query.plain != query.plain:
        raise RemoteProtocolError("the proof of something else")
    if root is not None and read.root != root:
        raise RemoteProtocolError("a proof of another state")
    signed = read.statement
    if signed is not None and signed.statement.root != read.root:
        raise RemoteProtocolError("a proof of another state than the one that is stated")
    signer = signed.certificate.identity if signed else None
    if believed is not None and signer not in believed:
        raise RemoteProtocolError("a state that nobody states who is believed")
    if signed is None and root is None:
        raise RemoteProtocolError("a proof of which nobody says that it is of the document's state")
    low, high = read.query.key_range
    found = verify_range(read.root, read.tree, low, high)
    authors = {each.entry.id: _author(each) for each in read.witnesses}
    value, standing = _value(read.query, found)
    _check_witnesses(read, standing)
    return Proved(
        doc_id,
        read.root,
        read.query,
        value,
        any(not each.is_alone for each in standing.values()),
        authors,
        signed.statement if signed else None,
        signer,
    )


def document_id(text: bytes | str) -> bytes:
    """The ID of a document, of its text or itself. Raises LocalProtocolError: it is none."""
    with suppress(ValueError):
        data = bytes.fromhex(text) if isinstance(text, str) else text
        if len(data) == _HASH:
            return data
    raise LocalProtocolError(f"the ID of a document has 64 hexadecimal digits, not {text!r:.100}")


def read_proof(data: bytes, doc_id: bytes) -> Proof:
    """The parts of a proof; signatures are verified, and nothing else.

    Raises:
        RemoteProtocolError: it is none, or has a part that is of another document or not signed.
    """
    match decode(data, MAX_PROOF):
        case [1, query, bytes(root), bytes(tree), list(items), statement] if len(root) == _HASH:
            pass
        case _:
            raise RemoteProtocolError("not a proof of version 1")
    if len(items) > MAX_WITNESSES:
        raise RemoteProtocolError(f"a proof with more than {MAX_WITNESSES} entries")
    try:
        asked = read_query(query)
    except (LocalProtocolError, ValueError) as error:
        raise RemoteProtocolError(f"a proof of nothing: {error}") from None
    witnesses = tuple(_witness(item, doc_id) for item in items)
    signed = None if statement is None else read_statement(statement, doc_id)
    proof = Proof(asked, root, tree, witnesses, signed)
    if proof.encode() != data:  # `true` is an int, too
        raise RemoteProtocolError("a proof in another form than its one")
    return proof


def _witness(item: Plain, doc_id: bytes) -> Witness:
    match item:
        case [bytes(header), bytes(signature), bytes(payload), bytes(certificate)]:
            key = b""
        case [bytes(header), bytes(signature), bytes(payload), bytes(certificate), bytes(key)] if (
            len(key) == READ_KEY_BYTES
        ):
            pass
        case _:
            raise RemoteProtocolError("an entry of a proof that is none")
    entry = Entry(decode_header(header), signature, payload)
    check_entry(entry)
    if entry.header.doc_id != doc_id:
        raise RemoteProtocolError("a proof of another document")
    if not entry.is_signed():
        raise RemoteProtocolError("an entry of a proof that its author has not signed")
    return Witness(entry, decode_certificate(certificate, doc_id, entry.header.author), key)


def _author(witness: Witness) -> Author:
    header = witness.entry.header
    return Author(witness.certificate.identity, header.author, header.id, header.hlc)


def _check_witnesses(proof: Proof, standing: Mapping[bytes, Standing]) -> None:
    """Each is that of a write that stands there, and says what stands."""
    expected = {
        (each.entry_id, key): each.value
        for key, each in standing.items()
        if each.entry_id is not None
    }
    for witness in proof.witnesses:
        header = witness.entry.header
        write = decode_write(header.kind, witness.payload)
        match write:
            case RegisterWrite():
                key, value = Query(Kind.REGISTER, write.name).prefix, write.value
            case SetWrite():
                element = Query(Kind.SET, write.name, Scope.ITEM, write.element)
                key, value = element.prefix, write.is_present
            case _:
                raise RemoteProtocolError("an entry of a proof that is of no use")
        place = (header.id, key)
        if place not in expected or encode(expected.pop(place)) != encode(value):
            raise RemoteProtocolError("an entry of a proof that does not stand there")


def _value(query: Query, found: Mapping[bytes, bytes]) -> tuple[Plain, Mapping[bytes, Standing]]:
    """What the items of the tree say, and of registers and sets what stands, by key."""
    try:
        match query.kind:
            case Kind.REGISTER:
                standing = {key: decode_standing(each) for key, each in found.items()}
                values: dict[str, Plain] = {
                    key[1:].decode(): each.value
                    for key, each in standing.items()
                    if each.value is not None
                }
                return _one_or_all(query, values), standing
            case Kind.SET:
                standing = {key: decode_standing(each) for key, each in found.items()}
                if query.scope == Scope.ITEM:
                    return any(each.value is True for each in standing.values()), standing
                start = len(query.prefix)
                elements = [
                    decode(key[start:], MAX_ENTRY_BYTES)
                    for key, each in standing.items()
                    if each.value is True
                ]
                return elements, standing
            case Kind.COUNTER:
                size = len(query.prefix) + KEY_BYTES
                if any(len(key) != size for key in found):
                    raise RemoteProtocolError("a counter in a tree that is nobody's")
                return sum(_difference(decode(each, 64)) for each in found.values()), {}
            case Kind.CLAIM:
                return [_claim(query, key, each) for key, each in found.items()], {}
            case _:
                digests = {key[1:].decode(): _digest(each) for key, each in found.items()}
                return _one_or_all(query, digests), {}
    except UnicodeDecodeError:
        raise RemoteProtocolError("a name in a tree that is no text") from None


def _one_or_all(query: Query, values: Mapping[str, Plain]) -> Plain:
    return dict(values) if query.scope == Scope.PREFIX else values.get(query.name)


def _difference(value: Plain) -> int:
    match value:
        case [int(increments), int(decrements)]:
            return increments - decrements
    raise RemoteProtocolError("not a counter's totals in a tree")


def _digest(data: bytes) -> Plain:
    match decode(data, 64):
        case [bytes(digest), int(size)] if len(digest) == _HASH:
            return [digest, size]
    raise RemoteProtocolError("not a text or list in a tree")


def _claim(query: Query, key: bytes, data: bytes) -> Plain:
    item: Iterable[Plain] | Plain = query.item
    author = key[len(query.prefix) :]
    if query.scope == Scope.NAME:
        item = decode(author[:-KEY_BYTES], MAX_ENTRY_BYTES)
        author = author[-KEY_BYTES:]
    match decode(data, 64):
        case [int(since), int(until)] if len(author) == KEY_BYTES:
            return [item, author, since, until]  # type: ignore[list-item]
    raise RemoteProtocolError("not a claim in a tree")
