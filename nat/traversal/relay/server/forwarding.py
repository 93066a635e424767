"""One direction of a circuit: bytes from one stream into another."""

from __future__ import annotations

from collections.abc import Callable

import trio

from lattica.nat.base.errors import ResourceLimitError
from lattica.nat.mux.stream import Stream
from lattica.nat.traversal.relay.server.books import Circuit

FROM_SOURCE, FROM_TARGET = 0, 1
"""Directions of a circuit."""

_LAST_BYTES = 10.0
"""Seconds that the last bytes which a circuit's limit allows may take to leave."""


class LimitReachedError(ResourceLimitError):
    """A circuit has used up its bytes; :attr:`limit` is the name of the setting."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


async def forward(
    origin: Stream,
    goal: Stream,
    circuit: Circuit,
    direction: int,
    on_progress: Callable[[], object],
) -> None:
    """Pass on what `origin` sends until it ends, and then its end; tell `on_progress` of each part.

    Backpressure: nothing is read from `origin` while more than `Windows.send_buffer` bytes wait to
    leave for `goal`; what is less leaves together. When cancelled, or when this raises, the circuit
    is not whole any more, and both streams are to be reset. Raises :class:`LimitReachedError` when
    the circuit has used up its bytes, and what the streams raise.
    """
    while data := await origin.receive_view():
        allowance = circuit.allowance(direction)
        excess = allowance is not None and len(data) > allowance
        if excess:
            data = data[:allowance]
        if data:
            if not goal.send_nowait(data):
                await goal.wait_sendable()
            delay = circuit.account(direction, len(data), trio.current_time())
            on_progress()
            if delay:
                await trio.sleep(delay)
        if excess:
            with trio.move_on_after(_LAST_BYTES):
                await goal.wait_sent()
            limit = circuit.used_up()
            if limit == "data":
                whose = f"the circuit's {circuit.limits.data} bytes"
            else:
                whose = f"the bytes of this month ({limit})"
            raise LimitReachedError(f"{whose} are used up", limit)
    await goal.send_eof()
