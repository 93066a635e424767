"""TLS around a :class:`~lattica.nat.transport.base.RawConn`, for dialing `/wss` addresses.

Certificate policy: the server's certificate has to be valid for the name in the address
according to the machine's trusted authorities, as for any HTTPS client; there is no way to
switch that off, but a caller may bring a context that trusts an authority of its own.
TLS is here to pass networks that allow nothing but HTTPS. Who the peer is, Noise proves
inside, so a certificate never stands for a peer. Listening is left to a reverse proxy.
"""

from __future__ import annotations

import contextlib
import ssl
import time

import trio

from lattica.nat.base.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.printable import utc_text
from lattica.nat.base.wire import Buffer
from lattica.nat.mux.delivery import Delivery
from lattica.nat.transport.base import RawConn

_READ_SIZE = 256 * 1024
_CLOSE_TIMEOUT = 0.5
"""Seconds."""
_OF_CLOCKS = {9: "is not valid yet", 10: "has expired"}
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


def client_context() -> ssl.SSLContext:
    """The machine's trusted authorities, TLS 1.2 or later, no renegotiation."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _why(code: int, message: str) -> str:
    """What is wrong with a server's certificate, and whose it is to mend."""
    if code not in _OF_CLOCKS:
        return f"the server's certificate is refused: {message}"
    return (
        f"the server's certificate {_OF_CLOCKS[code]} by this machine's clock, which says "
        f"{utc_text(time.time())}: where that is right, its operator has to renew it"
    )


class TlsConn:
    """The client side of a TLS connection; call :meth:`handshake` first.

    One task may receive while another sends. A cancelled `send` leaves the connection
    unusable, as with the connection inside.
    """

    __slots__ = ("_conn", "_incoming", "_lock", "_outgoing", "_tls")

    def __init__(self, conn: RawConn, context: ssl.SSLContext, server_name: str) -> None:
        self._conn = conn
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._lock = trio.Lock()

    @property
    def local_addr(self) -> Multiaddr:
        return self._conn.local_addr

    @property
    def remote_addr(self) -> Multiaddr:
        return self._conn.remote_addr

    async def handshake(self) -> None:
        """Agree on keys and check the certificate.

        Raises:
            OSError: the certificate is not valid, or there is no TLS.
            ConnectionClosedError: the server hung up.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionClosedError("connection closed in the TLS handshake") from None
            except ssl.SSLCertVerificationError as error:
                raise OSError(_why(error.verify_code, error.verify_message)) from None
            else:
                await self._flush()
                return

    @property
    def most_bytes(self) -> int | None:
        return self._conn.most_bytes

    async def receive(self) -> memoryview:
        while True:
            try:
                data = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                # What TLS itself has to say (a new key, for instance). If another task is
                # sending, it takes this along.
                if self._outgoing.pending and not self._lock.locked():
                    await self._flush()
                if not await self._fill():
                    return memoryview(b"")
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return memoryview(b"")
            except ssl.SSLError as error:
                raise RemoteProtocolError(f"TLS failed: {error}") from None
            else:
                return memoryview(data)

    async def send(self, data: Buffer) -> None:
        view = memoryview(data)
        async with self._lock:
            while view:
                try:
                    view = view[self._tls.write(view) :]
                except ssl.SSLError as error:
                    raise ConnectionClosedError(f"TLS failed: {error}") from None
            await self._conn.send(self._outgoing.read())

    def send_nowait(self, data: bytes) -> int:
        return 0

    def unanswered(self) -> float | None:
        return self._conn.unanswered()

    def mark_authenticated(self) -> None:
        self._conn.mark_authenticated()

    def delivery(self) -> Delivery | None:
        return self._conn.delivery()

    async def aclose(self) -> None:
        """Say farewell if that is possible within half a second, and close the pipe."""
        try:
            with contextlib.suppress(ssl.SSLError):  # we do not wait for the other farewell
                self._tls.unwrap()
            with (
                contextlib.suppress(OSError, trio.ClosedResourceError),
                trio.move_on_after(_CLOSE_TIMEOUT),
            ):
                await self._flush()
        finally:
            await self._conn.aclose()

    def abort(self) -> None:
        self._conn.abort()

    async def _flush(self) -> None:
        async with self._lock:
            if self._outgoing.pending:
                await self._conn.send(self._outgoing.read())

    async def _fill(self) -> bool:
        data = await self._conn.receive()
        if not data:
            self._incoming.write_eof()
            return False
        self._incoming.write(data)
        return True
