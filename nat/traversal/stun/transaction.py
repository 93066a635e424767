"""One STUN request until its answer, or until it has been sent often enough. Pure.

RFC 8489, section 6.2.1: the request is repeated after waits that double, and after the last
one there is a longer wait for late answers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.traversal.stun.codec import (
    BindingError,
    BindingRequest,
    BindingResponse,
    Endpoint,
    encode,
)


@dataclass(frozen=True, slots=True)
class StunTiming:
    """How often a request is sent, and how long an answer is waited for.

    The default ends after 3 s; the RFC's own (0.5 s, 7 requests, 8 s) after 39.5 s.
    """

    first_wait: float = 0.2
    """Seconds until the request is repeated (RTO); doubles each time."""
    requests: int = 4
    """Times that it is sent at most (Rc)."""
    last_wait: float = 1.6
    """Seconds that the last one is waited for (Rm times RTO)."""

    def __post_init__(self) -> None:
        require_types(self)
        require_seconds("first_wait", self.first_wait)
        require(1 <= self.requests <= 10, "requests", "1 to 10", self.requests)
        require_seconds("last_wait", self.last_wait)

    @property
    def total(self) -> float:
        """Seconds until a request without an answer has failed."""
        return float(self.first_wait * (2 ** (self.requests - 1) - 1) + self.last_wait)


class Transaction:
    """A request and what becomes of it: :attr:`answer`, or :attr:`timed_out`.

    Args:
        server: who is asked. Its refusals count.
        accept_from: whose responses count. Those of everybody else are ignored, the server's too
            if it was to answer from elsewhere.
        timing: how long to try.

    Not started before the first :meth:`due`.
    """

    def __init__(
        self,
        request: BindingRequest,
        server: Endpoint,
        accept_from: Collection[Endpoint],
        timing: StunTiming,
    ) -> None:
        self.request = request
        self.answer: BindingResponse | BindingError | None = None
        self.answered_by: Endpoint | None = None
        self.timed_out = False
        self.rtt: float | None = None
        """Seconds, if it is clear which request was answered: it was sent only once."""
        self.next_timer: float | None = None
        """When to call :meth:`due` next; None when it is over, or before it has begun."""
        self._server = server
        self._accept_from = frozenset(accept_from)
        self._timing = timing
        self._sent = 0
        self._first_sent_at = 0.0

    @property
    def done(self) -> bool:
        return self.answer is not None or self.timed_out

    def due(self, now: float) -> bytes | None:
        """The datagram that is to be sent now, if any."""
        if self.done or (self.next_timer is not None and now < self.next_timer):
            return None
        if self._sent == self._timing.requests:
            self.timed_out = True
            self.next_timer = None
            return None
        if not self._sent:
            self._first_sent_at = now
        self._sent += 1
        is_last = self._sent == self._timing.requests
        wait = self._timing.first_wait * 2 ** (self._sent - 1)
        self.next_timer = now + (self._timing.last_wait if is_last else wait)
        return encode(self.request)

    def receive(
        self, message: BindingResponse | BindingError, source: Endpoint, now: float
    ) -> bool:
        """Whether an answer is the one that is waited for."""
        if self.done or not self._sent or message.transaction != self.request.transaction:
            return False
        if isinstance(message, BindingError):
            if source != self._server:
                return False
        elif source not in self._accept_from:
            return False
        self.answer, self.answered_by, self.next_timer = message, source, None
        if self._sent == 1:
            self.rtt = now - self._first_sent_at
        return True
