"""What a peer serves of one content id: a publication, or what a fetch has of one so far."""

from __future__ import annotations

from typing import Protocol

from lattica.content.errors import ContentError
from lattica.content.swarm.holdings import Holdings


class NotHereError(ContentError):
    """A chunk that was asked for is not here, or not yet."""


class Served(Protocol):
    """Chunks of one manifest. Reading blocks, and may happen in several threads at once."""

    @property
    def name(self) -> str:
        """The publication's."""
        ...

    @property
    def encoded(self) -> bytes:
        """The manifest."""
        ...

    @property
    def chunk_count(self) -> int:
        """How many chunks the manifest has."""
        ...

    @property
    def holdings(self) -> Holdings | None:
        """The chunks that are here; None: all of them."""
        ...

    def chunk_list(self, number: int) -> bytes:
        """A list of the manifest's chunks (:mod:`~lattica.content.manifest.lists`).

        Raises:
            RemoteProtocolError: there is none of that number.
            NotHereError: it is not here.
        """
        ...

    def check_span(self, first: int, count: int, offset: int = 0) -> None:
        """Raise :class:`~lattica.errors.RemoteProtocolError` for a request that asks too much, and
        :class:`NotHereError` where that cannot be told."""
        ...

    def read_span(self, first: int, count: int) -> bytes:
        """Read chunks, as checked by :meth:`check_span`.

        Raises:
            ContentChangedError: they are not any more what was published.
            NotHereError: they are not here.
            OSError: reading fails.
        """
        ...
