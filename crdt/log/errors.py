"""What can be wrong with a store on disk."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError, RemoteProtocolError


class StoreError(LatticaError, OSError):
    """The file of a document cannot be used; the message says why, and what to do."""


class StoreInUseError(StoreError):
    """Another node or program has the document's file open."""


class StoreFullError(StoreError):
    """There is no space left. Nothing of what was to be written is lost or half there."""


class StoreCorruptError(StoreError):
    """The file is damaged. Entries that peers have can be had again from them."""


class ContradictionError(RemoteProtocolError):
    """A chain is not the one here, and does not prove that its author contradicts himself: its own
    signatures are not valid. The author's doing, and not that of whoever passed it on.
    """
