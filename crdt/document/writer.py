"""Whoever writes to a document here: what he may, and his entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lattica.crdt.access.rights import Rights
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.outcome import Outcome
from lattica.nat.base.errors import LocalProtocolError


class Writer:
    """Writes entries of this store's identity.

    Args:
        replica: where they are kept.
        wall: milliseconds since 1970.
        on_outcome: takes what comes of them.
    """

    def __init__(
        self,
        replica: Replica,
        wall: Callable[[], int],
        on_outcome: Callable[[Outcome], object],
    ) -> None:
        self.replica = replica
        self._wall = wall
        self._on_outcome = on_outcome

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._wall()

    @property
    def identity(self) -> bytes:
        """The key of the identity that writes here."""
        return self.replica.identity.public_key.data

    @property
    def rights(self) -> Rights:
        """Who may do what. Raises LocalProtocolError if everybody may write."""
        rights = self.replica.log.rights
        if rights is None:
            raise LocalProtocolError("everybody may write to this document: it has no rights")
        return rights

    @property
    def is_owner(self) -> bool:
        """Whether it is an owner who writes here. Raises what :attr:`rights` does."""
        return self.rights.is_owner(self.identity)

    def write(
        self, items: Sequence[tuple[Kind, bytes]], deps: Sequence[tuple[bytes, ...]] = ()
    ) -> None:
        """Write entries; see :meth:`Replica.write`."""
        self._on_outcome(self.replica.write(items, self._wall(), deps))
