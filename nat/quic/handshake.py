"""A QUIC connection whose peer has yet to prove who it is: what the swarm gets first."""

from __future__ import annotations

from collections.abc import Callable

from lattica.nat.base.errors import ConnectionClosedError, renewed
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.link import QuicLink
from lattica.nat.secure.noise_identity import RemoteIdentity
from lattica.nat.transport.base import SecureLink


class QuicHandshake(SecureLink):
    """Pumps a link until the peer is known; then makes the connection, which goes on with it."""

    __slots__ = ("link",)

    def __init__(self, link: QuicLink) -> None:
        self.link = link

    @property
    def local_addr(self) -> Multiaddr:
        return self.link.local_addr

    @property
    def remote_addr(self) -> Multiaddr:
        return self.link.remote_addr

    async def authenticate(self, expected_peer: PeerId | None) -> RemoteIdentity:
        """Finish the handshakes of QUIC and Noise; return who the peer is.

        The caller bounds the time, and aborts the link when this fails. Raises
        :class:`RemoteProtocolError`, `PeerMismatchError`, :class:`ConnectionClosedError` and
        :class:`OSError`.
        """
        link = self.link
        session = link.session
        session.expect(expected_peer)
        while True:
            # Also once more when the peer is known: our last message must leave.
            await link.pump()
            if link.failure is not None:
                raise renewed(link.failure)
            if session.closed is not None:
                _, reason = session.closed
                raise ConnectionClosedError(f"the connection ended during the handshake: {reason}")
            if session.remote is not None:
                link.follow_peer()
                return session.remote

    def connection(
        self,
        remote: RemoteIdentity,
        *,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
        check_address: Callable[[Multiaddr], None],
    ) -> QuicConnection:
        return QuicConnection(
            self.link,
            remote,
            direction=direction,
            send_buffer=send_buffer,
            on_stream=on_stream,
            check_address=check_address,
        )

    def abort(self, code: int = 0, reason: str = "") -> None:
        self.link.abort(code, reason)
