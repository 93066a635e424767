"""Asking STUN responders where they see a socket: the driver of :mod:`stun_transaction`.

The socket is one that QUIC listens on, whose mapping is the one that matters, or a fresh one
that a NAT has never seen, for finding out what it lets in (RFC 5780, section 4.4).
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from lattica.nat.base.errors import LatticaError, RemoteProtocolError, ResourceLimitError
from lattica.nat.transport.udp_socket import Address, UdpSocket
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.codec import (
    BindingError,
    BindingRequest,
    BindingResponse,
    Endpoint,
    endpoint_of,
)
from lattica.nat.traversal.stun.transaction import StunTiming, Transaction

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

MAX_PENDING: Final = 256
"""Requests of one client that wait for their answer."""


class StunTimeout(LatticaError, TimeoutError):
    """A responder has not answered; it is not there, or something in between drops UDP."""


class StunRefused(LatticaError):
    """A responder has answered with an error; `code` as in RFC 8489, section 14.8."""

    def __init__(self, server: Endpoint, error: BindingError) -> None:
        super().__init__(f"{server[0]}:{server[1]} refuses: {error.code} {error.reason[:80]!r}")
        self.code = error.code


@dataclass(frozen=True, slots=True)
class Binding:
    """What a responder said."""

    response: BindingResponse
    """Its message."""
    source: Endpoint
    """Where that came from."""
    rtt: float | None
    """Round-trip time in seconds, where it is clear which request was answered."""

    @property
    def mapped(self) -> Endpoint:
        """Where the responder sees the socket."""
        return self.response.mapped


class StunClient:
    """Requests from one socket. Made by :func:`client_on` and :func:`client_on_fresh_socket`.

    Args:
        local: what the socket is bound to.
        send: sends a datagram to an address.
        timing: of requests.
    """

    def __init__(
        self, local: Address, send: Callable[[bytes, Address], None], timing: StunTiming
    ) -> None:
        self.local = endpoint_of(local)
        self._send = send
        self._timing = timing
        self._pending: dict[bytes, tuple[Transaction, trio.Event]] = {}
        self._watched: dict[bytes, trio.Event] = {}

    async def ask(
        self,
        server: Endpoint,
        *,
        change_ip: bool = False,
        change_port: bool = False,
        response_port: int | None = None,
        accept_from: Collection[Endpoint] = (),
    ) -> Binding:
        """Ask a responder, and wait for its answer.

        Args:
            change_ip, change_port, response_port: see :class:`~stun.BindingRequest`.
            accept_from: who may answer if not `server`, as with `change_ip`. That it refuses
                is for `server` to say.

        Raises:
            StunTimeout: no answer.
            StunRefused: the answer is an error.
            ResourceLimitError: too many requests wait.

        Cancellation: at any time.
        """
        request = BindingRequest(new_transaction(), change_ip, change_port, response_port)
        server = endpoint_of(server)
        expected = set(map(endpoint_of, accept_from)) or {server}
        transaction = Transaction(request, server, expected, self._timing)
        if len(self._pending) >= MAX_PENDING:
            raise ResourceLimitError("too many STUN requests at once")
        answered = trio.Event()
        self._pending[request.transaction] = transaction, answered
        try:
            while not transaction.done:
                datagram = transaction.due(trio.current_time())
                if datagram is not None:
                    self._send(datagram, server)
                if transaction.next_timer is not None:
                    with trio.move_on_at(transaction.next_timer):
                        await answered.wait()
        finally:
            del self._pending[request.transaction]
        answer, source = transaction.answer, transaction.answered_by
        if answer is None or source is None:
            raise StunTimeout(f"{server[0]}:{server[1]} does not answer over UDP")
        if isinstance(answer, BindingError):
            raise StunRefused(server, answer)
        return Binding(answer, source, transaction.rtt)

    def send(self, request: BindingRequest, destination: Endpoint) -> None:
        """Send a request once, whose answer :meth:`watching` sees, here or elsewhere."""
        self._send(stun.encode(request), destination)

    @contextmanager
    def watching(self, transaction: bytes) -> Iterator[trio.Event]:
        """An event for the arrival of any message with a transaction, from whomever.

        For what comes in unasked: an answer that was made to go here, or what the other socket
        of a hairpin test has sent. Nobody can guess the transaction.
        """
        event = self._watched[transaction] = trio.Event()
        try:
            yield event
        finally:
            del self._watched[transaction]

    def deliver(self, datagram: bytes, source: Address) -> None:
        """Take a datagram that has arrived; what is not for this client is ignored."""
        if not stun.is_stun(datagram):
            return
        name = stun.transaction_of(datagram)
        watched, pending = self._watched.get(name), self._pending.get(name)
        if watched is None and pending is None:
            return
        try:
            message = stun.decode(datagram)
        except RemoteProtocolError:
            return
        if watched is not None:
            watched.set()
        if pending is not None and not isinstance(message, BindingRequest):
            transaction, answered = pending
            if transaction.receive(message, endpoint_of(source), trio.current_time()):
                answered.set()


def new_transaction() -> bytes:
    """96 bits that nobody can guess."""
    return os.urandom(stun.TRANSACTION_BYTES)


@asynccontextmanager
async def client_on(
    endpoint: QuicEndpoint, timing: StunTiming | None = None
) -> AsyncIterator[StunClient]:
    """A client on a socket that QUIC uses too."""
    client = StunClient(endpoint.local, endpoint.send_probe, timing or StunTiming())
    with endpoint.foreign() as arrivals:

        async def receive() -> None:
            async for datagram, source in arrivals:
                client.deliver(datagram, source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_on_fresh_socket(
    host: str, timing: StunTiming | None = None
) -> AsyncIterator[StunClient]:
    """A client on a socket of its own, bound to a numeric host and any port.

    Raises:
        OSError: that cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = UdpSocket.bind(host, 0, family, offload=False)

    def send(datagram: bytes, destination: Address) -> None:
        sock.send([datagram], destination)

    client = StunClient(sock.local, send, timing or StunTiming())

    async def receive() -> None:
        while True:
            for received in await sock.receive():
                client.deliver(received.data, received.source)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()
    finally:
        sock.close()
