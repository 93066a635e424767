"""A QUIC connection in the making, and the pump that moves its packets.

The endpoint delivers what arrives at once; whoever owns the link pumps: first
:meth:`QuicLink.authenticate`, then the :class:`~lattica.nat.quic.connection.QuicConnection`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from multiaddr.multiaddr import Multiaddr

from lattica.nat.base.addresses import socket_multiaddr
from lattica.nat.base.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.identity import PeerId
from lattica.nat.mux.events import Event
from lattica.nat.mux.stream import Stream, Waiter
from lattica.nat.quic.admission import AdmissionControl
from lattica.nat.quic.fec.shim import Shim
from lattica.nat.quic.path import CHALLENGE, PeerPath
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE
from lattica.nat.quic.session import QuicSession
from lattica.nat.secure.noise_identity import RemoteIdentity
from lattica.nat.transport.base import SecureLink
from lattica.nat.transport.udp_socket import Address

if TYPE_CHECKING:
    from lattica.nat.mux.connection import Connection, Direction
    from lattica.nat.quic.endpoint import QuicEndpoint

LONG_HEADER = 0x80
_PATH_LABEL = b"lattica-quic/1 path "
NO_ERROR, PROTOCOL_ERROR = 0, 1
"""Codes of CONNECTION_CLOSE."""


class QuicLink(SecureLink):
    """One QUIC connection on an endpoint's socket."""

    __slots__ = (
        "_admission",
        "_early",
        "_ended",
        "_first_cid",
        "_path",
        "_peer_cid",
        "_shim",
        "_shim_address",
        "_ticket",
        "_waiter",
        "_work",
        "endpoint",
        "expected_peer",
        "failure",
        "first_address",
        "on_events",
        "session",
    )

    def __init__(self, endpoint: QuicEndpoint, peer: Address) -> None:
        self.endpoint = endpoint
        # The address that qh3 knows of, whatever happens: following the peer is not its job.
        self.first_address = peer
        self._path: PeerPath | None = None
        self._peer_cid = b""
        self._shim: Shim | None = None
        self._shim_address = peer
        self.session: QuicSession
        """Set by whoever makes the link."""
        self.expected_peer: PeerId | None = None
        """Who the other end has to be; read when it proves who it is."""
        self.failure: Exception | None = None
        """What the peer or the network did; the connection is over."""
        self.on_events: Callable[[list[Event]], None] | None = None
        self._early: list[Event] = []
        self._waiter = Waiter()
        self._work = True
        self._ended = False
        self._admission: AdmissionControl | None = None
        self._ticket = 0
        self._first_cid = b""

    @property
    def destination(self) -> Address:
        """Where the peer is now."""
        return self.first_address if self._path is None else self._path.address

    @property
    def local_addr(self) -> Multiaddr:
        return self.endpoint.addrs[0]

    @property
    def remote_addr(self) -> Multiaddr:
        return multiaddr_of(self.destination)

    # --- for the endpoint ---

    def begin_admission(self, admission: AdmissionControl, first_cid: bytes) -> None:
        """Count as a handshake under way, reached by the ID that the client made up."""
        self._admission = admission
        self._ticket = admission.begin(self.destination)
        self._first_cid = first_cid

    def _end_admission(self) -> None:
        if self._admission is not None:
            self._admission.finish(self._ticket)
            self._admission = None
            self.endpoint.remove_route(self._first_cid)

    @property
    def ended(self) -> bool:
        """The endpoint has done with it."""
        return self._ended

    def deliver(self, data: bytes, size: int, source: Address) -> None:
        """Take datagrams of `size` bytes each (the last may be shorter)."""
        self._take(lambda: self.session.receive_gro(data, size, self.first_address), source)

    def deliver_each(self, datagrams: list[bytes], source: Address) -> None:
        """Take datagrams of any sizes."""
        self._take(lambda: self.session.receive(datagrams, self.first_address), source)

    def _take(self, receive: Callable[[], list[Event]], source: Address) -> None:
        if self.failure is not None:
            return
        try:
            events = receive()
            if self._path is not None and self.session.heard:
                self._path.observe(source)
            self._report(events)
        except Exception as error:  # a defect of ours costs this connection, not the endpoint
            self._fail(error)
        self.wake()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        if isinstance(error, RemoteProtocolError):
            self.session.shut(PROTOCOL_ERROR, str(error)[:80])

    def on_path_message(self, message: bytes, source: Address) -> None:
        """Take a challenge or a response of :mod:`lattica.nat.quic.path`."""
        if self._path is None or not self._peer_cid:
            return
        if message[0] == CHALLENGE:
            self.endpoint.send_now([self._path.answer(message, self._peer_cid)], source)
        elif self._path.receive_response(message, source):
            self._use_shim()
            self.wake()

    def _report(self, events: list[Event]) -> None:
        if self.on_events is not None:
            self.on_events(events)
        else:
            self._early += events

    def on_unreachable(self, error: OSError) -> None:
        """The network says that nobody is there; said only of strangers."""
        if self.session.remote is None and self.failure is None:
            self.failure = error
            self.wake()

    def migrate(self) -> None:
        """Our socket has changed: let the peer hear from the new one."""
        self.session.migrate()
        self.wake()

    def _next_timer(self) -> float:
        timers = [self.session.next_timer()]
        if self._path is not None:
            timers.append(self._path.next_timer())
        soonest = min((timer for timer in timers if timer is not None), default=math.inf)
        return soonest if self._shim is None else min(soonest, self._shim.next_timer())

    # --- for its owner ---

    def wake(self) -> None:
        """There may be something to send, or something has happened."""
        self._work = True
        self._waiter.wake()

    async def pump(self) -> None:
        """Send what is due; if that is nothing, wait for work or the next timer."""
        session = self.session
        if not self._work and not session.wants_write:
            with trio.move_on_at(self._next_timer()):
                await self._waiter.wait()
        else:
            await trio.lowlevel.checkpoint()
        self._work = False
        now = trio.current_time()
        deadline = session.next_timer()
        if deadline is not None and deadline <= now:
            try:
                self._report(session.on_timer())
            except RemoteProtocolError as error:
                self._fail(error)
        shim = self._shim
        if shim is not None and shim.next_timer() <= now:
            address = self._shim_address
            await self._send(shim.due_to_send())
            self.endpoint.deliver_restored(shim.due_to_deliver(), address)
        for datagrams, _ in session.transmit():
            await self._send(self._protect(datagrams))
        if self._path is not None and (challenge := self._path.challenge(self._peer_cid)):
            self.endpoint.send_now([challenge[0]], challenge[1])
        self.endpoint.update_routes(self)

    def _protect(self, datagrams: list[bytes]) -> list[bytes]:
        first = datagrams[0]
        if not first[0] & LONG_HEADER:
            self._peer_cid = first[1 : 1 + CONNECTION_ID_SIZE]
        if self._shim is None:
            return datagrams
        lost, rtt, window = self.session.path_state
        return self._shim.send(datagrams, lost=lost, rtt=rtt, window=window)

    async def _send(self, datagrams: list[bytes]) -> None:
        sent = self.endpoint.send_now(datagrams, self.destination) if datagrams else 0
        while sent < len(datagrams):
            await self.endpoint.wait_writable()
            sent += self.endpoint.send_now(datagrams[sent:], self.destination)

    def _use_shim(self) -> None:
        """Protect what goes to where the peer is now."""
        self._leave_shim()
        self._shim_address = self.destination
        self._shim = self.endpoint.use_shim(self._shim_address, self)

    def _leave_shim(self) -> None:
        if self._shim is not None:
            self.endpoint.leave_shim(self._shim_address, self)
            self._shim = None

    async def authenticate(self, expected_peer: PeerId | None) -> RemoteIdentity:
        """Finish the handshakes of QUIC and Noise; return who the peer is.

        The caller bounds the time, and aborts the link when this fails. Raises
        :class:`RemoteProtocolError`, `PeerMismatchError`, :class:`ConnectionClosedError` and
        :class:`OSError`.
        """
        self.expected_peer = expected_peer
        while True:
            # Also once more when the peer is known: our last message must leave.
            await self.pump()
            self.raise_if_over("the handshake")
            if self.session.remote is not None:
                self._end_admission()
                self.endpoint.remove_stranger(self)
                self._follow()
                return self.session.remote

    def _follow(self) -> None:
        """From now on the peer may move."""
        session = self.session
        keys = [session.export(_PATH_LABEL + side) for side in (b"client", b"server")]
        if not session.is_client:
            keys.reverse()
        self._path = PeerPath(
            self.first_address,
            sending_key=keys[0],
            receiving_key=keys[1],
            clock=trio.current_time,
        )
        self._use_shim()

    def raise_if_over(self, during: str) -> None:
        if self.failure is not None:
            raise self.failure
        if self.session.closed is not None:
            _, reason = self.session.closed
            raise ConnectionClosedError(f"the connection ended during {during}: {reason}")

    def connection(
        self,
        remote: RemoteIdentity,
        *,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
    ) -> Connection:
        from lattica.nat.quic.connection import QuicConnection

        return QuicConnection(
            self, remote, direction=direction, send_buffer=send_buffer, on_stream=on_stream
        )

    def take_early(self, on_events: Callable[[list[Event]], None]) -> None:
        """From now on `on_events` is told what happens, beginning with what has happened."""
        self.on_events = on_events
        early, self._early = self._early, []
        on_events(early)

    def abort(self) -> None:
        """Close at once: tell the peer, and let go of the endpoint. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._end_admission()
        farewell = None
        self.session.shut(NO_ERROR, "")
        for datagrams, _ in self.session.transmit():
            self.endpoint.send_now(datagrams, self.destination)
            farewell = datagrams[-1]
        self._leave_shim()
        self.endpoint.forget(self, farewell)
        if self.failure is None:
            self.failure = ConnectionClosedError("closed by this side")
        self.wake()


def multiaddr_of(name: Address) -> Multiaddr:
    """The multiaddr of a socket name."""
    return socket_multiaddr(name, "udp/{}/quic-v1/noise")
