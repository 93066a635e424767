"""Probing what a NAT does to UDP (RFC 5780 section 4)."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from lattica.errors import RemoteProtocolError
from tools.netlab.packets import stun
from tools.netlab.packets.stun import Endpoint, StunMessage
from tools.netlab.probe.responder import new_socket
from tools.netlab.probe.verdicts import (
    UdpResult,
    filtering_behaviour,
    mapping_behaviour,
    port_allocation,
)
from tools.netlab.spec.nat import Behaviour, PortAllocation

TRIES: Final = 4
# Sockets from whose external ports the allocation is told.
PORT_SAMPLES: Final = 6


@dataclass(slots=True)
class _Findings:
    """What the tests, which run side by side, have found."""

    mapping: Behaviour | None = None
    filtering: Behaviour = "address-and-port-dependent"
    hairpin: bool | None = None
    lifetimes: dict[float, bool] = field(default_factory=dict)


class UdpEndpoint:
    """A UDP socket that asks questions; see :func:`open_udp`.

    called: set when a request has come to it. answered_unasked: set when an answer has come that
    it did not ask for.
    """

    def __init__(self, sock: trio.socket.SocketType, server: Endpoint, timeout: float) -> None:
        self._socket = sock
        self._server = server
        self._timeout = timeout
        self._waiting: dict[bytes, trio.Event] = {}
        self._answers: dict[bytes, StunMessage] = {}
        self.called = trio.Event()
        self.answered_unasked = trio.Event()
        address, port = sock.getsockname()[:2]
        self.local: Endpoint = (str(address), int(port))

    async def ask(
        self,
        server: Endpoint | None = None,
        *,
        change_ip: bool = False,
        change_port: bool = False,
    ) -> StunMessage | None:
        """The answer of `server` (or else the primary one); None after some tries."""
        transaction = os.urandom(stun.TRANSACTION_BYTES)
        request = StunMessage(True, transaction, change_ip=change_ip, change_port=change_port)
        answered = self._waiting[transaction] = trio.Event()
        try:
            for _ in range(TRIES):
                await self.send(request, server or self._server)
                with trio.move_on_after(self._timeout):
                    await answered.wait()
                    return self._answers.pop(transaction)
        finally:
            del self._waiting[transaction]
        return None

    async def mapped(self, server: Endpoint | None = None) -> Endpoint | None:
        """Where `server` sees this socket; None if it does not answer."""
        answer = await self.ask(server)
        return None if answer is None else answer.mapped

    async def send(self, message: StunMessage, to: Endpoint) -> None:
        """Send a message; one that cannot be sent is as good as lost."""
        try:
            await self._socket.sendto(stun.encode(message), to)
        except OSError:
            return

    async def listen(self) -> None:
        """Take what comes in, until cancelled."""
        while True:
            try:
                data, _ = await self._socket.recvfrom(2048)
                message = stun.decode(data)
            except (OSError, RemoteProtocolError):
                continue  # an ICMP error about what was sent, or noise
            if message.is_request:
                self.called.set()
            elif message.transaction in self._waiting:
                self._answers[message.transaction] = message
                self._waiting[message.transaction].set()
            else:
                self.answered_unasked.set()


class UdpProbe:
    """The tests against one responder, whose primary endpoint is `server`."""

    def __init__(self, local_ip: str, server: Endpoint, timeout: float) -> None:
        self._local_ip = local_ip
        self._server = server
        self._timeout = timeout

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[UdpEndpoint]:
        with await new_socket((self._local_ip, 0), socket.SOCK_DGRAM) as sock:
            endpoint = UdpEndpoint(sock, self._server, self._timeout)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(endpoint.listen)
                try:
                    yield endpoint
                finally:
                    nursery.cancel_scope.cancel()

    async def run(self, lifetimes: Sequence[float]) -> UdpResult | None:
        """All tests; None if the responder cannot be reached."""
        async with self._open() as first:
            answer = await first.ask()
            if answer is None or answer.mapped is None:
                return None
            local, mapped = first.local, answer.mapped
            # Alone: the other tests would take ports in between.
            allocation = await self._port_allocation()
            found = _Findings()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._filtering, found)
                if answer.other is not None:
                    nursery.start_soon(self._mapping, found, first, mapped, answer.other)
                if mapped != local:
                    nursery.start_soon(self._hairpin, found)
                for idle in lifetimes:
                    nursery.start_soon(self._lifetime, found, idle)
        alive = [idle for idle, is_alive in found.lifetimes.items() if is_alive]
        dead = [idle for idle, is_alive in found.lifetimes.items() if not is_alive]
        return UdpResult(
            local,
            mapped,
            mapped != local,
            found.mapping,
            found.filtering,
            allocation,
            found.hairpin,
            max(alive, default=None),
            min(dead, default=None),
        )

    async def _port_allocation(self) -> PortAllocation:
        pairs = []
        for _ in range(PORT_SAMPLES):
            async with self._open() as endpoint:
                mapped = await endpoint.mapped()
                if mapped is not None:
                    pairs.append((endpoint.local[1], mapped[1]))
        return port_allocation(pairs)

    async def _mapping(
        self, found: _Findings, first: UdpEndpoint, mapped: Endpoint, other: Endpoint
    ) -> None:
        seen = []
        for server in ((other[0], self._server[1]), other):
            seen.append(await first.mapped(server))
        found.mapping = mapping_behaviour(mapped, *seen)

    async def _filtering(self, found: _Findings) -> None:
        async with self._open() as endpoint:
            if await endpoint.ask() is None:
                return
            came = [False, False]

            async def ask(which: int, change_ip: bool) -> None:
                answer = await endpoint.ask(change_ip=change_ip, change_port=True)
                came[which] = answer is not None

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, 0, True)
                nursery.start_soon(ask, 1, False)
            found.filtering = filtering_behaviour(*came)

    async def _hairpin(self, found: _Findings) -> None:
        async with self._open() as one, self._open() as two:
            at_one, at_two = await one.mapped(), await two.mapped()
            if at_one is None or at_two is None:
                return
            request = StunMessage(True, os.urandom(stun.TRANSACTION_BYTES))
            found.hairpin = False
            for _ in range(TRIES):
                # Each way: the filter of the one opens by what it sends itself.
                await one.send(request, at_two)
                await two.send(request, at_one)
                with trio.move_on_after(self._timeout):
                    await one.called.wait()
                    found.hairpin = True
                    return

    async def _lifetime(self, found: _Findings, idle: float) -> None:
        """Whether a mapping lives after `idle` seconds (RFC 5780 section 4.6): another socket
        asks for an answer to it, which comes from where the mapped one has sent to."""
        async with self._open() as endpoint:
            mapped = await endpoint.mapped()
            if mapped is None:
                return
            await trio.sleep(idle)
            found.lifetimes[idle] = False
            async with self._open() as other:
                for _ in range(TRIES):
                    transaction = os.urandom(stun.TRANSACTION_BYTES)
                    request = StunMessage(True, transaction, response_port=mapped[1])
                    await other.send(request, self._server)
                    with trio.move_on_after(self._timeout):
                        await endpoint.answered_unasked.wait()
                        found.lifetimes[idle] = True
                        return
