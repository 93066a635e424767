"""Who owns a document, and the appointment of another owner after one has contradicted himself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lattica.crdt.access.appointment import (
    MAX_SESSIONS,
    Appointment,
    decode_appointments,
    encode_appointments,
    sign,
)
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Recovery
from lattica.crdt.keys.identities import identity_key, peer_of
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.sync.messages import encode_entries, encode_fork_message
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who owns a document."""

    peer: PeerId
    is_frozen: bool
    """Whether it has contradicted itself, and what only owners do has no effect where it does it,
    until an owner is appointed in its place.
    """
    instead_of: PeerId | None
    """In whose place it was appointed; None: it is an owner from the beginning."""


@dataclass(frozen=True, slots=True)
class OwnerAppointment:
    """What an appointment says, and whether it is signed by enough."""

    former: PeerId
    successor: PeerId
    signers: tuple[PeerId, ...]
    """Those whose signatures it has."""
    is_enough: bool
    """Whether it has an effect once the successor has presented it."""


class DocumentOwners:
    """The owners of a document, used by who writes here."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def all(self) -> Sequence[Owner]:
        """As :meth:`Document.owners`."""
        rights = self._writer.replica.log.rights
        if rights is None:
            return ()
        ownership = rights.ownership
        found = []
        for identity in ownership.owners:
            by = ownership.appointed(identity)
            former = peer_of(by[-1].former) if by else None
            found.append(Owner(peer_of(identity), bool(ownership.forks_of(identity)), former))
        return tuple(sorted(found, key=lambda each: str(each.peer)))

    def appoint(
        self,
        successor: PeerId | str | bytes,
        *,
        instead_of: PeerId | str | bytes | None = None,
        by: Identity | None = None,
    ) -> bytes:
        """As :meth:`Document.appoint`."""
        recovery, ownership = self._recovery, self._writer.rights.ownership
        former = self._frozen(ownership, instead_of)
        forks = ownership.forks_of(former)
        session = min(forks)
        replica = self._writer.replica
        first = replica.database.entry(session, 0)
        doc_id = replica.genesis.doc_id
        certificate = decode_certificate(first.payload or b"", doc_id, session)
        before = ownership.appointments
        named = identity_key(successor)
        if named != former and named in ownership.owners:
            raise LocalProtocolError(f"{peer_of(named)} is an owner already")
        appointment = Appointment(
            doc_id,
            before[-1].id if before else None,
            former,
            named,
            session,
            certificate.signature,
            self._last(ownership, former),
            min(forks.values()),
            self._writer.now_ms,
        )
        return self._signed([*before, appointment], recovery, by)

    def sign(self, appointment: bytes, *, by: Identity | None = None) -> bytes:
        """As :meth:`Document.sign_appointment`."""
        recovery, ownership = self._recovery, self._writer.rights.ownership
        given = self._decoded(appointment)
        if [each.id for each in given[:-1]] != [each.id for each in ownership.appointments]:
            raise LocalProtocolError("an appointment that does not follow on those that count here")
        if given[-1].session not in ownership.forks_of(given[-1].former):
            raise LocalProtocolError(
                f"nothing is known here that {peer_of(given[-1].former)} has contradicted itself, "
                "or it is no owner"
            )
        return self._signed(given, recovery, by)

    def read(self, appointment: bytes) -> OwnerAppointment:
        """As :meth:`Document.read_appointment`."""
        given = self._decoded(appointment)
        last, ownership = given[-1], self._writer.rights.ownership
        return OwnerAppointment(
            peer_of(last.former),
            peer_of(last.successor),
            tuple(peer_of(key) for key, _ in last.signatures),
            ownership.may_take_office(last.successor, given),
        )

    def present(self, appointment: bytes) -> bool:
        """Use an appointment that was handed over; False if it is none. Raises what
        :meth:`Document.present` does.
        """
        replica = self._writer.replica
        if not replica.genesis.can_be_recovered:
            return False
        try:
            given = decode_appointments(appointment, replica.genesis)
        except RemoteProtocolError:
            return False
        if given[-1].successor != self._writer.identity:
            raise LocalProtocolError("an appointment of another peer")
        replica.appointments = given
        self._writer.take_office()
        return True

    def standing_of(self, peer: PeerId, shown: bytes) -> Iterator[bytes]:
        """As :meth:`Document.standing_of`."""
        rights, database = self._writer.replica.log.rights, self._writer.replica.database
        if rights is None or not rights.ownership.appointments:
            return
        ownership = rights.ownership
        try:
            identity = identity_key(peer)
        except LocalProtocolError:
            return  # with such a key nobody owns anything
        if not ownership.was_owner(identity) and not self._was_appointed(identity, shown):
            return
        first = (database.entry(author, 0) for author in ownership.showing())
        # One that only what follows has signed would give that away.
        signed = next((each for each in first if each.is_signed()), None)
        if signed is None:
            return
        for appointment in ownership.appointments:
            fork = self._writer.replica.log.feeds[appointment.session].fork
            if fork is not None:
                yield encode_fork_message(fork.encode())
        yield encode_entries(encode_chain([signed], with_prev=True))

    def _was_appointed(self, identity: bytes, shown: bytes) -> bool:
        """Whether what a peer shows is an appointment of it, be it one that does not count."""
        try:
            given = decode_appointments(shown, self._writer.replica.genesis)
        except RemoteProtocolError:
            return False
        return given[-1].successor == identity

    @property
    def _recovery(self) -> Recovery:
        genesis = self._writer.replica.genesis
        if genesis.recovery is None or not genesis.can_be_recovered:
            raise LocalProtocolError(
                "nobody can be appointed owner of this document: it was made without a recovery "
                "that says who may"
            )
        return genesis.recovery

    def _decoded(self, appointment: bytes) -> tuple[Appointment, ...]:
        try:
            return decode_appointments(appointment, self._writer.replica.genesis)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"no appointment for this document: {error}") from None

    @staticmethod
    def _frozen(ownership: Ownership, instead_of: PeerId | str | bytes | None) -> bytes:
        """The owner who is to be replaced."""
        frozen = [each for each in ownership.owners if ownership.forks_of(each)]
        if instead_of is not None:
            former = identity_key(instead_of)
            if former in frozen:
                return former
            raise LocalProtocolError(
                f"{peer_of(former)} is no owner who is known here to have contradicted itself: "
                "nobody is appointed in its place"
            )
        if len(frozen) != 1:
            raise LocalProtocolError(
                f"{len(frozen)} owners are known here to have contradicted themselves: "
                + ("say in whose place" if frozen else "nobody is appointed in anybody's place")
            )
        return frozen[0]

    def _last(self, ownership: Ownership, former: bytes) -> tuple[tuple[bytes, int, bytes], ...]:
        """Of each session of an owner the last entry that is here; of many, the longest ones."""
        seat = ownership.seat(former)
        feeds = [
            feed
            for feed in self._writer.replica.log.feeds.values()
            if feed.ids and ownership.seat_of(feed.author, feed.identity) == seat
        ]
        feeds.sort(key=lambda feed: len(feed.ids), reverse=True)
        return tuple(
            sorted((feed.author, len(feed.ids) - 1, feed.ids[-1]) for feed in feeds[:MAX_SESSIONS])
        )

    def _signed(
        self, appointments: Sequence[Appointment], recovery: Recovery, by: Identity | None
    ) -> bytes:
        """All of these, the last of them signed by another one, too."""
        signer = by or self._writer.replica.identity
        key, last = signer.public_key.data, appointments[-1]
        others = self._writer.rights.ownership.owners - {last.former}
        if key not in recovery.keys and not (recovery.owners and key in others):
            raise AccessDeniedError(
                f"{signer.peer_id} does not appoint owners of this document: the keys of its "
                "recovery do" + (", and its other owners" if recovery.owners else "")
            )
        return encode_appointments([*appointments[:-1], sign(last, signer)])
