"""Exceptions about content; users find them in :mod:`lattica.errors` with all others."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError, RemoteProtocolError


class TicketError(LatticaError, ValueError):
    """A ticket that is damaged, truncated or of an unknown version."""


class ContentError(LatticaError):
    """Content cannot be published or fetched; the message says what to do."""


class ContentNotFoundError(ContentError):
    """The provider does not serve the requested content id."""


class NameNotFoundError(ContentNotFoundError):
    """A name leads nowhere, or nobody who knows can be asked."""

    def __init__(self, message: str, *, is_denied: bool = False) -> None:
        super().__init__(message)
        self.is_denied = is_denied
        """Its owner itself says that it has no such name, or has withdrawn it."""


class ContentChangedError(ContentError):
    """A published file was written to, moved or removed since it was published."""


class IntegrityError(ContentError, RemoteProtocolError):
    """Bytes from a provider do not have the hash they were asked for by."""


class SignatureError(ContentError):
    """What a reference leads to is not signed by the peer who has to have signed it."""


class StorageError(ContentError, OSError):
    """The local disk is full, read-only or otherwise refuses; names the path."""
