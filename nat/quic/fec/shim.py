"""Forward error correction between an endpoint's connections and one remote address.

The driver's side of :mod:`lattica.nat.quic.fec.codec`; shared by all connections to the address,
since protected datagrams do not say which connection they are of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lattica.nat.quic.fec.codec import OVERHEAD, FecReceiver, FecSender, is_report
from lattica.nat.quic.qh3.core import payload_limit
from lattica.nat.transport.udp_socket import Address

if TYPE_CHECKING:
    from lattica.nat.quic.link import QuicLink


class Shim:
    """Protects what goes to one address, and restores what comes from it."""

    __slots__ = ("_receiver", "_sender", "users")

    def __init__(self, address: Address, clock: Callable[[], float]) -> None:
        self._sender = FecSender(clock, path_limit=payload_limit(address[0]) + OVERHEAD)
        self._receiver = FecReceiver(clock)
        self.users: set[QuicLink] = set()
        """Connections that use it; their timers are its timers."""

    def send(
        self, datagrams: Sequence[bytes], *, lost: int, rtt: float | None, window: float
    ) -> list[bytes]:
        """What to send instead of a connection's datagrams, given what QUIC knows of the path."""
        self._sender.observe(lost=lost, rtt=rtt, window=window)
        return self._sender.protect(datagrams)

    def receive(self, datagram: bytes) -> list[bytes]:
        """The QUIC datagrams that can be delivered now. Raises :class:`RemoteProtocolError`."""
        if is_report(datagram):
            self._sender.receive_report(datagram)
            return []
        return self._receiver.receive(datagram)

    @property
    def holds(self) -> bool:
        """Datagrams wait behind a gap: others must not pass them."""
        return self._receiver.next_timer() is not None

    def report(self) -> bytes | None:
        """What to tell the other side's sender, when it is time."""
        return self._receiver.report()

    def next_timer(self) -> float:
        """When :meth:`due_to_send` or :meth:`due_to_deliver` have something; infinity: never."""
        timers = (self._sender.next_timer(), self._receiver.next_timer())
        return min((timer for timer in timers if timer is not None), default=math.inf)

    def due_to_send(self) -> list[bytes]:
        """The repairs of a group that has waited long enough."""
        return self._sender.on_timer()

    def due_to_deliver(self) -> list[bytes]:
        """QUIC datagrams that have been held back long enough."""
        return self._receiver.on_timer()
