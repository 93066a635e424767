"""What has changed in a document, for whoever listens: places, each of them once however often it
was written at, so that nobody who is slow misses the last state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

from lattica.crdt.base.canonical import encode
from lattica.crdt.types.state import Change
from lattica.nat.base.keys.identity import PeerId

MAX_PLACES: Final = 10_000
"""That wait for a listener; of more it is told as one :class:`Rebuilt`."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Anything may be another one than before: read anew what matters."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A peer has come, gone, or says something else of itself."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class OwnersChange:
    """Somebody else owns the document, or an owner has contradicted itself, so that it does nothing
    any more that only owners do: see :meth:`~lattica.crdt.document.Document.owners`.
    """


@dataclass(frozen=True, slots=True)
class ErasedChange:
    """Payloads of entries were erased, or have come back where that does not count any more: see
    :meth:`~lattica.crdt.document.Document.entries`.
    """


DocumentChange: TypeAlias = Change | Rebuilt | PresenceChange | OwnersChange | ErasedChange


class ChangeStream:
    """Changes from the moment at which it was made: `async for change in stream`.

    A place that changes again before the listener has come to it is told once; what is read then
    is its last state. Close it, or use `with`. It ends with the document.
    """

    def __init__(self) -> None:
        self._places: dict[object, DocumentChange] = {}
        self._news = trio.Event()
        self._is_closed = False

    def tell(self, changes: Iterable[Change], *, is_rebuilt: bool) -> None:
        """Note what has changed. Never waits."""
        if is_rebuilt or len(self._places) > MAX_PLACES:
            others = {
                key: each
                for key, each in self._places.items()
                if isinstance(each, PresenceChange | OwnersChange | ErasedChange)
            }
            self._places = {"rebuilt": Rebuilt(), **others}
        elif "rebuilt" not in self._places:
            for change in changes:
                self._places[change.kind, change.name, encode(change.item)] = change
        if self._places:
            self._news.set()

    def tell_presence(self, peer: PeerId) -> None:
        """Note whose presence has changed. Never waits."""
        if len(self._places) <= MAX_PLACES:
            self._places[peer] = PresenceChange(peer)
            self._news.set()

    def tell_owners(self) -> None:
        """Note that the owners are others. Never waits."""
        self._places["owners"] = OwnersChange()
        self._news.set()

    def tell_erased(self) -> None:
        """Note that something was erased. Never waits."""
        self._places["erased"] = ErasedChange()
        self._news.set()

    def close(self) -> None:
        """Tell no more; what waits is still told."""
        self._is_closed = True
        self._news.set()

    def __enter__(self) -> ChangeStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __aiter__(self) -> ChangeStream:
        return self

    async def __anext__(self) -> DocumentChange:
        # A cancelled wait takes nothing out.
        await self._news.wait()
        if not self._places:
            raise StopAsyncIteration
        place = next(iter(self._places))
        change = self._places.pop(place)
        if not self._places and not self._is_closed:
            self._news = trio.Event()
        return change
