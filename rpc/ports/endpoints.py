"""Where a service is, and where clients are listened for: TCP or a unix socket."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass

import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import AddressError, ListenError
from lattica.nat.base.net.own_sockets import own

LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})"
)
_UNIX = "unix:"
_FORMS = "a port, HOST:PORT or unix:/PATH"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and port, or the path of a unix socket."""

    host: str = LOOPBACK
    """A name is looked up for each connection."""
    port: int = 0
    path: str = ""
    """Of a unix socket; then there is neither host nor port."""

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(given: int | str, *, least: int = 1) -> Endpoint:
    """What a person wrote: a port of 127.0.0.1, `HOST:PORT`, `[IPv6]:PORT` or `unix:/PATH`.

    `least` is 0 where any free port is to be had so.

    Raises:
        AddressError: it is none.
    """
    text = str(given).strip()
    if text.startswith(_UNIX):
        path = os.path.expanduser(text.removeprefix(_UNIX))
        # The kernel has room for as many bytes.
        if not 0 < len(os.fsencode(path)) < 108 or "\0" in path:
            raise AddressError(f"{text!r:.200} is not unix: and a path of less than 108 bytes")
        return Endpoint("", 0, os.path.abspath(path))
    match = _HOST_AND_PORT.fullmatch(text if not text.isdecimal() else f"{LOOPBACK}:{text}")
    if match is None:
        raise AddressError(f"{text!r:.200} is not {_FORMS}")
    port = int(match["port"])
    if not least <= port < 65536:
        raise AddressError(f"{text!r:.200}: a port is from {least} to 65535")
    return Endpoint(match["ip6"] or match["host"], port)


def split_named(spec: str) -> tuple[str | None, str]:
    """The name, and what a person wrote for :func:`parse_endpoint`, of `[NAME=]TARGET`."""
    name, equals, target = spec.partition("=")
    return (name, target) if equals else (None, spec)


def parse_local(given: int | str) -> Endpoint:
    """:func:`parse_endpoint` for listening, where 0 is any free port."""
    return parse_endpoint(given, least=0)


async def connect(endpoint: Endpoint, source: str = "") -> trio.socket.SocketType:
    """Connect a socket; data are sent at once. Raises OSError.

    `source` is the name by which a unix socket's other end sees this one, in Linux's abstract
    namespace.
    """
    if endpoint.path:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if source:
                await sock.bind(f"\0{source}")
            await sock.connect(endpoint.path)
        except BaseException:
            sock.close()
            raise
        return sock
    try:
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except OSError as error:
        # Of the several addresses of a name; the first reason is as good as any.
        raise next((leaf for leaf in _causes(error) if leaf.errno), error) from None
    prepare(stream.socket)
    return stream.socket


def _causes(error: OSError) -> list[OSError]:
    cause = error.__cause__
    found = leaves(cause) if isinstance(cause, BaseException) else []
    return [error, *(leaf for leaf in found if isinstance(leaf, OSError))]


def prepare(sock: trio.socket.SocketType) -> None:
    """Send data at once, and let the kernel queue as much as it thinks right."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # trio makes it 16 KiB, which is a wake-up each
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Listening:
    """Sockets that clients can connect to."""

    endpoint: Endpoint
    """With the port that was found, where any was asked for."""
    sockets: tuple[trio.socket.SocketType, ...]

    def close(self) -> None:
        """Accept no more; a unix socket's name is gone."""
        for sock in self.sockets:
            sock.close()
        if self.endpoint.path:
            with suppress(OSError):
                os.unlink(self.endpoint.path)


async def listen(endpoint: Endpoint) -> Listening:
    """Listen, on all addresses of a host's name; a unix socket is for this user only.

    Raises:
        ListenError: it cannot be listened on; the message says why.
    """
    try:
        if endpoint.path:
            return _listen_unix(endpoint)
        return await _listen_tcp(endpoint)
    except OSError as error:
        raise ListenError(f"cannot listen on {endpoint}: {_why_not(error, endpoint)}") from None


def _why_not(error: OSError, endpoint: Endpoint) -> str:
    reason = error.strerror or str(error)
    if endpoint.path:
        return reason
    if error.errno == errno.EADDRINUSE:
        return f"{reason}; choose another local port (`lattica forward PEER LOCAL:PORT`)"
    if error.errno == errno.EACCES:
        return f"{reason}: ports below 1024 need privileges; choose a higher one"
    return reason


async def _listen_tcp(endpoint: Endpoint) -> Listening:
    found = await trio.socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    port = endpoint.port
    sockets: list[trio.socket.SocketType] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = own(trio.socket.socket(family, kind, protocol))
            sockets.append(sock)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await sock.bind((address[0], port, *address[2:]))
            sock.listen(_BACKLOG)
            port = sock.getsockname()[1]  # the same on all addresses
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return Listening(Endpoint(endpoint.host, port), tuple(sockets))


def _listen_unix(endpoint: Endpoint) -> Listening:
    sock = own(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        try:
            sock.bind(endpoint.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_behind(endpoint.path):
                raise
            os.unlink(endpoint.path)
            sock.bind(endpoint.path)
        os.chmod(endpoint.path, 0o600)  # before anybody can connect
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Listening(endpoint, (trio.socket.from_stdlib_socket(sock),))


def _is_left_behind(path: str) -> bool:
    """Whether it is a socket that a program which was killed has left."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
