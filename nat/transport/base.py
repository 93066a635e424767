"""What a transport is: a way from a multiaddr to a pipe of bytes, or to a secure link.

Security and multiplexing are not the business of one that makes pipes:
:mod:`lattica.nat.secure.upgrade` puts them on top of any. One that has both of its own makes links.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.delivery import Delivery
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.noise_identity import RemoteIdentity

if TYPE_CHECKING:
    from lattica.nat.mux.connection import Connection, Direction

_RECEIVE_BUFFER = 512 * 1024
"""Bytes."""


class _ReceiveBuffer(threading.local):
    """One large receive buffer a thread: idle connections need none of their own."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_RECEIVE_BUFFER))


receive_buffer = _ReceiveBuffer()


class RawConn(Protocol):
    """A reliable, ordered pipe of bytes, without security.

    One task may receive while another sends. The other end going away is the end of
    the stream for :meth:`receive` and an :class:`OSError` or
    :class:`~lattica.errors.ConnectionClosedError` for :meth:`send`.
    """

    @property
    def local_addr(self) -> Multiaddr: ...

    @property
    def remote_addr(self) -> Multiaddr: ...

    @property
    def most_bytes(self) -> int | None:
        """Bytes that it carries in each direction and then ends; None: no limit is known.

        May become known only with what is received first.
        """
        ...

    async def receive(self) -> memoryview:
        """Wait for bytes. Empty at the end of the stream.

        The view is valid only until the caller next awaits anything: all connections of
        a thread share one large receive buffer.
        """
        ...

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, waiting while the other end cannot take it.

        If cancelled, an unknown part was sent, and the pipe must be aborted.
        """
        ...

    def send_nowait(self, data: bytes) -> int:
        """Send what can be sent without waiting, and return how many bytes that is.

        0 where there is always something to be waited for. Not while a :meth:`send` is under way,
        which also finds what is wrong with the pipe. Does not raise.
        """
        ...

    def unanswered(self) -> float | None:
        """Seconds for which the machine at the other end owes a sign of life; None: who knows.

        0 while it has acknowledged all that was sent to it, whatever its programs do.
        """
        ...

    def mark_authenticated(self) -> None:
        """The peer has proved its identity; what is meant for strangers may end.

        A transport that holds whole messages of the peer can allow larger ones now.
        """
        ...

    def delivery(self) -> Delivery | None:
        """Whether what was sent arrives; None where nobody knows."""
        ...

    async def aclose(self) -> None:
        """Close in good order, waiting for what the transport needs for that.

        Also called after :meth:`abort`, to release what only waiting can release.
        """
        ...

    def abort(self) -> None:
        """Close at once, without waiting. Idempotent; wakes those who wait on it."""
        ...


class SecureLink(ABC):
    """A connection whose transport brings security and streams of its own."""

    __slots__ = ()

    @property
    @abstractmethod
    def local_addr(self) -> Multiaddr: ...

    @property
    @abstractmethod
    def remote_addr(self) -> Multiaddr: ...

    @abstractmethod
    async def authenticate(self, expected_peer: PeerId | None) -> RemoteIdentity:
        """Finish the set-up and return who the peer is.

        The caller bounds the time, and aborts the link when this fails.

        Raises:
            RemoteProtocolError: the peer breaks the protocol.
            PeerMismatchError: the peer is another one than expected.
            ConnectionClosedError: the peer has gone.
            OSError: the network says no.
        """

    @abstractmethod
    def connection(
        self,
        remote: RemoteIdentity,
        *,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
        check_address: Callable[[Multiaddr], None],
    ) -> Connection:
        """The connection over this link, once the peer is authenticated; not running yet.

        `check_address` raises `AccessDeniedError` where a peer that moves may not be.
        """

    @abstractmethod
    def abort(self, code: int = 0, reason: str = "") -> None:
        """Close at once, without waiting, and tell the peer why. Idempotent; wakes those who wait
        on it.
        """


class Listener(Protocol):
    """A bound address at which connections arrive."""

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """The bound addresses, with their real port."""
        ...

    async def accept(self) -> RawConn | SecureLink:
        """Wait for the next connection.

        Raises:
            OSError: the listener is closed, or broken.
            trio.ClosedResourceError: the same.
        """
        ...

    async def aclose(self) -> None:
        """Accept no more. Connections that were accepted go on."""
        ...


class Transport(Protocol):
    """One way of connecting, for the multiaddrs it knows."""

    def can_dial(self, addr: Multiaddr) -> bool: ...

    def can_listen(self, addr: Multiaddr) -> bool: ...

    async def dial(
        self, addr: Multiaddr, *, source_port: int | None = None
    ) -> RawConn | SecureLink:
        """Connect to `addr`, from local port `source_port` where that is possible.

        Has no timeout of its own.

        Raises:
            OSError: the network says no.
        """
        ...

    async def listen(self, addr: Multiaddr) -> Listener:
        """Bind `addr`.

        Raises:
            ListenError: it cannot be listened on.
        """
        ...


class ServedTransport(ABC):
    """A transport with work of its own, which the swarm runs for as long as it runs itself."""

    @abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve all connections until cancelled; report when it has started."""


class PipeListener(Listener, Protocol):
    """A listener that hands out pipes."""

    async def accept(self) -> RawConn: ...


class PipeTransport(Transport, Protocol):
    """A transport that makes pipes, so that others can be built on it."""

    async def dial(self, addr: Multiaddr, *, source_port: int | None = None) -> RawConn: ...

    async def listen(self, addr: Multiaddr) -> PipeListener: ...
