"""What goes wrong between a daemon and the programs of its user."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError


class DaemonError(LatticaError):
    """The daemon cannot be reached or used: it does not run, its socket is not this user's, or it
    has ended meanwhile."""
