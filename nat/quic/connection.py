"""The trio driver of an authenticated QUIC connection."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    ConnectionClosedError,
    RemoteProtocolError,
    renewed,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.delivery import Delivery
from lattica.nat.mux.events import Event
from lattica.nat.mux.stream import Stream, Waiter
from lattica.nat.quic.link import NO_ERROR, QuicLink
from lattica.nat.quic.session.session import PATH_DEAD, QuicSession
from lattica.nat.secure.noise_identity import RemoteIdentity

logger = logging.getLogger(__name__)


class QuicConnection(Connection):
    """A connection over QUIC, whose streams are QUIC's own.

    :attr:`remote_addr` changes when the peer moves to another address; the streams stay.
    """

    __slots__ = ("_arrival", "_check_address", "_link")

    session: QuicSession

    def __init__(
        self,
        link: QuicLink,
        remote: RemoteIdentity,
        *,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
        check_address: Callable[[Multiaddr], None],
    ) -> None:
        super().__init__(
            link.session,
            remote,
            local_addr=link.local_addr,
            remote_addr=link.remote_addr,
            turnstile=link.turnstile,
            direction=direction,
            send_buffer=send_buffer,
            on_stream=on_stream,
        )
        self._link = link
        self._check_address = check_address
        self._arrival = Waiter()

    @property
    def cipher(self) -> str:
        return "tls-1.3"

    def send_datagram(self, data: bytes) -> None:
        """Send a message that may be lost: on its way, or here while the path is congested.

        Raises:
            LocalProtocolError: it has more than
                :data:`~lattica.nat.quic.session.outgoing.MAX_MESSAGE` bytes.
            ConnectionClosedError: the connection has ended.
        """
        self.raise_if_closed()
        self.session.send_message(data)
        self.wake_writer()

    async def receive_datagram(self) -> bytes:
        """Wait for a message of the peer's :meth:`send_datagram`; for one task at a time.

        What comes before the first call is lost; from then on at most 256 wait to be received,
        and beyond that the oldest are lost.

        Raises:
            ConnectionClosedError: the connection has ended.
        """
        self.session.wants_messages = True
        await trio.lowlevel.checkpoint()
        while not self.session.messages:
            self.raise_if_closed()
            await self._arrival.wait()
        return self.session.messages.popleft()

    def wake_writer(self) -> None:
        self._link.wake()

    def _machine_seen(self) -> bool | None:
        return None  # there is only the peer itself that could acknowledge anything

    def delivery(self) -> Delivery | None:
        return self._link.delivery()

    async def _serve(self) -> str:
        link, session = self._link, self.session
        path = link.destination
        session.ping()
        link.take_early(self._on_events)
        while True:
            await link.pump()
            self._wake_drained()
            self._handle_more()
            await self._finish_events()
            if link.failure is not None:
                if isinstance(link.failure, RemoteProtocolError):
                    self._log_violation(link.failure)
                    return str(link.failure)
                raise renewed(link.failure)
            if session.closed is not None:
                code, reason = session.closed
                if code == NO_ERROR:
                    session.went_away = True
                    return "closed by this side" if self._closing else "closed by the peer"
                raise ConnectionClosedError(reason or f"the peer closed with code {code}")
            if self._closing and session.flushed:
                return "closed by this side"
            if link.destination != path:
                path = link.destination
                self.remote_addr = link.remote_addr
                peer_log.log(
                    logger,
                    logging.INFO,
                    self.peer_id,
                    "peer moved peer=%s addr=%s",
                    self.peer_id,
                    self.remote_addr,
                )
                try:
                    self._check_address(self.remote_addr)
                except AccessDeniedError as error:
                    raise ConnectionClosedError(f"the peer has moved: {error}") from None

    def _on_events(self, events: list[Event]) -> None:
        self._handle(events)
        if self.session.messages:
            self._arrival.wake()

    def _let_go(self) -> None:
        if self.stalled:
            # No good-bye: a peer that is there after all has lost what was under way.
            self._link.abort(PATH_DEAD, "the path was taken for dead by the peer")
        else:
            self._link.abort()
        self._arrival.wake()
