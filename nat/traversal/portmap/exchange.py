"""What PCP and NAT-PMP share: repeating a request, and the gateway's epoch.

Sources: RFC 6886 sections 3.1 and 3.6, RFC 6887 sections 8.1.1 and 8.5. Pure.
"""

from __future__ import annotations

FIRST_WAIT = 0.25
"""Seconds until a request is repeated for the first time."""
ATTEMPTS = 6
"""The last one is given up after 16 seconds in all. RFC 6886 goes on for two minutes, which is
longer than anybody waits who has other methods."""


class Retransmission:
    """When a request is sent, and when it is given up.

    After each of :data:`ATTEMPTS` the wait doubles from 250 ms.

    Args:
        now: monotonic seconds; the first sending is due at once.
    """

    def __init__(self, now: float) -> None:
        self.next_timer = now
        self._wait = FIRST_WAIT
        self._left = ATTEMPTS

    @property
    def is_over(self) -> bool:
        """There is nothing to send any more; `next_timer` is when waiting ends."""
        return self._left == 0

    def take_due(self, now: float) -> bool:
        """Whether to send now. To be called at `next_timer`."""
        if self._left == 0 or now < self.next_timer:
            return False
        self._left -= 1
        self.next_timer = now + self._wait
        self._wait *= 2
        return True


class Epoch:
    """Notices that a gateway has lost its mappings: its clock does not go on as ours does."""

    def __init__(self) -> None:
        self._server: float | None = None
        self._client = 0.0

    def update(self, now: float, seconds: int) -> bool:
        """Take the epoch of an authentic answer; whether the state has been lost since the last.

        `now` is monotonic seconds here, `seconds` what the gateway says. Its clock may be a
        sixteenth slow or fast, and two seconds are for rounding and delay (RFC 6887; NAT-PMP
        allows an eighth, so that it may be thought lost once too often, which costs a renewal).
        """
        before_server, before_client = self._server, self._client
        self._server, self._client = seconds, now
        if before_server is None:
            return False
        if seconds + 1 < before_server:
            return True
        client = now - before_client
        server = seconds - before_server
        return client + 2 < server - server / 16 or server + 2 < client - client / 16
