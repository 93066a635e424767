"""Forward error correction as a layer over the UDP socket.

What is above sees a UDP socket: QUIC's datagrams go in and come out as they are. Below, those to a
followed peer are protected (:mod:`lattica.nat.quic.fec.codec`) when its path needs it, and what
peers protect is restored, in order. A path is one remote address, shared by all connections to it,
since protected datagrams do not say which connection they are of.

Nobody followed, nothing is protected, held back or repaired; what a peer protects all the same, for
the sender alone decides, is taken out of its wrapping.

What one address can cost is bounded, however many connections are made from it: what the
connections know is asked for once in `_ASK_INTERVAL`, more than `MAX_USERS` are not protected, and
repairs in one :meth:`FecSocket.receive` take no longer than
:data:`~lattica.nat.quic.fec.codec.MAX_WORK`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.quic.fec.codec import (
    FEC_FIRST_BYTES,
    FecReceiver,
    FecSender,
    WorkLimit,
    is_fec,
    is_report,
    unprotected,
)
from lattica.nat.quic.fec.policy import PathState
from lattica.nat.transport.udp_socket import Address, Received, UdpSocket, Unreachable

PATH_LIMIT = {socket.AF_INET: 1472, socket.AF_INET6: 1452}
"""UDP payload that a path is taken to carry, bytes: Ethernet's 1,500 less the headers."""

MAX_USERS = 8
"""Connections to one address that are protected; nobody needs so many, and to more nothing is."""

_ASK_INTERVAL = 0.01
"""Seconds for which what several connections know of their path is taken to be true."""
_LOOKS_LIKE_QUIC = 0x40
_NOT_FEC = bytes(byte for byte in range(256) if byte not in FEC_FIRST_BYTES)
_UNSENT_PAUSE = 0.001
"""Seconds after which the socket is tried again with what it did not take."""

Quic = Callable[[], PathState]
"""Asks a connection what it knows of its path."""


class FecSocket:
    """`sock` with error correction; has its methods, and the same contracts.

    :meth:`receive` also does what is due at a certain time, so one task should always be in it.
    """

    __slots__ = (
        "_clock", "_count", "_followed", "_limit", "_paths", "_sock", "_timers", "_wait", "family",
        "local",
    )  # fmt: skip

    def __init__(self, sock: UdpSocket, clock: Callable[[], float] = trio.current_time) -> None:
        self._sock = sock
        self._clock = clock
        self.family = sock.family
        self.local = sock.local
        """The bound host and port."""
        self._followed: dict[Quic, _Path] = {}
        self._paths: dict[Address, _Path] = {}
        self._timers: list[tuple[float, int, _Path]] = []
        """A heap of when to look at which path; some may be over, or have nothing to do yet."""
        self._count = itertools.count()
        self._limit = WorkLimit()
        self._wait = trio.CancelScope()
        """Of the :meth:`receive` under way; its deadline is the next timer."""

    def follow(self, quic: Quic, address: Address | None) -> None:
        """Protect what goes to a connection's peer, which is at `address`; None: no more.

        To be called again whenever the peer has moved. The peer must have proved who it is: for an
        address that is followed memory is kept.
        """
        old = self._followed.pop(quic, None)
        if old is not None:
            del old.users[quic]
            if not old.users:
                del self._paths[old.address]
        if address is not None:
            path = self._paths.get(address)
            if path is None:
                limit = PATH_LIMIT[self.family]
                path = self._paths[address] = _Path(address, self._clock, limit, self._limit)
            path.users[quic] = None
            self._followed[quic] = path

    async def receive(self) -> list[Received]:
        """Wait for datagrams, and return those that can be delivered now, in order.

        The list may be empty. If cancelled, nothing is lost.
        """
        batch: list[Received] = []
        timer = self._timers[0][0] if self._timers else math.inf
        with trio.CancelScope(deadline=timer) as self._wait:
            batch = await self._sock.receive()
        out: list[Received] = []
        self._limit.renew()
        for received in batch:
            self._restore(received, out)
        self._on_timers(out)
        return out

    def _restore(self, received: Received, out: list[Received]) -> None:
        data, size, source = received
        path = self._paths.get(source)
        is_protected = data[::size].translate(None, _NOT_FEC)  # first bytes that are ours
        if not is_protected and (path is None or not path.holds):
            out.append(received)
            return
        restored: list[bytes] = []
        for offset in range(0, len(data), size):
            datagram = data[offset : offset + size]
            if not is_fec(datagram) and not datagram[0] & _LOOKS_LIKE_QUIC:
                out.append(Received(datagram, len(datagram), source))  # nothing holds it up
                continue
            with suppress(RemoteProtocolError):  # lost, like what the network garbles
                restored += _unwrapped(datagram) if path is None else path.receive(datagram)
        out += _runs(restored, source)
        if path is not None:
            if report := path.report():
                self._sock.send([report], source)
            self._arm(path)

    def _on_timers(self, out: list[Received]) -> None:
        timers, now = self._timers, self._clock()
        while timers and timers[0][0] <= now:
            timer, _, path = heapq.heappop(timers)
            if timer != path.armed_for or self._paths.get(path.address) is not path:
                continue
            path.armed_for = math.inf
            if path.next_timer() <= now:
                path.unsent += path.due_to_send()
                if path.unsent:
                    self._flush(path)
                out += _runs(path.due_to_deliver(), path.address)
            self._arm(path)

    def _arm(self, path: _Path) -> None:
        """Look at a path when it has something to do; if that is put off, look in vain."""
        timer = path.next_timer()
        if timer >= path.armed_for:
            return
        path.armed_for = timer
        heapq.heappush(self._timers, (timer, next(self._count), path))
        if timer < self._wait.deadline:
            self._wait.deadline = timer

    def send(self, datagrams: Sequence[bytes], destination: Address) -> int:
        """As :meth:`UdpSocket.send`, of QUIC's datagrams or of others; those are never protected.

        What was protected counts as sent, and is kept here until the socket takes it; until then
        nothing more is taken for that destination.
        """
        path = self._paths.get(destination)
        if path is None or not datagrams[0][0] & _LOOKS_LIKE_QUIC:
            return self._sock.send(datagrams, destination)
        if path.unsent and not self._flush(path):
            return 0
        protected = path.protect(datagrams)
        if protected is datagrams:
            return self._sock.send(datagrams, destination)
        path.unsent = list(protected)
        self._flush(path)
        self._arm(path)
        return len(datagrams)

    def _flush(self, path: _Path) -> bool:
        """Send what waits; whether the socket has taken all of it."""
        del path.unsent[: self._sock.send(path.unsent, path.address)]
        path.retry_at = self._clock() + _UNSENT_PAUSE if path.unsent else math.inf
        return not path.unsent

    def take_unreachable(self) -> list[Unreachable]:
        return self._sock.take_unreachable()

    async def wait_writable(self) -> None:
        await self._sock.wait_writable()

    def close(self) -> None:
        self._sock.close()


class _Path:
    """What goes to one remote address, and what comes from it."""

    __slots__ = (
        "_ask_at", "_clock", "_receiver", "_sender", "address", "armed_for", "retry_at", "unsent",
        "users",
    )  # fmt: skip

    def __init__(
        self, address: Address, clock: Callable[[], float], path_limit: int, limit: WorkLimit
    ) -> None:
        self.address = address
        self.users: dict[Quic, None] = {}
        self.unsent: list[bytes] = []
        """Protected, and not taken by the socket yet; at most one batch."""
        self.retry_at = math.inf
        """When to offer that again."""
        self.armed_for = math.inf
        """When the socket looks at it next."""
        self._clock = clock
        self._ask_at = -math.inf
        self._sender = FecSender(clock, path_limit=path_limit)
        self._receiver = FecReceiver(clock, limit)

    def protect(self, datagrams: Sequence[bytes]) -> Sequence[bytes]:
        """What to send instead; the same object where that is the same."""
        users = self.users
        if len(users) > MAX_USERS:
            return datagrams  # the repairs of an open group follow when it is due
        if len(users) == 1 or self._clock() >= self._ask_at:
            self._ask(users)
        return self._sender.protect(datagrams)

    def _ask(self, users: Iterable[Quic]) -> None:
        first, *others = (quic() for quic in users)
        for other in others:
            first = PathState(
                first.lost + other.lost,
                min((rtt for rtt in (first.rtt, other.rtt) if rtt is not None), default=None),
                first.window + other.window,
            )
        self._ask_at = self._clock() + _ASK_INTERVAL
        self._sender.observe(first)

    def receive(self, datagram: bytes) -> list[bytes]:
        """The datagrams that can be delivered now. Raises :class:`RemoteProtocolError`."""
        if is_report(datagram):
            self._sender.receive_report(datagram)
            return []
        return self._receiver.receive(datagram)

    @property
    def holds(self) -> bool:
        """Datagrams wait behind a gap: others must not pass them."""
        return self._receiver.holds

    def report(self) -> bytes | None:
        """What to tell the other side's sender, when it is time."""
        return self._receiver.report()

    def next_timer(self) -> float:
        """When there is something to do; infinity: never."""
        timers = (self._sender.next_timer(), self._receiver.next_timer(), self.retry_at)
        return min((timer for timer in timers if timer is not None), default=math.inf)

    def due_to_send(self) -> list[bytes]:
        """The repairs of a group that has waited long enough."""
        return self._sender.on_timer()

    def due_to_deliver(self) -> list[bytes]:
        """QUIC datagrams that have been held back long enough."""
        return self._receiver.on_timer()


def _unwrapped(datagram: bytes) -> list[bytes]:
    """What a protected datagram brings from where nobody is followed.

    A peer that has moved protects what it sends as before, and shows by that where it is now.
    What is in the datagram is for the connection to judge. Raises :class:`RemoteProtocolError`.
    """
    if not is_fec(datagram):
        return [datagram]
    payload = unprotected(datagram)
    return [] if payload is None else [payload]


def _runs(datagrams: Sequence[bytes], source: Address) -> Iterator[Received]:
    """Datagrams as a socket with GRO returns them: together while they are of one size.

    Only QUIC's: nothing else is protected by an honest peer.
    """
    run: list[bytes] = []
    for datagram in datagrams:
        if not datagram[0] & _LOOKS_LIKE_QUIC:
            continue
        if run and not len(datagram) <= len(run[0]) == len(run[-1]):
            yield Received(b"".join(run), len(run[0]), source)
            run = []
        run.append(datagram)
    if run:
        yield Received(b"".join(run), len(run[0]), source)
