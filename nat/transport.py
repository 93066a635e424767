"""What a transport is: a way from a multiaddr to a pipe of bytes.

Security and multiplexing are not its business: :mod:`lattica.nat.upgrade` puts them on
top of any pipe.
"""

from __future__ import annotations

from typing import Protocol

from multiaddr.multiaddr import Multiaddr


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

    def mark_authenticated(self) -> None:
        """The peer has proved its identity; what is meant for strangers may end.

        A transport that holds whole messages of the peer can allow larger ones now.
        """
        ...

    async def aclose(self) -> None:
        """Close in good order, waiting for what the transport needs for that.

        Also called after :meth:`abort`, to release what only waiting can release.
        """
        ...

    def abort(self) -> None:
        """Close at once, without waiting. Idempotent; wakes those who wait on it."""
        ...


class Listener(Protocol):
    """A bound address at which connections arrive."""

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """The bound addresses, with their real port."""
        ...

    async def accept(self) -> RawConn:
        """Wait for the next connection. Raises :class:`OSError` when the listener is closed."""
        ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """One way of connecting, for the multiaddrs it knows."""

    def can_dial(self, addr: Multiaddr) -> bool: ...

    def can_listen(self, addr: Multiaddr) -> bool: ...

    async def dial(self, addr: Multiaddr, *, source_port: int | None = None) -> RawConn:
        """Connect to `addr`, from local port `source_port` where that is possible.

        Raises :class:`OSError` when the network says no. Has no timeout of its own.
        """
        ...

    async def listen(self, addr: Multiaddr) -> Listener:
        """Bind `addr`. Raises :class:`~lattica.errors.ListenError`."""
        ...
