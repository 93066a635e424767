"""The WebSocket transport: `…/tcp/PORT/ws`, and `…/tcp/PORT/wss` for dialing.

The server is asked by the name in the address, in TLS (SNI) and in HTTP (Host), as proxies need
that serve several names; behind one, it may also be `/http-path/PATH` that leads to the peer.

The pipe itself, :mod:`lattica.nat.transport.websocket`, is imported with the first connection:
most nodes never have one.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from lattica.nat.base.errors import AddressError
from lattica.nat.base.net.addresses import (
    Kind,
    join_parts,
    kind_of,
    split_endpoint,
    split_peer,
    to_endpoint,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving
from lattica.nat.transport.base import PipeListener, PipeTransport, RawConn
from lattica.nat.transport.tls import TlsConn, client_context

if TYPE_CHECKING:
    from lattica.nat.transport.websocket import WebSocketConn


class WebSocketListener:
    """A listener whose connections begin with a WebSocket handshake."""

    def __init__(self, listener: PipeListener, suffix: Multiaddr) -> None:
        self._listener = listener
        self.addrs: tuple[Multiaddr, ...] = tuple(
            addr.encapsulate(suffix) for addr in listener.addrs
        )

    async def accept(self) -> WebSocketConn:
        """Wait for the next connection; its handshake happens on first use."""
        from lattica.nat.transport.websocket import accepted

        return accepted(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


class WebSocketTransport:
    """WebSocket over another transport's pipes, in practice TCP's.

    Dials `/ws` and, with TLS, `/wss`, `/tls/ws` and `/tls/sni/NAME/ws`; listens on `/ws`, whatever
    path is asked for. All may be followed by `/http-path/PATH`.
    Names have to be resolved first (:func:`lattica.nat.base.net.names.resolve` keeps the name
    as `/sni`). The certificate policy is that of :mod:`lattica.nat.transport.tls`.
    """

    def __init__(self, tcp: PipeTransport, *, tls_context: ssl.SSLContext | None = None) -> None:
        self._tcp = tcp
        self._tls_context = tls_context

    def can_dial(self, addr: Multiaddr) -> bool:
        kinds = (Kind.WEBSOCKET, Kind.SECURE_WEBSOCKET)
        return (
            kind_of(addr) in kinds
            and not needs_resolving(addr)
            and self._tcp.can_dial(_pipe_addr(addr))
        )

    def can_listen(self, addr: Multiaddr) -> bool:
        return (
            kind_of(addr) is Kind.WEBSOCKET
            and not needs_resolving(addr)
            and self._tcp.can_listen(_pipe_addr(addr))
        )

    async def dial(self, addr: Multiaddr, *, source_port: int | None = None) -> WebSocketConn:
        """Connect and open a WebSocket at `/`, or at the path in the address.

        Raises:
            OSError: the network says no, or the certificate is not valid.
            RemoteProtocolError: the server does not open a WebSocket there.
            AddressError: not an address for this transport.
        """
        if not self.can_dial(addr):
            raise AddressError(f"{addr} is not a WebSocket address like /ip4/192.0.2.1/tcp/80/ws")
        secure = kind_of(addr) is Kind.SECURE_WEBSOCKET
        endpoint = to_endpoint(addr)
        host = _server_name(addr) or endpoint.host
        path = "".join(value for name, value in addr.components if name == "http-path")
        from websockets.uri import WebSocketURI

        from lattica.nat.transport.websocket import dialed

        conn: RawConn = await self._tcp.dial(_pipe_addr(addr), source_port=source_port)
        try:
            if secure:
                if self._tls_context is None:
                    self._tls_context = client_context()
                tls = TlsConn(conn, self._tls_context, host)
                await tls.handshake()
                conn = tls
            uri = WebSocketURI(secure, host, endpoint.port, _url_path(path), "")
            websocket = dialed(conn, uri, _suffix(addr))
            await websocket.handshake()
            return websocket
        except BaseException:
            conn.abort()
            raise

    async def listen(self, addr: Multiaddr) -> WebSocketListener:
        """Bind `addr`.

        Raises:
            ListenError: it cannot be listened on.
        """
        return WebSocketListener(await self._tcp.listen(_pipe_addr(addr)), _suffix(addr))


def _pipe_addr(addr: Multiaddr) -> Multiaddr:
    """The part of the address that the transport below is for: host and port."""
    return join_parts(split_endpoint(addr)[0])


def _suffix(addr: Multiaddr) -> Multiaddr:
    """What follows that part, in the form that others know."""
    _, rest = split_endpoint(split_peer(addr)[0])
    if rest[0][0] == "wss":
        rest = (("tls", ""), ("ws", ""), *rest[1:])
    elif rest[0][0] == "sni":  # without TLS the name is for us alone
        rest = rest[1:]
    return join_parts(rest)


def _url_path(encoded: str) -> str:
    return "/" + quote(unquote_to_bytes(encoded).lstrip(b"/"))


def _server_name(addr: Multiaddr) -> str | None:
    """The name after `/sni`, in ASCII."""
    for name, value in addr.components:
        if name == "sni":
            try:
                return value.encode("idna").decode()
            except UnicodeError:
                raise AddressError(f"{value!r} is not a host name") from None
    return None
