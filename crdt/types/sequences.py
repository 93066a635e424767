"""The texts and lists of a document, and what forks have withdrawn of them."""

from __future__ import annotations

from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.text.edits import Delete, Edit, Place
from lattica.crdt.text.sequence import Clients, TextSequence
from lattica.crdt.types.payloads import ListWrite, TextWrite, decode_write
from lattica.nat.base.errors import RemoteProtocolError

_KINDS = (Kind.TEXT, Kind.LIST)


class Sequences:
    """By kind and name. Entries come after those that they depend on."""

    def __init__(self, doc_id: bytes) -> None:
        self._doc_id = doc_id
        self._sequences: dict[tuple[Kind, str], TextSequence] = {}
        self._withdrawn: dict[bytes, Entry] = {}
        """By ID; they are put in, as deleted, when an entry that stands refers to one."""
        self._owners: dict[tuple[Kind, str], frozenset[bytes]] = {}
        """Who edits the sequences in which numbers have clashed."""
        self._links: dict[bytes, tuple[int, bytes]] = {}
        """Of all that was withdrawn, sequence number and ID of the entry before, by ID."""
        self._has_clashed = False

    def clear(self) -> None:
        """Begin anew, with the knowledge of whose numbers clash."""
        self._owners = {
            key: sequence.clients.owners
            for key, sequence in self._sequences.items()
            if not sequence.clients.is_settled
        }
        self._sequences.clear()
        self._withdrawn.clear()
        self._links.clear()

    @property
    def is_settled(self) -> bool:
        """See :attr:`State.is_settled`."""
        return not self._has_clashed or all(
            sequence.clients.is_settled for sequence in self._sequences.values()
        )

    def get(self, kind: Kind, name: str) -> TextSequence:
        """One of them; it is made if there is none yet."""
        key = (kind, name)
        sequence = self._sequences.get(key)
        if sequence is None:
            clients = Clients(self._doc_id, self._owners.get(key, ()))
            sequence = self._sequences[key] = TextSequence(kind, clients)
        return sequence

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Of those that were written to, in order."""
        return tuple(
            sorted(
                name
                for (each, name), sequence in self._sequences.items()
                if each == kind and sequence.is_written
            )
        )

    def apply(self, entry: Entry, write: TextWrite | ListWrite) -> bool:
        """Take an admitted entry; whether it has an effect."""
        if self._withdrawn:
            self._bury([dep for dep in entry.header.deps if dep in self._withdrawn])
        sequence = self.get(Kind(entry.header.kind), write.name)
        has_effect = sequence.apply(entry.header, write.edits)
        self._has_clashed = self._has_clashed or not sequence.clients.is_settled
        return has_effect

    def withdraw(self, entry: Entry) -> None:
        """Take an entry that was withdrawn."""
        self._links[entry.id] = (entry.header.seq, entry.header.prev_id)
        if entry.header.kind in _KINDS and entry.payload is not None:
            self._withdrawn[entry.id] = entry

    def _bury(self, wanted: list[bytes]) -> None:
        """Put in withdrawn entries as deleted, each after those that it refers to itself."""
        opened: set[bytes] = set()
        while wanted:
            entry = self._withdrawn.get(wanted[-1])
            if entry is None:
                wanted.pop()
                continue
            write = _read(entry)
            if write is None:
                del self._withdrawn[wanted.pop()]
                continue
            own = {entry.header.seq + 1 + source for source in _sources(write.edits)}
            branch = self._branch(entry, min(own, default=entry.header.seq))
            if entry.id not in opened:
                opened.add(entry.id)
                wanted += [dep for dep in entry.header.deps if dep in self._withdrawn]
                wanted += [branch[seq] for seq in own if seq in branch]
                continue
            del self._withdrawn[wanted.pop()]
            sequence = self.get(Kind(entry.header.kind), write.name)
            sequence.apply(entry.header, write.edits, branch)
            self._has_clashed = self._has_clashed or not sequence.clients.is_settled

    def _branch(self, entry: Entry, since: int) -> dict[int, bytes]:
        """The withdrawn entries before one, by sequence number, as far back as one of them."""
        branch: dict[int, bytes] = {}
        link = self._links.get(entry.header.prev_id)
        entry_id = entry.header.prev_id
        while link is not None and link[0] >= since:
            branch[link[0]] = entry_id
            entry_id = link[1]
            link = self._links.get(entry_id)
        return branch


def _read(entry: Entry) -> TextWrite | ListWrite | None:
    try:
        write = decode_write(entry.header.kind, entry.payload or b"")
    except RemoteProtocolError:
        return None
    return write if isinstance(write, TextWrite | ListWrite) else None


def _sources(edits: tuple[Edit, ...]) -> set[int]:
    """Those that name earlier entries of the same author."""
    places: list[Place | None] = []
    for edit in edits:
        places += [edit.place] if isinstance(edit, Delete) else [edit.left, edit.right]
    return {place.source for place in places if place is not None and place.source < -1}
