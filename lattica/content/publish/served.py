"""What a peer serves of one content id: a publication, or what a fetch has of one so far."""

from __future__ import annotations

from typing import Protocol

from lattica.content.errors import ContentError
from lattica.content.manifest.lists import encode_list
from lattica.content.manifest.manifest import Manifest
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.swarm.holdings import Holdings
from lattica.nat.base.errors import RemoteProtocolError


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


class ServedWhole:
    """What of :class:`Served` is the same for all who have every chunk of a manifest."""

    __slots__ = ()

    manifest: Manifest

    @property
    def name(self) -> str:
        """As in the manifest."""
        return self.manifest.name

    @property
    def chunk_count(self) -> int:
        """How many chunks it has."""
        return self.manifest.chunk_count

    @property
    def holdings(self) -> None:
        """All chunks are here."""

    def chunk_list(self, number: int) -> bytes:
        """A list of its chunks; raises :class:`RemoteProtocolError` for one that there is not."""
        return encode_list(self.manifest, number)

    def check_span(self, first: int, count: int, offset: int = 0) -> None:
        """Raise :class:`RemoteProtocolError` for a request that asks too much."""
        check_span(self.manifest, first, count, offset)


def check_span(manifest: Manifest, first: int, count: int, offset: int) -> None:
    """Check a request for chunks of a manifest; raises :class:`RemoteProtocolError`."""
    if first + count > manifest.chunk_count:
        raise RemoteProtocolError(
            f"chunks {first} to {first + count - 1} were asked for, "
            f"of {manifest.chunk_count} that there are"
        )
    size = sum(manifest.chunk(number).length for number in range(first, first + count))
    if count > 1 and size > MAX_SPAN_BYTES:
        raise RemoteProtocolError(f"{size} bytes were asked for at once")
    if offset and offset >= size:
        raise RemoteProtocolError(f"byte {offset} of {size} was asked for")
