"""Whoever writes to a document here: what he may, and his entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lattica.crdt.access.rights import Rights
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.outcome import Outcome
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError


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
        """Whether it is an owner who writes here, and nothing keeps him from what only owners do.
        Raises what :attr:`rights` does.
        """
        rights = self.rights
        return rights.is_owner(self.identity) and not rights.ownership.forks_of(self.identity)

    def check_owner(self, what: str) -> None:
        """Raises AccessDeniedError if it is no owner who writes here, or one who is frozen; `what`
        only owners do.
        """
        if not self.rights.is_owner(self.identity):
            raise AccessDeniedError(f"only owners {what}")
        forks = self.rights.ownership.forks_of(self.identity)
        if forks:
            raise AccessDeniedError(
                f"only owners {what}, and a session of this one has contradicted itself "
                f"({', '.join(each.hex() for each in forks)}), as after a backup or a virtual "
                "machine was restored: it can again when it, or somebody else, is appointed owner "
                "in its place (Document.appoint, `lattica crdt appoint`)"
            )

    def take_office(self) -> None:
        """Own the document by what was appointed, if that can be now and is not so yet."""
        if self.replica.genesis.can_be_recovered:
            outcome = self.replica.take_office(self._wall())
            if outcome is not None:
                self._on_outcome(outcome)

    def write(
        self, items: Sequence[tuple[Kind, bytes]], deps: Sequence[tuple[bytes, ...]] = ()
    ) -> None:
        """Write entries; see :meth:`Replica.write`."""
        self.take_office()
        self._on_outcome(self.replica.write(items, self._wall(), deps))
