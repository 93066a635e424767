"""The TCP transport: `/ip4/…/tcp/PORT` and `/ip6/…/tcp/PORT`."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator

import trio

from lattica.nat.base.errors import AddressError, ListenError
from lattica.nat.base.net.addresses import (
    Kind,
    SocketName,
    kind_of,
    socket_multiaddr,
    to_endpoint,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.own_sockets import own
from lattica.nat.mux.delivery import Delivery
from lattica.nat.transport import tcp_info
from lattica.nat.transport.base import receive_buffer

_BACKLOG = 4096
# Data the kernel holds and has not sent cannot be overtaken by what is urgent, nor does it stay in
# the processor's cache.
_NOTSENT_LOWAT = 256 * 1024
_RESET = struct.pack("@ii", 1, 0)
"""SO_LINGER's value with which a closed socket tells its peer at once."""
# Errors of a socket's source address after which an ephemeral port will do.
_SOURCE_UNAVAILABLE = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EINVAL}
# accept() fails, but the listener is well (man 2 accept; EMFILE and friends pass).
_ACCEPT_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_GONE = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
}


class TcpConn:
    """A connected TCP socket as a :class:`~lattica.nat.transport.base.RawConn`."""

    __slots__ = ("_local", "_remote", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected, non-blocking socket."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
        self._sock = own(sock)
        self._local = sock.getsockname()
        self._remote = sock.getpeername()

    @property
    def local_addr(self) -> Multiaddr:
        return multiaddr_of(self._local)

    @property
    def remote_addr(self) -> Multiaddr:
        return multiaddr_of(self._remote)

    @property
    def most_bytes(self) -> int | None:
        return None

    async def receive(self) -> memoryview:
        sock = self._sock
        while True:
            if sock.fileno() == -1:
                raise trio.ClosedResourceError("aborted by this side")
            await trio.lowlevel.wait_readable(sock)
            buffer = receive_buffer.view
            try:
                return buffer[: sock.recv_into(buffer)]
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return buffer[:0]

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        sock = self._sock
        view = memoryview(data)
        while True:
            try:
                sent = sock.send(view)
            except BlockingIOError:
                sent = 0
            if sent == len(view):
                await trio.lowlevel.checkpoint()
                return
            view = view[sent:]
            await trio.lowlevel.wait_writable(sock)

    def send_nowait(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except OSError:  # it is full, or broken
            return 0

    def unanswered(self) -> float | None:
        return tcp_info.unanswered(self._sock)

    def mark_authenticated(self) -> None:
        pass  # nothing is withheld from strangers

    def delivery(self) -> Delivery | None:
        return tcp_info.delivery(self._sock)

    async def aclose(self) -> None:
        # Closing with unread data would make the kernel send RST, which can destroy what
        # the peer has not read yet; so end our direction and wait for the peer's end.
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while await self.receive():
                pass
        except (OSError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # it is gone, or another task receives: there is no waiting for the end
        finally:
            self.abort()

    def abort(self) -> None:
        if self._sock.fileno() != -1:
            if (delivery := self.delivery()) is not None and delivery.waiting:
                # Else the kernel goes on sending what is lost, and the peer never hears of this.
                with contextlib.suppress(OSError):
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TcpListener:
    """A listening socket, closed by :meth:`aclose`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = own(sock)
        self.addrs: tuple[Multiaddr, ...] = (multiaddr_of(sock.getsockname()),)

    async def accept(self) -> TcpConn:
        while True:
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            except OSError as error:
                if error.errno in _ACCEPT_EXHAUSTED:
                    # Out of descriptors or memory: others must give some back first.
                    await trio.sleep(0.1)
                    continue
                if error.errno in _ACCEPT_GONE:
                    await trio.lowlevel.checkpoint()
                    continue
                raise
            sock.setblocking(False)
            try:
                conn = TcpConn(sock)
            except OSError:  # it is gone already
                sock.close()
                continue
            await trio.lowlevel.checkpoint()
            return conn

    async def aclose(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            with contextlib.suppress(OSError):
                # Also where another process has a descriptor of it, it accepts nothing any more.
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
        await trio.lowlevel.checkpoint()


class TcpTransport:
    """Dials and listens on TCP over IPv4 and IPv6."""

    def can_dial(self, addr: Multiaddr) -> bool:
        return kind_of(addr) is Kind.TCP

    can_listen = can_dial

    async def dial(
        self,
        addr: Multiaddr,
        *,
        source_port: int | None = None,
        source_ip: str = "",
        max_segment: int | None = None,
        or_any_port: bool = True,
    ) -> TcpConn:
        """See :class:`~lattica.nat.transport.base.Transport`.

        Where `source_port` cannot be dialed from, another one will do, unless `or_any_port` is
        false: OSError then. With `max_segment` neither side sends more than that many bytes in a
        packet (RFC 9293, section 3.7.1), for paths that lose what is larger.
        """
        endpoint = to_endpoint(addr)
        if endpoint.is_name:
            # The socket would look it up, and stop all tasks of the thread for that time.
            raise AddressError(f"the name {endpoint.host} was not resolved")
        family, name = endpoint.family, endpoint.socket_name
        if source_port is not None:
            for ip in _source_ips(family, name):
                try:
                    return await self._connect(family, name, (ip, source_port), max_segment)
                except OSError as error:
                    if error.errno not in _SOURCE_UNAVAILABLE:
                        raise
            if not or_any_port:
                # A connection of before may not be over yet for the system (RFC 9293, TIME-WAIT).
                raise OSError(errno.EADDRNOTAVAIL, f"cannot dial from port {source_port} now")
        source = (source_ip, 0) if source_ip else None
        return await self._connect(family, name, source, max_segment)

    async def _connect(
        self,
        family: socket.AddressFamily,
        name: SocketName,
        source: tuple[str, int] | None,
        max_segment: int | None,
    ) -> TcpConn:
        sock = own(socket.socket(family, socket.SOCK_STREAM))
        try:
            sock.setblocking(False)
            if source is not None:
                if source[1]:
                    _share_port(sock)
                sock.bind(source)
            if max_segment is not None:
                with contextlib.suppress(OSError, AttributeError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, max_segment)
            result = sock.connect_ex(name)
            if result == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(sock)
                result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            else:
                await trio.lowlevel.checkpoint()
            if result:
                raise OSError(result, errno.errorcode.get(result, "connect failed"))
            return TcpConn(sock)
        except BaseException:
            sock.close()
            raise

    async def listen(self, addr: Multiaddr) -> TcpListener:
        endpoint = to_endpoint(addr)
        family, port = endpoint.family, endpoint.port
        sock: socket.socket | None = None
        try:
            name = endpoint.socket_name
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # SO_REUSEPORT is for dialing from this port, and must not let two programs
            # listen on it: the first bind goes without.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(name)
            _share_port(sock)
            sock.listen(_BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            refusal = ListenError(why_not(error, addr, port))
            refusal.errno = error.errno
            raise refusal from None
        await trio.lowlevel.checkpoint()
        return TcpListener(sock)


def why_not(error: OSError, addr: Multiaddr, port: int) -> str:
    """Explain why an address cannot be listened on, with what to do about it."""
    if error.errno == errno.EADDRINUSE:
        if _is_own_port(addr, port):
            return (
                f"cannot listen on {addr}: port {port} is in use by this program itself: by a node "
                "that it has not closed (in a notebook: close it before the cell is run again), or "
                "by another address of this one; close that, or use port 0 for any free one"
            )
        return (
            f"cannot listen on {addr}: port {port} is in use by another program; "
            "stop it, choose another port, or use port 0 for any free one"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot listen on {addr}: ports below 1024 need privileges; choose a higher one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {addr}: this machine has no such address"
    return f"cannot listen on {addr}: {error.strerror}"


def _is_own_port(addr: Multiaddr, port: int) -> bool:
    """Whether a socket of this process is bound to the port; False where that cannot be known."""
    kind = socket.SOCK_DGRAM if "/udp/" in str(addr) else socket.SOCK_STREAM
    with contextlib.suppress(OSError):
        for descriptor in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):
                sock = socket.socket(fileno=descriptor)
                try:
                    is_ip = sock.family in (socket.AF_INET, socket.AF_INET6)
                    if is_ip and sock.type == kind and sock.getsockname()[1] == port:
                        return True
                finally:
                    sock.detach()  # it is somebody else's
    return False


def _source_ips(family: socket.AddressFamily, name: SocketName) -> Iterator[str]:
    """Where to bind a port for a connection: at all addresses, else at the one that it needs.

    By chance another program may have the port at another address of this machine.
    """
    yield ""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(name)
        yield str(sock.getsockname()[0])


def _share_port(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def multiaddr_of(name: SocketName) -> Multiaddr:
    """Return the multiaddr of a socket name."""
    return socket_multiaddr(name, "tcp/{}")
