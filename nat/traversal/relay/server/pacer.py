"""Slows traffic down to a rate, whatever the sizes it comes in. Pure."""

from __future__ import annotations


class Pacer:
    """A token bucket that may go into debt: what has been sent is paid for by waiting.

    Several senders may share one; they are served in the order in which they pay.
    """

    __slots__ = ("_burst_s", "_paid_until", "_rate")

    def __init__(self, rate: int, *, burst_s: float = 0.25) -> None:
        """`rate` in bytes a second, 0 for no limit; `burst_s` seconds' worth may go at once."""
        self._rate = rate
        self._burst_s = burst_s
        self._paid_until = float("-inf")

    def pay(self, size: int, now: float) -> float:
        """Account for `size` bytes; return how many seconds to wait before sending more."""
        if not self._rate:
            return 0.0
        self._paid_until = max(self._paid_until, now - self._burst_s) + size / self._rate
        return max(0.0, self._paid_until - now)
