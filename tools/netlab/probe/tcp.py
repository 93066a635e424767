"""Probing what a NAT does to TCP: the tests of RFC 5780 with connections (cf. RFC 5382)."""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import ExitStack
from typing import Final

import trio

from lattica.errors import RemoteProtocolError
from tools.netlab.packets import stun
from tools.netlab.packets.stun import Endpoint, StunMessage
from tools.netlab.probe.responder import new_socket, receive_message, send_all
from tools.netlab.probe.verdicts import (
    TcpResult,
    filtering_behaviour,
    mapping_behaviour,
    port_allocation,
)
from tools.netlab.spec.nat import Behaviour, PortAllocation

PORT_SAMPLES: Final = 6


class TcpProbe:
    """The tests against one responder, whose primary endpoint is `server`.

    timeout: seconds that a connection, and an answer on it, may take.
    """

    def __init__(self, local_ip: str, server: Endpoint, timeout: float) -> None:
        self._local_ip = local_ip
        self._server = server
        self._timeout = timeout

    async def run(self) -> TcpResult | None:
        """All tests; None if the responder cannot be reached."""
        with ExitStack() as stack:
            sock = await self._connect(stack, 0, self._server)
            answer = None if sock is None else await self._ask(sock)
            if sock is None or answer is None or answer.mapped is None:
                return None
            address, port = sock.getsockname()[:2]
            local: Endpoint = (str(address), int(port))
            mapping = None
            if answer.other is not None:
                mapping = await self._mapping(stack, local, answer.mapped, answer.other)
            return TcpResult(
                local,
                answer.mapped,
                answer.mapped != local,
                mapping,
                await self._filtering(),
                await self._port_allocation(),
            )

    async def _connect(
        self, stack: ExitStack, port: int, server: Endpoint
    ) -> trio.socket.SocketType | None:
        """A connection from `port` (0 is any free one) to `server`, closed with `stack`."""
        sock = stack.enter_context(await new_socket((self._local_ip, port), socket.SOCK_STREAM))
        connected = False
        with contextlib.suppress(OSError), trio.move_on_after(self._timeout):
            await sock.connect(server)
            connected = True
        return sock if connected else None

    async def _ask(self, sock: trio.socket.SocketType) -> StunMessage | None:
        answer = None
        with contextlib.suppress(OSError, RemoteProtocolError), trio.move_on_after(self._timeout):
            await send_all(sock, stun.encode(_request()))
            answer = await receive_message(sock)
        return answer

    async def _mapping(
        self, stack: ExitStack, local: Endpoint, mapped: Endpoint, other: Endpoint
    ) -> Behaviour | None:
        seen: list[Endpoint | None] = []
        for server in ((other[0], self._server[1]), other):
            sock = await self._connect(stack, local[1], server)
            answer = None if sock is None else await self._ask(sock)
            seen.append(None if answer is None else answer.mapped)
        return mapping_behaviour(mapped, *seen)

    async def _port_allocation(self) -> PortAllocation:
        pairs = []
        for _ in range(PORT_SAMPLES):
            with ExitStack() as stack:
                sock = await self._connect(stack, 0, self._server)
                answer = None if sock is None else await self._ask(sock)
                if sock is not None and answer is not None and answer.mapped is not None:
                    pairs.append((int(sock.getsockname()[1]), answer.mapped[1]))
        return port_allocation(pairs)

    async def _filtering(self) -> Behaviour:
        """Listen at the port of a connection, and have the responder connect to it from other
        endpoints."""
        with ExitStack() as stack:
            listener = stack.enter_context(
                await new_socket((self._local_ip, 0), socket.SOCK_STREAM)
            )
            listener.listen(8)
            port = int(listener.getsockname()[1])
            sock = await self._connect(stack, port, self._server)
            origins: set[Endpoint] = set()
            if sock is not None:
                with trio.move_on_after(self._timeout):
                    for change_ip in (True, False):
                        request = _request(change_ip=change_ip, change_port=True)
                        await send_all(sock, stun.encode(request))
                    while len(origins) < 2:
                        await self._take_caller(listener, origins)
            from_other_ip = any(origin[0] != self._server[0] for origin in origins)
            return filtering_behaviour(from_other_ip, bool(origins))

    @staticmethod
    async def _take_caller(listener: trio.socket.SocketType, origins: set[Endpoint]) -> None:
        try:
            caller, _ = await listener.accept()
            with caller:
                answer = await receive_message(caller)
        except (OSError, RemoteProtocolError):
            return
        if answer is not None and answer.origin is not None:
            origins.add(answer.origin)


def _request(*, change_ip: bool = False, change_port: bool = False) -> StunMessage:
    transaction = os.urandom(stun.TRANSACTION_BYTES)
    return StunMessage(True, transaction, change_ip=change_ip, change_port=change_port)
