"""The read keys of a sealed document, as its entries give them to one identity.

A read key counts if an owner has named it, in an entry that is admitted, or is kept because others
depend on it: so what takes effect is the same for all who can read it, and no writer makes some
read what others cannot. Whoever seals such a key to a reader, the key is the one that its ID says,
or it is no key. Who writes seals with the newest key that no later one takes the place of.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from lattica.crdt.access.key_entry import (
    BOX_ITEM_BYTES,
    MAX_EARLIER,
    KeyEntry,
    decode_key_entry,
)
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.keys.identities import peer_of
from lattica.crdt.keys.sealing import ReadKey, key_id_of, open_payload, seal_key, unseal_key
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

logger = logging.getLogger(__name__)

_FRAME_BYTES = 256
"""Of an entry about a key, beside earlier keys and boxes."""
_EARLIER_BYTES = 72
_MAX_PROBLEMS = 1024
"""Of keys that no owner names."""
PLAIN_KINDS = frozenset({Kind.SESSION, Kind.GRANT, Kind.REVOKE, Kind.KEY, Kind.ERASE, Kind.FINAL})
"""Whose payloads are read by all who pass them on."""


class NoReadKeyError(Exception):
    """A payload is sealed with a key that counts, and that is not here."""


@dataclass(slots=True)
class _Named:
    """What owners have said of a key."""

    introduced: dict[bytes, int] = field(default_factory=dict)
    """Entries that name it, by ID, and their times; those that were withdrawn too."""
    admitted: set[bytes] = field(default_factory=set)
    """Those of them that are admitted."""
    earlier: dict[bytes, bytes | None] = field(default_factory=dict)
    """Keys that it takes the place of, and their boxes."""
    replaced_by: dict[bytes, int] = field(default_factory=dict)
    """Admitted entries that say that another one takes its place, and their times."""
    sealed_to: set[bytes] = field(default_factory=set)
    """To whom owners have sealed it."""

    @property
    def since(self) -> tuple[int, bytes]:
        """When it was named first."""
        admitted = [(self.introduced[each], each) for each in self.admitted]
        return min(admitted, default=(0, b""))

    @property
    def is_head(self) -> bool:
        """Whether it is to be written with."""
        if not self.admitted:
            return False
        replaced = max(((hlc, each) for each, hlc in self.replaced_by.items()), default=(-1, b""))
        return replaced < self.since


class Keyring:
    """Of one sealed document and identity. Who owns the document does not change meanwhile."""

    def __init__(
        self, genesis: Genesis, identity: Identity, ownership: Ownership | None = None
    ) -> None:
        self._doc_id = genesis.doc_id
        self._ownership = ownership or Ownership(genesis)
        self._limit = genesis.limits.entry_bytes
        self._identity = identity
        self._own = identity.public_key.data
        self._keys: dict[bytes, ReadKey] = {}
        self._named: dict[bytes, _Named] = {}
        self._used: set[tuple[bytes, bytes]] = set()
        """Authors, and keys on whose entries theirs depend."""
        self.problems: dict[bytes, str] = {}
        """By the ID of a key that is not here, why."""

    # What comes in.

    def learn(self, entry: Entry, identity: bytes, *, is_admitted: bool = True) -> None:
        """Take an entry of an identity, be it one that was withdrawn."""
        if entry.header.kind != Kind.KEY or entry.payload is None:
            return
        try:
            read = decode_key_entry(entry.payload)
        except RemoteProtocolError:
            return  # without effect, for every replica
        is_owners = self._ownership.was_owner(identity)
        if is_owners or entry.header.deps:
            self._used.add((entry.header.author, read.key_id))
        if is_owners:
            counts = is_admitted and self._ownership.acts(entry.header, identity)
            self._learn_owners(entry, read, is_admitted=counts)
        if read.key_id not in self._keys:
            for subject, box in read.boxes:
                if subject == self._own:
                    self._unseal(read, box, identity)
        self._follow(read.key_id)

    def _learn_owners(self, entry: Entry, read: KeyEntry, *, is_admitted: bool) -> None:
        named = self._named.setdefault(read.key_id, _Named())
        named.introduced[entry.id] = entry.header.hlc
        for key_id, box in read.earlier:
            named.earlier[key_id] = box or named.earlier.get(key_id)
        if not is_admitted:
            return
        named.admitted.add(entry.id)
        named.sealed_to.update(subject for subject, _ in read.boxes)
        for key_id, _ in read.earlier:
            if key_id != read.key_id:
                replaced = self._named.setdefault(key_id, _Named()).replaced_by
                replaced[entry.id] = entry.header.hlc

    def _unseal(self, read: KeyEntry, box: bytes, by: bytes) -> None:
        try:
            self._keys[read.key_id] = unseal_key(
                self._identity, self._doc_id, read.key_id, read.ephemeral, box
            )
        except RemoteProtocolError as error:
            said = f"{peer_of(by) if by else 'somebody'} has sealed it wrongly: {error}"
            # Of keys that no owner names anybody may say anything, as often as he likes.
            named = self._named.get(read.key_id)
            counts = named is not None and bool(named.introduced)
            if not counts and len(self.problems) >= _MAX_PROBLEMS:
                return
            if counts and self.problems.get(read.key_id) != said:
                logger.warning(
                    "a read key cannot be used document=%s key=%s: %s",
                    self._doc_id.hex(),
                    read.key_id.hex(),
                    said,
                )
            self.problems[read.key_id] = said
        else:
            self.problems.pop(read.key_id, None)

    def _follow(self, key_id: bytes) -> None:
        """Take the earlier keys that a key leads to."""
        wanted = [key_id]
        while wanted:
            key, named = self._keys.get(name := wanted.pop()), self._named.get(name)
            if key is None or named is None:
                continue
            for earlier, box in named.earlier.items():
                if box is None or earlier in self._keys:
                    continue
                try:
                    self._keys[earlier] = key.unbox(earlier, box)
                except RemoteProtocolError as error:
                    self.problems[earlier] = f"an owner has linked it wrongly: {error}"
                else:
                    self.problems.pop(earlier, None)
                    wanted.append(earlier)

    # What is read and written with.

    def open(self, entry: Entry) -> bytes | None:
        """What the payload of an entry says; None if nobody is to read anything in it.

        Raises:
            NoReadKeyError: it is sealed with a key that is not here.
        """
        sealed, header = entry.payload, entry.header
        if sealed is None or header.kind in PLAIN_KINDS:
            return sealed
        return self.open_sealed(header.author, header.kind, sealed)

    def open_sealed(self, author: bytes, kind: int, sealed: bytes) -> bytes | None:
        """As :meth:`open`, of what somebody has sealed as something of a kind."""
        key_id = key_id_of(sealed)
        named = self._named.get(key_id)
        if named is None or not named.introduced:
            return None
        key = self._keys.get(key_id)
        if key is None:
            raise NoReadKeyError
        try:
            return open_payload(key.entry_key(author, kind, sealed), sealed)
        except RemoteProtocolError:
            return None

    def entry_key(self, entry: Entry) -> bytes:
        """By which others read this entry and no other. Of one that :meth:`open` has opened."""
        header, sealed = entry.header, entry.payload or b""
        return self._keys[key_id_of(sealed)].entry_key(header.author, header.kind, sealed)

    @property
    def current(self) -> ReadKey | None:
        """With which is written; None if there is none here."""
        known = [each for each in self.heads if each in self._keys]
        newest = max(known, key=lambda each: self._named[each].since, default=None)
        return None if newest is None else self._keys[newest]

    @property
    def heads(self) -> list[bytes]:
        """Keys that no later one takes the place of."""
        return [key_id for key_id, named in self._named.items() if named.is_head]

    @property
    def extent(self) -> tuple[int, int]:
        """Another one whenever more can be read."""
        return len(self._keys), sum(1 for named in self._named.values() if named.introduced)

    @property
    def is_empty(self) -> bool:
        """Whether there are keys, and none of them is here."""
        return bool(self._named) and not any(key_id in self._keys for key_id in self._named)

    def known(self) -> Iterable[tuple[bytes, int, bool, bool, str]]:
        """Of each key that counts its ID, hybrid time, whether it is here and to be written with,
        and what is wrong with it.
        """
        for key_id, named in self._named.items():
            if named.introduced:
                since = min(named.introduced.values())
                is_here = key_id in self._keys
                problem = self.problems.get(key_id, "")
                yield key_id, since, is_here, named.is_head, problem

    def introduction(self, key_id: bytes, author: bytes) -> bytes | None:
        """The entry on which an author's entries with a key are to depend; None if they do, for
        one of his depends on it.
        """
        if (author, key_id) in self._used:
            return None
        return self._named[key_id].since[1]

    # What owners, and who gives a right to read, write.

    def lacking(self, readers: Collection[bytes]) -> dict[bytes, list[bytes]]:
        """By key that is here and is to be written with, the readers to whom no owner has sealed
        it.
        """
        found: dict[bytes, list[bytes]] = {}
        for key_id in self.heads:
            missing = set(readers) - self._named[key_id].sealed_to
            if key_id in self._keys and missing:
                found[key_id] = sorted(missing)
        return found

    def is_outdated(self, readers: Collection[bytes]) -> bool:
        """Whether a key that is written with is one of somebody's who reads no more."""
        return any(not self._named[each].sealed_to.issubset(readers) for each in self.heads)

    def sealing(self, key_id: bytes, readers: Collection[bytes]) -> list[bytes]:
        """Payloads that give a key which is here to readers."""
        return self._payloads(self._keys[key_id], readers, ())

    def rotation(self, readers: Collection[bytes], *, history: bool) -> tuple[bytes, list[bytes]]:
        """The ID of a new key, and payloads that put it in place of all others; with `history` it
        leads to those before it.
        """
        key = ReadKey.generate(self._doc_id)
        earlier: list[tuple[bytes, bytes | None]] = []
        for key_id in sorted(self.heads)[:MAX_EARLIER]:
            known = self._keys.get(key_id) if history else None
            earlier.append((key_id, None if known is None else key.box(known)))
        return key.id, self._payloads(key, readers, tuple(earlier))

    def _payloads(
        self,
        key: ReadKey,
        readers: Collection[bytes],
        earlier: tuple[tuple[bytes, bytes | None], ...],
    ) -> list[bytes]:
        names, payloads = sorted(readers), list[bytes]()
        while names or not payloads:
            room = self._limit - _FRAME_BYTES - _EARLIER_BYTES * len(earlier)
            count = room // BOX_ITEM_BYTES
            if count < 1:
                raise LocalProtocolError("the document's entries have no room for a read key")
            sealed = seal_key(key, names[:count])
            names = names[count:]
            payloads.append(KeyEntry(key.id, earlier, sealed.ephemeral, sealed.boxes).encode())
            earlier = ()
        return payloads
