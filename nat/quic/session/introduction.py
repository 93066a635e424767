"""Who the peer is, and what it may do before it has proved that.

Noise on stream 0 (:mod:`lattica.nat.quic.session.noise`) begins when TLS is done. Until it is over
a peer may send :data:`PRE_AUTH_LIMIT` bytes, and no other stream is served.
"""

from __future__ import annotations

from collections.abc import Callable

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.config import KIB
from lattica.nat.quic.qh3.core import server_certificate_hash
from lattica.nat.quic.qh3.native import NativeDrive, NativeEvent
from lattica.nat.quic.session.credit import encode_reset_token
from lattica.nat.quic.session.noise import QuicNoise
from lattica.nat.secure.noise_identity import RemoteIdentity

PRE_AUTH_LIMIT = 64 * KIB
"""Bytes of datagrams taken from a peer before it has proved who it is."""
_EARLY_EVENTS = 512

MakeNoise = Callable[[bytes, PeerId | None], QuicNoise]
"""Makes the exchange for a certificate hash and the peer that is expected."""


class Introduction:
    """The beginning of one connection."""

    __slots__ = ("_drive", "_early", "_initiator", "_make_noise", "_noise", "_received",
                 "expected_peer")  # fmt: skip

    def __init__(self, drive: NativeDrive, make_noise: MakeNoise, *, initiator: bool) -> None:
        self._drive = drive
        self._make_noise = make_noise
        self._initiator = initiator
        self._noise: QuicNoise | None = None
        self._received = 0
        self._early: list[NativeEvent] = []
        self.expected_peer: PeerId | None = None
        """Who the other end has to be; read when Noise begins."""

    @property
    def remote(self) -> RemoteIdentity | None:
        """Who the peer is, once it has proved that."""
        return None if self._noise is None else self._noise.result

    def count(self, size: int) -> None:
        """A datagram has come. Raises :class:`RemoteProtocolError` when it is one too many."""
        self._received += size
        if self._received > PRE_AUTH_LIMIT:
            raise RemoteProtocolError("QUIC: too many bytes before the peer is authenticated")

    def begin(self) -> None:
        """Begin, once TLS is done and the server's certificate is known. Idempotent."""
        core = self._drive.core
        if self._noise is None and core.handshake_complete:
            self._noise = self._make_noise(server_certificate_hash(core), self.expected_peer)
            self._send()

    def receive(self, data: bytes) -> bytes:
        """Take bytes of stream 0; return what follows the exchange, if it is over.

        Raises :class:`RemoteProtocolError` and `PeerMismatchError`.
        """
        noise = self._noise
        assert noise is not None  # without TLS there are no keys for streams
        noise.feed(data)
        self._send()
        token = self._drive.core.reset_token
        if self._initiator and noise.result is not None and token is not None:
            self._drive.native.send_stream(0, encode_reset_token(token), False)
        return noise.rest

    def _send(self) -> None:
        assert self._noise is not None
        if data := self._noise.data_to_send():
            self._drive.native.send_stream(0, data, False)

    def keep(self, event: NativeEvent) -> None:
        """A stream speaks too early: its packet may have overtaken the last of Noise's.

        Only the initiator may know the peer first. Raises :class:`RemoteProtocolError`.
        """
        if self._initiator:
            raise RemoteProtocolError("QUIC: a stream before the peer knows who we are")
        if len(self._early) >= _EARLY_EVENTS:
            raise RemoteProtocolError("QUIC: too much before the peer is authenticated")
        self._early.append(event)

    def take_kept(self) -> list[NativeEvent]:
        """What streams have said too early."""
        early, self._early = self._early, []
        return early

    def export(self, label: bytes) -> bytes:
        """32 secret bytes that only this connection's two ends can make, for another use.

        Raises :class:`LocalProtocolError` before the exchange is over.
        """
        if self._noise is None:
            raise LocalProtocolError("the peer is not known yet")
        return self._noise.export(label)
