"""Slows traffic down to a rate, whatever the sizes it comes in. Pure."""

from __future__ import annotations

_BURST = 0.25
"""Seconds' worth of the rate that may go at once."""


class Pacer:
    """A token bucket that may go into debt: what has been sent is paid for by waiting.

    Several senders may share one; they are served in the order in which they pay.
    """

    __slots__ = ("_paid_until", "_rate")

    def __init__(self, rate: int) -> None:
        """`rate` in bytes a second, 0 for no limit."""
        self._rate = rate
        self._paid_until = float("-inf")

    def pay(self, size: int, now: float) -> float:
        """Account for `size` bytes; return how many seconds to wait before sending more."""
        if not self._rate:
            return 0.0
        self._paid_until = max(self._paid_until, now - _BURST) + size / self._rate
        return max(0.0, self._paid_until - now)
