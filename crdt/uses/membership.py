"""Who works here, where each is reached, how busy it is, and whether it is there now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Final, Protocol

from lattica.crdt.base.canonical import Plain
from lattica.crdt.uses.shape import DocumentLike, as_info, check_document
from lattica.nat.base.checks import check_several, check_type
from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id

_ROOT: Final = "workers"


class PresenceLike(Protocol):
    """Who says of himself that he is there."""

    def set(self, value: Plain = None) -> None: ...

    def clear(self) -> None: ...

    def peers(self) -> dict[PeerId, Plain]: ...


class DocumentWithPresence(DocumentLike, Protocol):
    """A document that is shared."""

    @property
    def presence(self) -> PresenceLike: ...


@dataclass(frozen=True, slots=True)
class Worker:
    """A member."""

    peer: PeerId
    addresses: tuple[str, ...] = ()
    info: Mapping[str, Plain] = field(default_factory=dict)
    """What it has said of itself when it joined."""
    is_here: bool = False
    """Whether it was heard of in the last fifteen seconds."""
    load: float | None = None
    """As it last said, if it is here."""


class Membership:
    """Workers in a document: who has joined stays known, and is here while it says so.

    `peer` is this node's ID.
    """

    def __init__(self, document: DocumentWithPresence, peer: PeerId) -> None:
        check_document(document)
        self._document = document
        self._peer = peer
        self._said: dict[str, Plain] | None = None
        """What this node says of itself, while it is a member by this."""

    def join(
        self,
        addresses: Sequence[object] = (),
        *,
        load: float = 0.0,
        info: Mapping[str, Plain] | None = None,
    ) -> None:
        """Be a member, reached at these addresses, and be here."""
        check_several("addresses", addresses, "a list of them")
        self._said = {"addresses": [str(each) for each in addresses], "info": as_info(info)}
        self.update(load)

    def update(self, load: float) -> None:
        """Say how busy this node is; costs no entry, unless another one has written over what this
        node had said of itself.
        """
        check_type("load", load, Real, "a number")
        name = str(self._peer)
        if self._said is not None and self._said_at(name, self._peer) != self._said:
            self._document.registers[f"{_ROOT}/{name}"] = self._said
        self._document.presence.set({"load": float(load)})

    def _said_at(self, name: str, peer: PeerId) -> Plain:
        """What a worker says of itself; None if nothing, or another one has written over it."""
        writes = self._document.registers.conflicts(f"{_ROOT}/{name}")
        if not writes or self._document.peer_of(writes[0].author) != peer:
            return None
        return writes[0].value

    def leave(self) -> None:
        """Be a member no more."""
        self._said = None
        self._document.presence.clear()
        self._document.registers[f"{_ROOT}/{self._peer}"] = None

    def workers(self, *, only_here: bool = True) -> list[Worker]:
        """The members, those that are least busy first, and those that are not here last.

        What stands in another's name is left out: only a worker itself says what it is.
        """
        here = self._document.presence.peers()
        found = []
        for name, _ in self._document.registers.below(f"{_ROOT}/"):
            worker = self._read(name, here)
            if worker is not None and (worker.is_here or not only_here):
                found.append(worker)
        return sorted(found, key=lambda each: (not each.is_here, each.load or 0.0, str(each.peer)))

    def _read(self, name: str, here: Mapping[PeerId, Plain]) -> Worker | None:
        try:
            peer = parse_peer_id(name)
        except AddressError:
            return None
        match self._said_at(name, peer):
            case {"addresses": list(addresses), "info": dict(info)}:
                texts = tuple(each for each in addresses if isinstance(each, str))
            case _:
                return None
        load: float | None = None
        match here.get(peer):
            case {"load": float(load)}:
                pass
        return Worker(peer, texts, info, peer in here, load)
