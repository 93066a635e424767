"""What can go wrong with records, beside what streams and dials raise."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError


class DhtError(LatticaError):
    """Base of the errors of the DHT."""


class NotStoredError(DhtError):
    """No other peer holds what was to be stored; the message says what they answered."""


class NoDhtPeersError(DhtError):
    """No peer of the DHT could be asked: none is known, or none answers."""
