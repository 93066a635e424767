"""The rights of a document, as the entries that are admitted say: a function of their set.

A right is a capability that stands in an admitted entry: in a document with an allow-list, in the
log of whoever has given it; otherwise in any log, or in the certificate of a session. An entry
counts if a right of its author's identity covers it: by level, by the entry's time, and for each
revocation of one of its links, up to the last entry that this names. What an owner has called final
counts whatever is taken back, and whoever owns the document later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from lattica.crdt.access.appointment import Appointment, decode_appointments
from lattica.crdt.access.capability import Capability, Level, Link, decode_capability
from lattica.crdt.access.finality import Finality, decode_finality
from lattica.crdt.access.foundation import unfounded
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.access.revocation import Revocation, decode_revocation, left_by_all
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Header, Kind
from lattica.nat.base.errors import RemoteProtocolError


class Verdict(Enum):
    """Whether an entry may be admitted."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    """Its author has no right that is known here; one may come."""
    REFUSED = "refused"
    """He had one, which does not cover this, or was taken back."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Of an entry, what rights depend on."""

    author: bytes
    seq: int
    id: bytes
    milliseconds: int
    is_final: bool


class Rights:
    """Of one document that is not open to everybody.

    What entries say depends on who owned the document: when that changes, :meth:`clear` forgets
    them, and they are learned anew.

    Args:
        ids_of: of what is admitted of an author the IDs, by number.
    """

    def __init__(
        self,
        genesis: Genesis,
        ownership: Ownership | None = None,
        ids_of: Callable[[bytes], Sequence[bytes]] = lambda author: (),
    ) -> None:
        self._genesis = genesis
        self._ids_of = ids_of
        self.ownership = ownership or Ownership(genesis)
        """Who owns it."""
        self.clear()

    def clear(self) -> None:
        """Know of no entry."""
        self._granted: dict[bytes, tuple[Header, bytes, Capability]] = {}
        """By the ID of the entry that has it, with its header and whose it is."""
        self.finality = Finality(self._ids_of)
        """What counts for good, by owners whose word does."""
        self._grown: set[bytes] = set()
        """Authors of whom more counts for good than when it was asked last."""
        self._revoked: dict[bytes, Revocation] = {}
        """By the ID of the entry."""
        self._copies: Counter[bytes] = Counter()
        """By the ID of a right, in how many entries it is."""
        self._verified: dict[bytes, Capability] = {}
        """By their bytes, those that are held: another copy need not be verified."""
        self._held: dict[bytes, dict[bytes, Capability]] = {}
        """By identity, its rights by their IDs."""
        self._taken: dict[bytes, dict[bytes, Revocation]] = {}
        """By link, and by the ID of the entry."""
        self._left: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        """By link, what all of these leave of which sessions, as far as it was asked for."""
        self._anchors: dict[bytes, set[bytes]] = {}
        """By a link, the entries by which an owner has written down that he has given it."""
        self._written: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        """The same, by session the first of them, be it one by which he gives nothing: he was
        replaced, or is in doubt.
        """
        self._listed: tuple[tuple[Capability, bool], ...] | None = None
        """What :meth:`held` has said, until it changes."""

    def is_owner(self, identity: bytes) -> bool:
        """Whether an identity owns the document now."""
        return identity in self.ownership.owners

    # What comes in.

    def learn(self, entry: Entry, identity: bytes) -> bool:
        """Take an admitted entry of an identity; whether any right may have changed."""
        kind, payload = entry.header.kind, entry.payload
        if payload is None:
            return False
        try:
            if kind == Kind.GRANT:
                return self._learn_grant(entry, self._read(payload), identity)
            if kind == Kind.REVOKE and self.ownership.acts(entry.header, identity):
                revocation = decode_revocation(payload)
                self._revoked[entry.id] = revocation
                self._taken.setdefault(revocation.link, {})[entry.id] = revocation
                self._left.pop(revocation.link, None)
                self._listed = None
                return True
            if kind == Kind.FINAL and self.ownership.acts(entry.header, identity):
                new = self.finality.learn(entry.id, decode_finality(payload))
                self._grown.update(
                    author
                    for author, seq, entry_id in new
                    if self.finality.length(author) == seq + 1
                    and self._ids_of(author)[seq] == entry_id
                )
                return bool(new)
        except RemoteProtocolError:
            pass  # without effect, for every replica
        return False

    def _learn_grant(self, entry: Entry, capability: Capability, identity: bytes) -> bool:
        is_listed = capability.right.issuer == identity
        if self._genesis.mode is Mode.ALLOW_LIST and not is_listed:
            return False
        is_new = self._keep(entry.header, identity, capability)
        root = capability.links[0]
        if root.issuer != identity:
            return is_new
        written = self._written.setdefault(root.id, {})
        place = entry.header.seq, entry.id
        written[entry.header.author] = min(written.get(entry.header.author, place), place)
        if self.ownership.acts(entry.header, identity):
            is_new |= not self._has_root(root)
            self._anchors.setdefault(root.id, set()).add(entry.id)
            self._listed = None
        return is_new

    def learn_certificate(self, header: Header, identity: bytes, capability: bytes) -> None:
        """Take the capability of a session's certificate. Raises RemoteProtocolError."""
        self._keep(header, identity, self._read(capability))

    def _has_root(self, root: Link) -> bool:
        """Whether a right that begins with this link comes from an owner. Of one who is appointed,
        or has contradicted himself, it does if he has written it down where that counts.
        """
        return self.ownership.is_unquestioned(root.issuer) or root.id in self._anchors

    def _has_final_root(self, root: Link) -> bool:
        """Whether its owner has written it down in an entry that counts for good."""
        return any(
            self.finality.covers(author, *place)
            for author, place in self._written.get(root.id, {}).items()
        )

    def _keep(self, header: Header, identity: bytes, capability: Capability) -> bool:
        """Hold a right by an entry; whether it was not held. Costs the same however many there are:
        who may write may write down his right again and again.
        """
        if header.id in self._granted or not self.ownership.was_owner(capability.links[0].issuer):
            return False
        right = capability.right
        self._granted[header.id] = header, identity, capability
        self._copies[right.id] += 1
        if self._copies[right.id] > 1:
            return False
        self._verified[capability.encode()] = capability
        self._held.setdefault(right.subject, {})[right.id] = capability
        self._listed = None
        return True

    def _read(self, data: bytes) -> Capability:
        known = self._verified.get(data)
        if known is not None:
            return known
        # Of a document that can be recovered somebody may be an owner of whom nothing is here yet.
        owners = None if self._genesis.can_be_recovered else self._genesis.owners
        return decode_capability(data, self._genesis.doc_id, owners)

    def forget(self, entry_id: bytes) -> bool:
        """An entry was withdrawn; whether any right may have changed."""
        revocation = self._revoked.pop(entry_id, None)
        if revocation is not None:
            taken = self._taken[revocation.link]
            del taken[entry_id]
            if not taken:
                del self._taken[revocation.link]
            self._left.pop(revocation.link, None)
            self._listed = None
            return True
        if self.finality.forget(entry_id):
            return True
        if entry_id not in self._granted:
            return False
        *_, capability = self._granted.pop(entry_id)
        right, was_anchor = capability.right, self._forget_anchor(capability.links[0].id, entry_id)
        self._copies[right.id] -= 1
        if self._copies[right.id]:
            return was_anchor
        del self._copies[right.id]
        self._verified.pop(self._held[right.subject].pop(right.id).encode())
        if not self._held[right.subject]:
            del self._held[right.subject]
        self._listed = None
        return True

    def _forget_anchor(self, link_id: bytes, entry_id: bytes) -> bool:
        """Whether an entry was the last by which an owner has written a link down."""
        anchors = self._anchors.get(link_id, set())
        anchors.discard(entry_id)
        if anchors or self._anchors.pop(link_id, None) is None:
            return False
        self._listed = None
        return True

    def forget_unfounded(self, voucher_at: Callable[[bytes, int], Header | None]) -> None:
        """Forget the rights that hold up nothing but each other: they stand in entries that are
        admitted only by these rights. Where what had given the first of them is heard of last,
        none of these entries is admitted. `voucher_at` is who vouches for what is admitted of an
        author at a number; None: nothing is.
        """
        for entry_id in unfounded(
            self._granted.values(),
            is_settled=lambda header, identity: self._is_settled(header.author, identity),
            place_of=lambda header, identity: self._needed(header, identity, voucher_at),
            covers=lambda capability, place: self._covers(capability, place, Level.WRITE),
            covers_all=self._covers_all,
        ):
            self.forget(entry_id)

    def _needed(
        self,
        header: Header,
        identity: bytes,
        voucher_at: Callable[[bytes, int], Header | None],
    ) -> _Place | None:
        """What a right has to cover for an entry to be admitted: who vouches for it, as what covers
        that covers what is before it. None if it needs no right.

        An entry is final if the one that is named is admitted, which takes who vouches for that.
        """
        for seq, entry_id in reversed(self.finality.named_since(header.author, header.seq)):
            voucher = voucher_at(header.author, seq)
            if voucher is not None and voucher.id == entry_id:
                return None
        voucher = voucher_at(header.author, header.seq) or header
        if self.ownership.covers(voucher, identity):
            return None
        return replace(self._place(voucher), is_final=False)

    def _is_settled(self, author: bytes, identity: bytes) -> bool:
        """Whether all that is admitted of an author is an owner's."""
        ids = self._ids_of(author)
        return bool(ids) and self.ownership.is_settled(author, identity, len(ids), ids[-1])

    def _covers_all(self, capability: Capability) -> bool:
        """Whether a right covers all that whoever has it has written, or will."""
        right = capability.right
        return right.level >= Level.WRITE and right.expires is None and self._is_given(capability)

    # What may be done.

    def is_free(self, author: bytes, identity: bytes) -> bool:
        """Whether the entries of a session need not be looked at again when rights change: they are
        an owner's, or nothing that its identity holds was taken back or ends.
        """
        held = self._held.get(identity, {}).values()
        return self._is_settled(author, identity) or any(map(self._covers_all, held))

    def _is_given(self, capability: Capability) -> bool:
        """Whether a right comes from an owner, and was not taken back."""
        return self._has_root(capability.links[0]) and not _goes_by(capability, self._taken)

    def verdict(
        self, header: Header, identity: bytes, shown: tuple[Appointment, ...] = ()
    ) -> Verdict:
        """Whether an entry may be admitted; `shown` is by which appointments a certificate that is
        not says that it is an owner's.
        """
        ownership = self.ownership
        if self.is_final(header):
            return Verdict.ALLOWED
        if shown:
            is_owners = ownership.takes_office(header, identity, shown)
        else:
            is_owners = ownership.covers(header, identity)
        if is_owners:
            return Verdict.ALLOWED
        held = self._held.get(identity, {}).values()
        place = self._place(header)
        if any(self._covers(each, place, Level.WRITE) for each in held):
            return Verdict.ALLOWED
        # Who gave it may be known as an owner later.
        was_given = any(self._has_root(each.links[0]) for each in held)
        was_owner = not shown and ownership.was_owner(identity)
        return Verdict.REFUSED if was_given or was_owner else Verdict.UNKNOWN

    def may_write(self, header: Header, identity: bytes, name: str) -> bool:
        """Whether an admitted entry takes effect at a name."""
        return self._writes_by(header, identity, name, self._held.get(identity, {}).values())

    def _writes_by(
        self, header: Header, identity: bytes, name: str, held: Iterable[Capability]
    ) -> bool:
        """Whether an admitted entry takes effect at a name, as an owner's or by one of these."""
        if self.ownership.covers(header, identity):
            return True
        place = self._place(header)
        if place.is_final and self.ownership.has_held(header.author, identity):
            return True
        return any(
            name.startswith(each.right.prefix) and self._covers(each, place, Level.WRITE)
            for each in held
        )

    def may_write_at(self, identity: bytes, name: str, now_ms: int, shown: bytes = b"") -> bool:
        """Whether what an identity writes at a time would take effect at a name, if its session
        begins with the capability `shown`.
        """
        return any(
            name.startswith(each.right.prefix) and self._stands(each, Level.WRITE, now_ms)
            for each in self._held_with(identity, shown)
        )

    def _held_with(self, identity: bytes, shown: bytes) -> list[Capability]:
        """What an identity holds, and what it shows, where that counts."""
        held = [*self._held.get(identity, {}).values()]
        if shown and self._genesis.mode is Mode.CAPABILITY:
            try:
                capability = self._read(shown)
            except RemoteProtocolError:
                return held
            if capability.right.subject == identity:
                held.append(capability)
        return held

    def _stands(self, capability: Capability, level: Level, now_ms: int) -> bool:
        right = capability.right
        return (
            right.level >= level
            and (right.expires is None or now_ms <= right.expires)
            and self._is_given(capability)
        )

    def may_read(self, identity: bytes, now_ms: int, shown: bytes = b"") -> bool:
        """Whether a peer may read the document; `shown` is a capability that it presents."""
        return self._may(Level.READ, identity, now_ms, shown)

    def may_pull(self, identity: bytes, now_ms: int, shown: bytes = b"") -> bool:
        """Whether a peer is told of the document; see :meth:`may_read`."""
        level = Level.PULL if self._genesis.is_sealed else Level.READ
        return self._may(level, identity, now_ms, shown)

    def knows_of(self, identity: bytes) -> bool:
        """Whether an identity is known to have, or have had, a right, or to have been an owner."""
        return identity in self._held or self.ownership.was_owner(identity)

    def _may(self, level: Level, identity: bytes, now_ms: int, shown: bytes) -> bool:
        if self.is_owner(identity) or self._would_own(identity, shown):
            return True
        return any(self._stands(each, level, now_ms) for each in self._held_with(identity, shown))

    def _would_own(self, identity: bytes, shown: bytes) -> bool:
        """Whether what an identity shows are appointments by which it owns the document."""
        if not shown or not self._genesis.can_be_recovered:
            return False
        try:
            appointments = decode_appointments(shown, self._genesis)
        except RemoteProtocolError:
            return False
        return self.ownership.may_take_office(identity, appointments)

    def readers(self, now_ms: int, without: Container[bytes] = ()) -> set[bytes]:
        """The identities that may read, as far as it is known; `without` has IDs of links that are
        about to be taken back.
        """
        return set(self.ownership.owners) | {
            identity
            for identity, held in self._held.items()
            for each in held.values()
            if self._stands(each, Level.READ, now_ms) and not _goes_by(each, without)
        }

    def _place(self, header: Header) -> _Place:
        return _Place(header.author, header.seq, header.id, header.hlc >> 16, self.is_final(header))

    def _covers(self, capability: Capability, place: _Place, level: Level) -> bool:
        right = capability.right
        if right.level < level:
            return False
        if right.expires is not None and place.milliseconds > right.expires:
            return False
        root = capability.links[0]
        if not self._has_root(root) and not (place.is_final and self._has_final_root(root)):
            return False
        return place.is_final or all(self._is_left(link.id, place) for link in capability.links)

    def _is_left(self, link_id: bytes, place: _Place) -> bool:
        """Whether an entry is still within what each revocation of a link leaves."""
        taken = self._taken.get(link_id)
        if taken is None:
            return True
        if link_id not in self._left:
            self._left[link_id] = left_by_all(each.last for each in taken.values())
        until, newest = self._left[link_id].get(place.author, (-1, b""))
        return place.seq < until or (place.seq == until and place.id == newest)

    # What counts for good.

    def is_final(self, header: Header) -> bool:
        """Whether an owner has said that an entry counts, whatever is taken back."""
        return self.finality.covers(header.author, header.seq, header.id)

    def take_grown(self) -> set[bytes]:
        """Authors of whom more counts for good than when this was asked last, by what has been
        said since.
        """
        grown, self._grown = self._grown, set()
        return grown

    def has_more_effects(self, author: bytes, identity: bytes, seq: int, entry_id: bytes) -> bool:
        """Whether what an author has written, up to an entry, may take effect only as it is final:
        something was taken back of that by which he has written, or he is an owner in doubt.
        """
        if self.ownership.seat_of(author, identity) is not None:
            return self.ownership.is_in_doubt(author, identity)
        place = _Place(author, seq, entry_id, 0, is_final=False)
        return any(
            each.right.level >= Level.WRITE and not self._covers(each, place, Level.WRITE)
            for each in self._held.get(identity, {}).values()
        )

    def is_named(self, header: Header) -> bool:
        """Whether an owner has called final just this entry, and those before it."""
        return self.finality.names(header.author, header.seq, header.id)

    def lasting(self) -> Callable[[Header, bytes, str], bool]:
        """Whether an entry takes effect at a name, of a final one as :meth:`may_write`, and for
        good: by a right that stands in a final entry, too. Of the rights that are held now.
        """
        lasting: dict[bytes, list[Capability]] = {}
        for header, _, capability in self._granted.values():
            if self.is_final(header) and self._has_final_root(capability.links[0]):
                lasting.setdefault(capability.right.subject, []).append(capability)

        def takes_effect(header: Header, identity: bytes, name: str) -> bool:
            return self.is_final(header) and self._writes_by(
                header, identity, name, lasting.get(identity, ())
            )

        return takes_effect

    # For people, and for giving.

    def read(self, data: bytes) -> Capability:
        """Read a capability for this document. Raises RemoteProtocolError."""
        return self._read(data)

    def held(self) -> tuple[tuple[Capability, bool], ...]:
        """The rights that were given, and whether each still stands; the same object until that
        changes.
        """
        if self._listed is None:
            self._listed = tuple(
                (each, self._is_given(each))
                for held in self._held.values()
                for each in held.values()
            )
        return self._listed

    def knows(self, link_id: bytes) -> bool:
        """Whether a right is in what was admitted."""
        return link_id in self._copies

    def best_of(self, identity: bytes, level: Level, now_ms: int) -> Capability | None:
        """A right of an identity that stands now, the widest first."""
        held = self._held.get(identity, {}).values()
        found = [each for each in held if self._stands(each, level, now_ms)]
        return max(
            found, key=lambda each: (each.right.level, -len(each.right.prefix)), default=None
        )

    def descendants(self, link_id: bytes) -> set[bytes]:
        """The identities that hold rights by way of a link."""
        return {
            identity
            for identity, held in self._held.items()
            if any(_goes_by(each, (link_id,)) for each in held.values())
        }


def _goes_by(capability: Capability, links: Container[bytes]) -> bool:
    """Whether a right was given by one of these, or by what was passed on from one."""
    return any(link.id in links for link in capability.links)
