"""What a peer's frames cost where only qh3 sees them.

Some take it long: of connection IDs that the peer takes back, it looks through all for each new one
(after quic-go's CVE-2024-22189). Others it answers, however many have come: each challenge of the
path with a datagram, which it keeps until that is acknowledged (after CVE-2023-49295). So time
is measured and small datagrams are counted, and what is beyond an honest peer's is a nuisance.
"""

from __future__ import annotations

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.mux.turns import UNIT, Nuisance
from lattica.nat.quic.qh3.native import NativeDrive, Runs

_ORDINARY = 100e-6
"""Seconds of processor time that a datagram may take; most take a tenth of that."""
_OF_CALL = 2e-3
"""And what came together besides: acknowledgements of hundreds of packets are among them."""
_MOST_COUNTED = 5e-3
"""Of one call: the garbage collector may have come by."""
_FEW = 8
"""Datagrams that may leave at once, however small."""
_SMALL = 64
"""Bytes of a datagram that carries nothing."""
_CHECKED_AFTER = 1024
_MOST_OUTSTANDING = 4096
"""Packets that wait to be acknowledged, besides those that carry something."""


class Cost:
    """Counts for one connection. The methods return units of work, for its turn."""

    __slots__ = ("_drive", "_nuisance", "_unchecked")

    def __init__(self, drive: NativeDrive, nuisance: Nuisance) -> None:
        self._drive = drive
        self._nuisance = nuisance
        self._unchecked = 0
        """Packets received, and answers sent, since it was last looked how many are outstanding."""

    def of_packets(self, seconds: float, packets: int) -> int:
        """qh3 has taken so many, in so much processor time.

        Raises:
            RemoteProtocolError: too much of what it has been sent waits to be acknowledged.
        """
        if not self._drive.core.handshake_complete:
            return 0
        native = self._drive.native
        self._unchecked += packets
        if self._unchecked >= _CHECKED_AFTER:
            self._unchecked = 0
            waiting = len(native.outstanding_application_packets)
            if waiting > _MOST_OUTSTANDING + native.bytes_in_flight // _SMALL:
                raise RemoteProtocolError("QUIC: answers are asked for and not acknowledged")
        beyond = min(seconds - _ORDINARY * packets, _MOST_COUNTED)
        if beyond > _OF_CALL:
            self._nuisance.count("packets that take long", int((beyond - _OF_CALL) / UNIT))
        return max(0, int(beyond / UNIT))

    def of_answers(self, runs: Runs) -> int:
        """These datagrams are to be sent."""
        count = sum(len(datagrams) for datagrams, _ in runs)
        if count <= _FEW or sum(sum(map(len, each)) for each, _ in runs) > count * _SMALL:
            return 0
        self._nuisance.count("challenges of the path", count)
        self._unchecked += count
        return count
