"""Who owns a document: the owners of its genesis, and those whom appointments put in their places.
A function of the appointments that admitted certificates show, and of the forks that are proved.

An owner holds a *seat*: of the genesis, in all sessions of his that show no appointment; or by an
appointment, in the sessions that show it. What is done in a session counts as an owner's while its
seat stands, and after that up to the last entry that the next appointment names. While a session of
a seat is known to have forked, and nobody is appointed for it, it is *frozen*: of what only owners
do, in its other sessions, only that counts which is not later than the last entry before the fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from lattica.crdt.access.appointment import Appointment
from lattica.crdt.access.revocation import is_within
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Header


@dataclass(frozen=True, slots=True)
class _Seats:
    """Who owned the document, from the first on."""

    current: Mapping[bytes, bytes]
    """By the identity of an owner, the seat."""
    replaced: Mapping[bytes, Appointment]
    """By the seat, the appointment of the next who holds it."""
    chain: tuple[Appointment, ...] = ()
    """Those that count, in order."""

    def covers(self, seat: bytes | None, header: Header) -> bool:
        """Whether an entry of a seat is admitted for it."""
        by = self.replaced.get(seat or b"")
        if by is None:
            return seat in self.current.values()
        # An appointment stands by the entry that shows it, whoever is appointed later.
        is_shown = header.seq == 0 and any(each.id == seat for each in self.chain)
        return is_shown or is_within(by.last, header.author, header.seq, header.id)


class Ownership:
    """Who owns one document that is not open to everybody.

    Args:
        genesis: the document.
        has_forked: whether a session is known to have contradicted itself.
    """

    def __init__(
        self, genesis: Genesis, has_forked: Callable[[bytes], bool] = lambda author: False
    ) -> None:
        self._genesis = genesis
        self._has_forked = has_forked
        self._shown: dict[bytes, tuple[bytes, tuple[Appointment, ...]]] = {}
        """By the ID of an admitted certificate, the session, and what it shows."""
        self._shown_in: dict[bytes, tuple[Appointment, ...]] = {}
        """The same by session."""
        self._held: set[bytes] = set()
        """Sessions of which :meth:`has_held` has said so: it stays so."""
        self._forks: Mapping[bytes, tuple[bytes, int]] = {}
        self._seats = self._walk()

    # What is known.

    def show(self, entry_id: bytes, author: bytes, appointments: tuple[Appointment, ...]) -> None:
        """Take what an admitted certificate shows."""
        self._shown[entry_id] = author, appointments
        self._shown_in[author] = appointments

    def forget(self, entry_id: bytes) -> bool:
        """A certificate was withdrawn; whether it showed anything."""
        author, _ = self._shown.pop(entry_id, (b"", ()))
        self._held.discard(author)
        return self._shown_in.pop(author, None) is not None

    def settle(self, forks: Mapping[bytes, tuple[bytes, int]]) -> bool:
        """Go by what is known now; whether anything is another one than before.

        `forks` are the sessions of owners that have forked, and of each the seat and the time of
        the last entry before the fork.
        """
        seats = self._walk()
        is_new = seats != self._seats or forks != self._forks
        self._seats, self._forks = seats, dict(forks)
        return is_new

    def _walk(self, more: Iterable[Appointment] = ()) -> _Seats:
        """By what is shown, and some more."""
        return self._walk_by(chain(*(shown for _, shown in self._shown.values()), more))

    def _walk_by(self, appointments: Iterable[Appointment]) -> _Seats:
        following: dict[bytes | None, list[Appointment]] = {}
        for each in appointments:
            following.setdefault(each.parent, []).append(each)
        current = {owner: owner for owner in self._genesis.owners}
        replaced: dict[bytes, Appointment] = {}
        counting: list[Appointment] = []
        while True:
            parent = counting[-1].id if counting else None
            sessions = {each.session for each in counting}
            found = [
                (rank, each.id, each)
                for each in following.get(parent, ())
                if each.session not in sessions and (rank := self._rank(each, current)) is not None
            ]
            if not found:
                return _Seats(current, replaced, tuple(counting))
            # Of several for one place all replicas take the same.
            _, _, taken = min(found, key=lambda each: each[:2])
            replaced[current.pop(taken.former)] = taken
            current[taken.successor] = taken.id
            counting.append(taken)

    def _rank(self, appointment: Appointment, current: Mapping[bytes, bytes]) -> int | None:
        """By whom an appointment counts: 0 the recovery's keys, 1 other owners; None if it does
        not.
        """
        recovery, former = self._genesis.recovery, appointment.former
        if recovery is None or former not in current or not self._has_forked(appointment.session):
            return None
        if appointment.successor != former and appointment.successor in current:
            return None
        signers = appointment.signers
        if recovery.keys and len(signers.intersection(recovery.keys)) >= recovery.needed:
            return 0
        if recovery.owners and len(signers & current.keys() - {former}) >= recovery.owners:
            return 1
        return None

    # What follows from it.

    @property
    def owners(self) -> frozenset[bytes]:
        """The identities that own the document now, frozen or not."""
        return frozenset(self._seats.current)

    @property
    def appointments(self) -> tuple[Appointment, ...]:
        """Those that count, in order."""
        return self._seats.chain

    def seat(self, identity: bytes) -> bytes | None:
        """The seat that an identity holds now."""
        return self._seats.current.get(identity)

    def appointed(self, identity: bytes) -> tuple[Appointment, ...]:
        """Those by which an identity owns the document now; none for an owner of the genesis."""
        seat = self._seats.current.get(identity)
        ids = [each.id for each in self.appointments]
        return self.appointments[: ids.index(seat) + 1] if seat in ids else ()

    @property
    def all_owners(self) -> frozenset[bytes]:
        """The identities that own the document, or did."""
        return frozenset((*self._genesis.owners, *(each.successor for each in self.appointments)))

    def was_owner(self, identity: bytes) -> bool:
        """Whether an identity owns the document, or did."""
        return identity in self.all_owners

    def showing(self) -> Iterator[bytes]:
        """The sessions whose first entries show all appointments that count, if there are any."""
        if self.appointments:
            last = self.appointments[-1].id
            for author, shown in self._shown.values():
                if last in (each.id for each in shown):
                    yield author

    def seat_of(self, author: bytes, identity: bytes) -> bytes | None:
        """The seat that a session says it has; None if it is no owner's."""
        shown = self._shown_in.get(author)
        if shown is not None:
            return shown[-1].id
        return identity if identity in self._genesis.owners else None

    def covers(self, header: Header, identity: bytes) -> bool:
        """Whether an entry is admitted because an owner has written it."""
        return self._seats.covers(self.seat_of(header.author, identity), header)

    def has_held(self, author: bytes, identity: bytes) -> bool:
        """Whether a session is or was an owner's: by the genesis, or by what it shows alone, be
        that another one's by what others show.
        """
        if author not in self._held:
            seat = self.seat_of(author, identity)
            seats = self._walk_by(self._shown_in.get(author, ()))
            if seat is None or seats.current.get(identity) != seat:
                return False
            self._held.add(author)
        return True

    def is_in_doubt(self, author: bytes, identity: bytes) -> bool:
        """Whether a session says that it is an owner's, and something of it may not act."""
        seat = self.seat_of(author, identity)
        return seat is not None and (
            seat not in self._seats.current.values()
            or any(of == seat for of, _ in self._forks.values())
        )

    def acts(self, header: Header, identity: bytes) -> bool:
        """Whether an entry does what only owners do with effect."""
        seat = self.seat_of(header.author, identity)
        by = self._seats.replaced.get(seat or b"")
        if by is not None:
            # What was frozen stays without effect: whoever owns it now does it again if he likes.
            return header.hlc <= by.until and self._seats.covers(seat, header)
        return self._seats.covers(seat, header) and all(
            author == header.author or header.hlc <= hlc
            for author, (of, hlc) in self._forks.items()
            if of == seat
        )

    def is_settled(self, author: bytes, identity: bytes, length: int, newest: bytes) -> bool:
        """Whether all entries of a session are covered, by the newest of them."""
        seat = self.seat_of(author, identity)
        by = self._seats.replaced.get(seat or b"")
        if by is None:
            return seat in self._seats.current.values()
        return is_within(by.last, author, length - 1, newest)

    def takes_office(
        self, header: Header, identity: bytes, appointments: tuple[Appointment, ...]
    ) -> bool:
        """Whether a certificate that shows these would be an owner's."""
        if appointments[-1].successor != identity:
            return False
        return self._walk(appointments).covers(appointments[-1].id, header)

    def may_take_office(self, identity: bytes, appointments: tuple[Appointment, ...]) -> bool:
        """Whether an identity would own the document by these."""
        return self._walk(appointments).current.get(identity) == appointments[-1].id

    def is_unquestioned(self, identity: bytes) -> bool:
        """Whether what an owner has signed needs no entry of his that says so: he is one by the
        genesis, and nothing that he did is in doubt.
        """
        is_first = self._seats.current.get(identity) == identity
        return is_first and not self.forks_of(identity)

    def forks_of(self, identity: bytes) -> dict[bytes, int]:
        """The sessions by which an owner is frozen, none if he is not; and of each the hybrid time
        of the last entry before the fork.
        """
        seat = self._seats.current.get(identity)
        return {author: hlc for author, (of, hlc) in self._forks.items() if of == seat}
