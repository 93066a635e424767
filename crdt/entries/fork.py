"""Forks: two signed headers that one honest session cannot both have made.

Either they have one sequence number and are different, or one says it follows on the other and
names another ID. Anybody can check it without the rest of the log, and nothing takes it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattica.crdt.canonical import decode, encode
from lattica.crdt.entries.header import Entry, check_entry, decode_header
from lattica.nat.base.errors import RemoteProtocolError

MAX_PROOF: Final = 4096
"""Bytes."""


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two entries, without their payloads, in order of their sequence numbers and IDs."""

    first: Entry
    second: Entry

    @property
    def author(self) -> bytes:
        """Who is to blame."""
        return self.first.header.author

    @property
    def seq(self) -> int:
        """The first place of the chain that is not to be trusted."""
        return self.first.header.seq

    @property
    def earliest(self) -> tuple[Entry, ...]:
        """Those of the two that stand at :attr:`seq`."""
        if self.second.header.seq == self.seq:
            return self.first, self.second
        return (self.first,)

    def is_within(self, other: ForkProof) -> bool:
        """Whether another proof for the same place has more of what stands there."""
        mine, others = ({entry.header.prev_id for entry in each.earliest} for each in (self, other))
        return len(self.earliest) < len(other.earliest) and mine <= others

    def parted_by(self, entry: Entry) -> ForkProof | None:
        """A proof for the same place that names two entries before it, if this one does not, and
        `entry`, which has to stand at that place, follows on another one. Whichever entry is
        there, one of the two does not follow on it.
        """
        before = {each.header.prev_id for each in self.earliest}
        if len(before) == 2 or entry.header.prev_id in before:
            return None
        return find_fork(self.first, entry)

    def encode(self) -> bytes:
        """`[[header, signature], [header, signature]]`, canonical."""
        return encode([[each.header.encoded, each.signature] for each in (self.first, self.second)])


def find_fork(one: Entry, other: Entry) -> ForkProof | None:
    """The proof that two entries of one document are; None if they can live together, or if one
    of them is not signed by itself.
    """
    first, second = sorted((one, other), key=lambda entry: (entry.header.seq, entry.id))
    if not _contradict(first, second) or not (one.is_signed() and other.is_signed()):
        return None
    return ForkProof(
        Entry(first.header, first.signature, None), Entry(second.header, second.signature, None)
    )


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
        case [[bytes(one), bytes(one_signature)], [bytes(other), bytes(other_signature)]]:
            pass
        case _:
            raise RemoteProtocolError("not the proof of a fork")
    first = Entry(decode_header(one), one_signature, None)
    second = Entry(decode_header(other), other_signature, None)
    for entry in (first, second):
        check_entry(entry)
        if entry.header.doc_id != doc_id:
            raise RemoteProtocolError("the proof of a fork in another document")
    proof = find_fork(first, second)
    if proof is None or proof.encode() != data:
        raise RemoteProtocolError("two entries that prove no fork")
    return proof
