"""Appointments: who owns a document in the place of an owner whose session contradicted itself.

Its body is `[1, doc_id, parent, former, successor, [session, signature], [[author, seq, id], …],
until, issued]`: the ID of the appointment before or nil, identity keys, the session that has forked
and the former owner's word that it is his, of each of his sessions the last entry that is still
admitted as an owner's, the hybrid time after which none of them does what only owners do, and when
it was made. Its ID is the SHA-256 of `ID_CONTEXT` and the body. What is handed
over, and shown in certificates, is `[[body, [[key, signature], …]], …]`: all appointments that led
to the last one, and who has signed each.

Whether they are enough is for :mod:`lattica.crdt.access.ownership` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Final

from lattica.crdt.access.revocation import Last, decode_last
from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.genesis import MAX_KEYS, Genesis
from lattica.crdt.entries.header import ID_BYTES, MAX_HLC
from lattica.crdt.keys.session import is_vouched
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, load_key, verifies
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

ID_CONTEXT: Final = b"lattica/crdt/appointment-id/v1\0"
SIGNATURE_CONTEXT: Final = b"lattica/crdt/appointment/v1\0"
VERSION: Final = 1
MAX_APPOINTMENTS: Final = 32 * 1024
"""Bytes of all that led to one."""
MAX_SESSIONS: Final = 128
"""Of a former owner, whose last entries are named."""
MAX_APPOINTED: Final = 16
"""Appointments of a document that led to one."""
_MAX_TIME: Final = 2**48


@dataclass(frozen=True, slots=True)
class Appointment:
    """The word of those who may say it that a document has another owner."""

    doc_id: bytes
    parent: bytes | None
    """The ID of the appointment before; None: it is the first."""
    former: bytes
    """The identity that owned it."""
    successor: bytes
    """The identity that does from now on; the same one may go on, by another session."""
    session: bytes
    """Of the former owner: the one that has contradicted itself."""
    certified: bytes
    """His signature by which it is his session."""
    last: Last
    """By author, in order: the last entry of his that is admitted as an owner's."""
    until: int
    """The hybrid time after which none of these does what only owners do."""
    issued: int = 0
    """Milliseconds since 1970, as whoever made it says."""
    signatures: tuple[tuple[bytes, bytes], ...] = ()
    """By key, in order."""
    body: bytes = field(init=False, compare=False, repr=False)
    id: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        body = encode(
            [
                VERSION,
                self.doc_id,
                self.parent,
                self.former,
                self.successor,
                [self.session, self.certified],
                [list(each) for each in self.last],
                self.until,
                self.issued,
            ]
        )
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "id", hashlib.sha256(ID_CONTEXT + body).digest())

    @property
    def signers(self) -> frozenset[bytes]:
        """The keys that have signed it."""
        return frozenset(key for key, _ in self.signatures)


def sign(appointment: Appointment, by: Identity) -> Appointment:
    """The same one, signed by another key, too."""
    signatures = dict(appointment.signatures)
    signatures[by.public_key.data] = by.sign(SIGNATURE_CONTEXT + appointment.body)
    return replace(appointment, signatures=tuple(sorted(signatures.items())))


def encode_appointments(appointments: Sequence[Appointment]) -> bytes:
    """What is handed over. Raises LocalProtocolError for more than `MAX_APPOINTMENTS` bytes."""
    items: list[Plain] = [
        [each.body, [list(pair) for pair in each.signatures]] for each in appointments
    ]
    encoded = encode(items)
    if len(encoded) > MAX_APPOINTMENTS or len(appointments) > MAX_APPOINTED:
        raise LocalProtocolError("too many appointments of owners, or too long ones")
    return encoded


@lru_cache(maxsize=16)  # a certificate that waits is looked at whenever something comes
def decode_appointments(data: bytes, genesis: Genesis) -> tuple[Appointment, ...]:
    """Read appointments for a document, each of which follows on the one before, at least one, and
    verify the signatures.

    Raises:
        RemoteProtocolError: they are none, or not signed by whom they say.
    """
    match decode(data, MAX_APPOINTMENTS):
        case [_, *_] as items if len(items) <= MAX_APPOINTED:
            pass
        case _:
            raise RemoteProtocolError("not the appointment of an owner")
    recovery = genesis.recovery
    known = {*genesis.owners, *(recovery.keys if recovery is not None else ())}
    found: list[Appointment] = []
    for item in items:
        match item:
            case [bytes(body), list(signatures)] if len(signatures) <= 2 * MAX_KEYS:
                appointment = _decode(body, _signatures(signatures), genesis.doc_id)
            case _:
                raise RemoteProtocolError("not the appointment of an owner")
        if found and appointment.parent != found[-1].id:
            raise RemoteProtocolError("an appointment that does not follow on the one before")
        for key, signature in appointment.signatures:
            if key not in known or not verifies(key, signature, SIGNATURE_CONTEXT + body):
                raise RemoteProtocolError("an appointment that somebody named has not signed")
        if not is_vouched(
            appointment.former, appointment.certified, genesis.doc_id, appointment.session
        ):
            raise RemoteProtocolError("an appointment because of a session of somebody else")
        known.add(appointment.successor)
        found.append(appointment)
    if found[0].parent is not None:
        raise RemoteProtocolError("appointments without the first of them")
    return tuple(found)


def _signatures(items: Sequence[Plain]) -> tuple[tuple[bytes, bytes], ...]:
    found: list[tuple[bytes, bytes]] = []
    for item in items:
        match item:
            case [bytes(key), bytes(signature)]:
                found.append((key, signature))
            case _:
                raise RemoteProtocolError("a signature of an appointment that is none")
    if any(first[0] >= second[0] for first, second in pairwise(found)):
        raise RemoteProtocolError("signatures of an appointment out of order")
    return tuple(found)


def _decode(body: bytes, signatures: tuple[tuple[bytes, bytes], ...], doc_id: bytes) -> Appointment:
    match decode(body, MAX_APPOINTMENTS):
        case [
            1,
            bytes(of),
            bytes() | None as parent,
            bytes(former),
            bytes(successor),
            [bytes(session), bytes(certified)],
            list(last),
            int(until),
            int(issued),
        ] if of == doc_id and 0 <= until <= MAX_HLC and 0 <= issued < _MAX_TIME:
            pass
        case _:
            raise RemoteProtocolError("not the appointment of an owner of this document")
    if parent is not None and len(parent) != ID_BYTES:
        raise RemoteProtocolError("an appointment that follows on none")
    for key in (former, successor, session):
        if len(key) != KEY_BYTES:
            raise RemoteProtocolError("an owner or a session that is no key")
    load_key(successor)
    entries = decode_last(last, MAX_SESSIONS)
    appointment = Appointment(
        of,
        parent,
        former,
        successor,
        session,
        certified,
        entries,
        int(until),
        int(issued),
        signatures,
    )
    if appointment.body != body:
        raise RemoteProtocolError("an appointment in another form than its one")
    return appointment
