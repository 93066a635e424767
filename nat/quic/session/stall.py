"""Notices that qh3 keeps an acknowledgement back, and gets it out.

Frames that qh3 has prepared for sending wait, once the congestion window has no room for a packet,
and acknowledgements that come later wait behind them (qh3 2.1.0). If that happens to both sides,
neither hears what it waits for, and only probes go on, ever more slowly.
"""

from __future__ import annotations

from lattica.nat.quic.qh3.native import NativeDrive

_PATIENCE = 0.03
"""Seconds after which an acknowledgement that is due has been held back."""
_UNANSWERED = 2
"""Packets after which QUIC owes an acknowledgement (RFC 9000, section 13.2.2)."""
_PROBE_AHEAD = 3.0
"""Seconds by which a probe may come early."""


class StallWatch:
    """Watches for packets of the peer that are not acknowledged."""

    __slots__ = ("_since", "_unanswered")

    def __init__(self) -> None:
        self._unanswered = 0
        """Packets received since something was sent."""
        self._since: float | None = None

    def note_received(self) -> None:
        """An authentic packet has come."""
        self._unanswered += 1

    def note_transmitted(self, now: float, *, something: bool, full: bool) -> None:
        """qh3 has been asked for all that may leave."""
        if something:
            self._unanswered = 0
            self._since = None
        elif self._unanswered < _UNANSWERED or not full:
            self._since = None
        elif self._since is None:
            self._since = now

    def next_timer(self) -> float | None:
        """When to call :meth:`on_timer`; None: nothing is held back."""
        return None if self._since is None else self._since + _PATIENCE

    def on_timer(self, now: float, drive: NativeDrive) -> None:
        """Have qh3 send a probe now, to get at the acknowledgement behind what it holds."""
        due = self.next_timer()
        if due is None or now < due:
            return
        self._since = None
        timer = drive.native.get_timer()
        if timer is not None and timer[0] == "loss_detection" and timer[1] < now + _PROBE_AHEAD:
            drive.native.handle_timer(max(now, timer[1]))
