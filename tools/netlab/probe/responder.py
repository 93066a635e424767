"""The responder that NATs are probed with: two addresses with two ports each (RFC 5780).

It answers binding requests over UDP and TCP. Asked to change its address or port it answers from
there: over UDP with a datagram, over TCP with a connection of its own to where the request came
from (RFC 5382 filtering can be seen in no other way).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import trio

from lattica.errors import RemoteProtocolError
from tools.netlab.packets import stun
from tools.netlab.packets.stun import Endpoint, StunMessage

# How long a TCP connection may be silent, and how long opening one to a client may take.
IDLE_TIMEOUT = 30.0
"""Seconds."""
CONNECT_TIMEOUT = 3.0
"""Seconds."""
MAX_CLIENTS = 256


class Responder:
    """Four sockets of each kind; see :func:`serve`."""

    def __init__(self, addresses: tuple[str, str], ports: tuple[int, int]) -> None:
        self._addresses = addresses
        self._ports = ports
        self._udp: dict[Endpoint, trio.socket.SocketType] = {}
        self._clients = trio.Semaphore(MAX_CLIENTS)

    def endpoints(self) -> list[Endpoint]:
        """All four, the primary one first."""
        return [(address, port) for address in self._addresses for port in self._ports]

    def _other(self, endpoint: Endpoint, ip: bool = True, port: bool = True) -> Endpoint:
        a, b = self._addresses
        p, q = self._ports
        address = (b if endpoint[0] == a else a) if ip else endpoint[0]
        return address, (q if endpoint[1] == p else p) if port else endpoint[1]

    def _answer(self, request: StunMessage, at: Endpoint, source: Endpoint) -> StunMessage:
        """The response to a request that came to `at`; `origin` says where it must come from."""
        origin = self._other(at, request.change_ip, request.change_port)
        return StunMessage(
            is_request=False,
            transaction=request.transaction,
            mapped=source,
            origin=origin,
            other=self._other(at),
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; `ready` is called once all sockets listen. Raises OSError."""
        async with trio.open_nursery() as nursery:
            for endpoint in self.endpoints():
                udp = self._udp[endpoint] = await new_socket(endpoint, socket.SOCK_DGRAM)
                tcp = await new_socket(endpoint, socket.SOCK_STREAM)
                tcp.listen(64)
                nursery.start_soon(self._serve_udp, endpoint, udp)
                nursery.start_soon(self._serve_tcp, endpoint, tcp, nursery)
            ready()

    async def _serve_udp(self, at: Endpoint, sock: trio.socket.SocketType) -> None:
        with sock:
            while True:
                try:
                    data, source = await sock.recvfrom(2048)
                    request = stun.decode(data)
                except (RemoteProtocolError, OSError):
                    continue  # noise, or an ICMP error about an answer
                if not request.is_request:
                    continue
                source = (source[0], source[1])
                answer = self._answer(request, at, source)
                if request.response_port is not None:
                    source = (source[0], request.response_port)
                assert answer.origin is not None
                try:
                    await self._udp[answer.origin].sendto(stun.encode(answer), source)
                except OSError:
                    continue  # port 0, or an address that nobody routes

    async def _serve_tcp(
        self, at: Endpoint, listener: trio.socket.SocketType, nursery: trio.Nursery
    ) -> None:
        with listener:
            while True:
                try:
                    sock, source = await listener.accept()
                except OSError:
                    continue  # the client has gone already
                nursery.start_soon(self._serve_connection, at, sock, (source[0], source[1]))

    async def _serve_connection(
        self, at: Endpoint, sock: trio.socket.SocketType, source: Endpoint
    ) -> None:
        with sock:
            try:
                async with self._clients, trio.open_nursery() as nursery:
                    while True:
                        with trio.fail_after(IDLE_TIMEOUT):
                            request = await receive_message(sock)
                        if request is None:
                            return
                        answer = self._answer(request, at, source)
                        if answer.origin == at:
                            await send_all(sock, stun.encode(answer))
                        else:
                            nursery.start_soon(self._connect_back, answer)
            except* (OSError, RemoteProtocolError, trio.TooSlowError):
                pass  # the client's fault, or the network's: its connection is closed

    @staticmethod
    async def _connect_back(answer: StunMessage) -> None:
        """Give an answer over a new connection from where it must come from.

        If that is refused nothing happens: the client waits in vain.
        """
        assert answer.origin is not None
        assert answer.mapped is not None
        with (
            contextlib.suppress(OSError),
            trio.move_on_after(CONNECT_TIMEOUT),
            await new_socket(answer.origin, socket.SOCK_STREAM) as sock,
        ):
            await sock.connect(answer.mapped)
            await send_all(sock, stun.encode(answer))


async def new_socket(endpoint: Endpoint, kind: int) -> trio.socket.SocketType:
    """A socket bound to `endpoint`, which TCP sockets may share. Raises OSError."""
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    sock = trio.socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # A listener and the connections that it opens have the same port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await sock.bind(endpoint)
    except BaseException:
        sock.close()
        raise
    return sock


async def receive_message(sock: trio.socket.SocketType) -> StunMessage | None:
    """The next message on a TCP connection; None at its end.

    Raises RemoteProtocolError, also for an end in the middle of a message, and OSError.
    """
    data = bytearray()
    wanted = stun.HEADER.size
    while len(data) < wanted:
        part = await sock.recv(wanted - len(data))
        if not part:
            if data:
                raise RemoteProtocolError("a connection ended within a STUN message")
            return None
        data += part
        if len(data) >= stun.HEADER.size:
            wanted = stun.message_bytes(data)
    return stun.decode(data)


async def send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    """Send all of `data`. Raises OSError."""
    while data:
        data = data[await sock.send(data) :]


async def serve(
    addresses: tuple[str, str], ports: tuple[int, int], ready: Callable[[], None]
) -> None:
    """Serve at two addresses, each with both ports, until cancelled. Raises OSError."""
    await Responder(addresses, ports).run(ready)
