"""Forks: two signed headers that one honest session cannot both have made.

Either they have one sequence number and are different, or one says it follows on the other and
names another ID. Anybody can check it without the rest of the log, and nothing takes it back. One
that its author has not signed by itself, as he can where it goes with others, has those behind it
in the proof, up to the first that he has signed: that one's links vouch for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.entries.chain import SIGNED_EVERY
from lattica.crdt.entries.header import NOT_SIGNED, Entry, Header, check_entry, decode_header
from lattica.nat.base.errors import RemoteProtocolError

MAX_PATH: Final = SIGNED_EVERY
"""Entries behind one that is not signed by itself."""
MAX_PROOF: Final = 512 * 1024
"""Bytes; one whose entries are signed by themselves has less than 2,048."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two, without its payload, and those that vouch for it."""

    entry: Entry
    path: tuple[Entry, ...] = ()
    """Entries that follow on it, up to one that is signed, unless it is signed by itself."""

    @property
    def plain(self) -> list[bytes]:
        """Their headers, and the signature of the last."""
        entries = (self.entry, *self.path)
        return [*(each.header.encoded for each in entries), entries[-1].signature]


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two entries, in order of their sequence numbers and IDs."""

    one: Side
    other: Side

    @property
    def first(self) -> Entry:
        """The one with the lower number, or ID."""
        return self.one.entry

    @property
    def second(self) -> Entry:
        """The other one."""
        return self.other.entry

    @property
    def author(self) -> bytes:
        """Who is to blame."""
        return self.first.header.author

    @property
    def seq(self) -> int:
        """The first place of the chain that is not to be trusted."""
        return self.first.header.seq

    @property
    def earliest(self) -> tuple[Side, ...]:
        """Those of the two that stand at :attr:`seq`."""
        if self.second.header.seq == self.seq:
            return self.one, self.other
        return (self.one,)

    @property
    def _before(self) -> set[bytes]:
        """On what those that stand at :attr:`seq` follow."""
        return {each.entry.header.prev_id for each in self.earliest}

    def vouches_for(self, ids: Sequence[bytes]) -> bool:
        """Whether these, the IDs of all that is kept of the author, are followed by one that is
        named here, so that no other signature of the last of them is needed.
        """
        return bool(ids) and len(ids) == self.seq and ids[-1] in self._before

    def behind(self, header: Header) -> tuple[Entry, ...]:
        """What is in it of that which follows on an entry."""
        for side in self.earliest:
            if side.entry.header.prev_id == header.id and self.seq == header.seq + 1:
                return (side.entry, *side.path)
        return ()

    def is_within(self, other: ForkProof) -> bool:
        """Whether another proof for the same place has more of what stands there."""
        return len(self.earliest) < len(other.earliest) and self._before <= other._before

    def parted_by(self, side: Side) -> ForkProof | None:
        """A proof for the same place that names two entries before it, if this one does not, and
        what stands at that place in `side` follows on another one. Whichever entry is there, one
        of the two does not follow on it.
        """
        before = self._before
        if len(before) == 2 or side.entry.header.prev_id in before:
            return None
        return find_fork_between(self.one, side)

    def earlier_by(self, side: Side) -> ForkProof | None:
        """A proof for the place before, if one of those that stand at :attr:`seq` does not follow
        on what stands before it in `side`.
        """
        found = (find_fork_between(side, each) for each in self.earliest)
        return next((proof for proof in found if proof is not None), None)

    def encode(self) -> bytes:
        """`[[header, …, signature], [header, …, signature]]`, canonical."""
        return encode([self.one.plain, self.other.plain])


def find_fork(one: Entry, other: Entry) -> ForkProof | None:
    """The proof that two entries of one document are; None if they can live together, or if one
    of them is not signed by itself.
    """
    return find_fork_between(Side(one), Side(other))


def find_fork_between(one: Side, other: Side) -> ForkProof | None:
    """As :func:`find_fork`, of entries that those which follow on them may vouch for."""
    first, second = sorted((one, other), key=lambda side: (side.entry.header.seq, side.entry.id))
    if not _contradict(first.entry, second.entry):
        return None
    vouched = _vouched(first), _vouched(second)
    if vouched[0] is None or vouched[1] is None:
        return None
    return ForkProof(vouched[0], vouched[1])


def _vouched(side: Side) -> Side | None:
    """What of it is needed; None if nothing of it is signed."""
    entries: list[Entry] = []
    for entry in (side.entry, *side.path[:MAX_PATH]):
        if entries and (
            entry.header.prev_id != entries[-1].id
            or entry.header.author != side.entry.header.author
        ):
            return None
        if entry.is_signed():
            entries.append(Entry(entry.header, entry.signature, None))
            return Side(entries[0], tuple(entries[1:]))
        entries.append(Entry(entry.header, NOT_SIGNED, None))
    return None


def _contradict(first: Entry, second: Entry) -> bool:
    one, other = first.header, second.header
    if (one.doc_id, one.author) != (other.doc_id, other.author):
        return False
    if one.seq == other.seq:
        return first.id != second.id
    return other.seq == one.seq + 1 and other.prev_id != first.id


def decode_fork(data: bytes, doc_id: bytes) -> ForkProof:
    """Read a proof for a document, and verify it.

    Raises:
        RemoteProtocolError: it proves nothing.
    """
    match decode(data, MAX_PROOF):
        case [[bytes(), bytes(), *_] as one, [bytes(), bytes(), *_] as other]:
            proof = find_fork_between(_side(one, doc_id), _side(other, doc_id))
        case _:
            raise RemoteProtocolError("not the proof of a fork")
    if proof is None or proof.encode() != data:
        raise RemoteProtocolError("two entries that prove no fork")
    return proof


def _side(items: Sequence[object], doc_id: bytes) -> Side:
    """Raises RemoteProtocolError."""
    *headers, signature = items
    if len(headers) > MAX_PATH + 1:
        raise RemoteProtocolError("a proof of a fork that is too long")
    entries: list[Entry] = []
    for place, header in enumerate(headers, 1):
        if not isinstance(header, bytes) or not isinstance(signature, bytes):
            raise RemoteProtocolError("not the proof of a fork")
        is_last = place == len(headers)
        entry = Entry(decode_header(header), signature if is_last else NOT_SIGNED, None)
        check_entry(entry)
        if entry.header.doc_id != doc_id:
            raise RemoteProtocolError("the proof of a fork in another document")
        entries.append(entry)
    return Side(entries[0], tuple(entries[1:]))
