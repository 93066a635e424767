"""What goes wrong between a daemon and the programs of its user."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError, LocalProtocolError


class ProcessEndedError(LatticaError):
    """The process of a `Lattica(process=True)` has ended before it was closed, or could not be
    started; the message says how."""


class CannotCrossError(LocalProtocolError):
    """A `Lattica(process=True)` was given what only a node in the same process could use: a
    function whose result the node waits for, or an object that is no data."""


class DaemonError(LatticaError):
    """The daemon cannot be reached or used: it does not run, its socket is not this user's, or it
    has ended meanwhile."""


class DaemonGoneError(DaemonError):
    """Nobody listens at the daemon's socket, or no more: another one may come."""
