"""Why there is no direct path, where it is not the network's fault."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError


class NotApplicable(LatticaError):
    """This strategy cannot work for this pair of peers, so it was not tried."""
