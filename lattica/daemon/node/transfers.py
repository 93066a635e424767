"""Hashings and fetches that are under way, for whoever looks at a node. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lattica.content.events import FetchEvent, FetchProgress, FetchStarted, HashProgress


@dataclass(slots=True, eq=False)
class Transfer:
    """One of them, as far as it is."""

    id: int
    kind: str
    """"publish", "fetch" or "follow"."""
    path: str
    name: str = ""
    phase: str = ""
    """That of :class:`lattica.content.events.Progress`; of one that follows a name also "failed",
    and "done" until there is another version."""
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    """Bytes a second."""
    sources: int = 0

    def update(self, event: FetchEvent | HashProgress) -> None:
        """Take note of what has happened."""
        self.bytes_done, self.bytes_total = event.bytes_done, event.bytes_total
        if isinstance(event, FetchStarted):
            self.name = event.name
        self.rest(event.phase)
        if isinstance(event, FetchProgress):
            self.rate, self.sources = event.rate, event.sources

    def rest(self, phase: str) -> None:
        """Nothing moves in this phase, or is known to."""
        self.phase = phase
        self.rate, self.sources = 0.0, 0


class Transfers:
    """All of a node."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._live: dict[int, Transfer] = {}

    def __iter__(self) -> Iterator[Transfer]:
        return iter([*self._live.values()])

    @contextmanager
    def begin(self, kind: str, path: str, name: str = "") -> Iterator[Transfer]:
        """One that is under way until the end of the block."""
        transfer = Transfer(next(self._ids), kind, path, name)
        self._live[transfer.id] = transfer
        try:
            yield transfer
        finally:
            del self._live[transfer.id]
