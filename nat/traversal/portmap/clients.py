"""PCP and NAT-PMP over UDP, and what a client of any method looks like.

A client makes one attempt at what it is asked, with repetitions, and raises
:class:`PortMappingError`; when to try again is decided by the port mapper. All may be cancelled
at any time: the router may then have done what it was asked, or not.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.portmap import natpmp, pcp
from lattica.nat.traversal.portmap.exchange import Epoch, Retransmission
from lattica.nat.traversal.portmap.gateway import Gateway
from lattica.nat.traversal.portmap.mapping import (
    Grant,
    Mapping,
    Port,
    PortMappingError,
    Reason,
    name_of,
)

T = TypeVar("T")

_MAX_IGNORED = 64
"""Datagrams that are no answer, after which waiting for one ends."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a gateway has shown."""

    state_lost: bool
    """Whether the router has restarted."""
    external_ip: IpAddress | None = None
    """None if the method cannot tell."""


class Client(Protocol):
    """One method at one gateway; may be used by several tasks."""

    async def search(self) -> None:
        """Whether the method works here; changes nothing."""

    async def request(
        self, port: Port, wished_port: int, wished_ip: IpAddress | None, lifetime_s: int
    ) -> Grant:
        """Make or renew a mapping."""

    async def check(self, mappings: Sequence[Mapping]) -> Checked:
        """Whether the router still has its state."""

    async def remove(self, port: Port, external_port: int) -> None:
        """End a mapping."""


async def exchange(
    gateway: Gateway, port: int, request: bytes, accept: Callable[[bytes], T | None]
) -> T:
    """Send a request until an answer comes for which `accept` does not return None.

    The socket is connected, so that the kernel takes datagrams of the gateway only, and tells
    when nothing listens there. Raises :class:`PortMappingError`.
    """
    family = socket.AF_INET if gateway.address.version == 4 else socket.AF_INET6
    problem: RemoteProtocolError | None = None
    ignored = 0
    retransmission = Retransmission(trio.current_time())
    try:
        with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
            await sock.bind((str(gateway.local_ip), 0))
            await sock.connect((gateway.scoped, port))
            while True:
                if retransmission.take_due(trio.current_time()):
                    await sock.send(request)
                with trio.move_on_at(retransmission.next_timer):
                    while ignored < _MAX_IGNORED:
                        data = await sock.recv(2048)
                        try:
                            answer = accept(data)
                        except RemoteProtocolError as error:
                            problem, answer = error, None
                        if answer is not None:
                            return answer
                        ignored += 1
                    break
                if retransmission.is_over:
                    break
    except ConnectionRefusedError:
        raise PortMappingError(Reason.PORT_CLOSED, f"UDP port {port}") from None
    except OSError as error:  # also for want of a socket
        words = errno.errorcode.get(error.errno or 0, "") or str(error)
        raise PortMappingError(Reason.UNREACHABLE, words) from None
    if problem is not None:
        raise PortMappingError(Reason.MALFORMED, str(problem))
    raise PortMappingError(Reason.NO_ANSWER)


class PcpClient:
    """PCP.

    Args:
        nonce: the secret of a port's mapping: always the same, also after a restart, so that
            the mapping is ours still.
    """

    def __init__(self, gateway: Gateway, nonce: Callable[[Port], bytes]) -> None:
        self._gateway = gateway
        self._nonce = nonce
        self._epoch = Epoch()
        self._state_lost = False

    async def search(self) -> None:
        await self._announce()

    async def request(
        self, port: Port, wished_port: int, wished_ip: IpAddress | None, lifetime_s: int
    ) -> Grant:
        answer = await self._map(port, wished_port, wished_ip, lifetime_s)
        if not answer.lifetime:
            raise PortMappingError(Reason.MALFORMED, "a mapping with lifetime 0")
        return Grant(answer.external_ip, answer.external_port, answer.lifetime)

    async def check(self, mappings: Sequence[Mapping]) -> Checked:
        await self._announce()
        lost, self._state_lost = self._state_lost, False
        return Checked(lost)

    async def remove(self, port: Port, external_port: int) -> None:
        await self._map(port, 0, None, 0)

    async def _announce(self) -> None:
        def accept(data: bytes) -> pcp.Announcement | None:
            answer = pcp.decode(data)
            return answer if isinstance(answer, pcp.Announcement) else None

        request = pcp.encode_announce(self._gateway.local_ip)
        answer = await exchange(self._gateway, pcp.PORT, request, accept)
        self._take(answer)

    async def _map(
        self, port: Port, external_port: int, external_ip: IpAddress | None, lifetime: int
    ) -> pcp.MapAnswer:
        nonce = self._nonce(port)

        def accept(data: bytes) -> pcp.MapAnswer | pcp.Announcement | None:
            answer = pcp.decode(data)
            if isinstance(answer, pcp.Announcement):
                return answer if answer.result == pcp.Result.UNSUPP_VERSION else None
            asked = (nonce, port.transport, port.number)
            answered = (answer.nonce, answer.protocol, answer.internal_port)
            return answer if answered == asked else None

        request = pcp.encode_map(
            self._gateway.local_ip,
            nonce,
            port.transport,
            port.number,
            lifetime=lifetime,
            external_port=external_port,
            external_ip=external_ip,
        )
        answer: pcp.MapAnswer | pcp.Announcement = await exchange(
            self._gateway, pcp.PORT, request, accept
        )
        self._take(answer)
        if isinstance(answer, pcp.Announcement):  # of another version: `_take` has raised
            raise PortMappingError(Reason.UNSUPPORTED_VERSION)
        return answer

    def _take(self, answer: pcp.Announcement | pcp.MapAnswer) -> None:
        if answer.result == pcp.Result.UNSUPP_VERSION:
            raise PortMappingError(Reason.UNSUPPORTED_VERSION)
        self._state_lost |= self._epoch.update(trio.current_time(), answer.epoch)
        if answer.result != pcp.Result.SUCCESS:
            raise PortMappingError(
                pcp.reason_of(answer.result),
                name_of(pcp.Result, answer.result),
                retry_after_s=answer.lifetime,
            )


class NatPmpClient:
    """NAT-PMP."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._epoch = Epoch()
        self._state_lost = False
        self._external_ip: IpAddress | None = None

    async def search(self) -> None:
        await self._address()

    async def request(
        self, port: Port, wished_port: int, wished_ip: IpAddress | None, lifetime_s: int
    ) -> Grant:
        answer = await self._map(port, wished_port, lifetime_s)
        if not answer.lifetime:
            raise PortMappingError(Reason.MALFORMED, "a mapping with lifetime 0")
        external_ip = self._external_ip or await self._address()
        return Grant(external_ip, answer.external_port, answer.lifetime)

    async def check(self, mappings: Sequence[Mapping]) -> Checked:
        external_ip = await self._address()
        lost, self._state_lost = self._state_lost, False
        return Checked(lost, external_ip)

    async def remove(self, port: Port, external_port: int) -> None:
        await self._map(port, 0, 0)

    async def _address(self) -> IpAddress:
        def accept(data: bytes) -> natpmp.AddressAnswer | None:
            answer = natpmp.decode(data)
            return answer if isinstance(answer, natpmp.AddressAnswer) else None

        request = natpmp.encode_address_request()
        answer = await exchange(self._gateway, natpmp.PORT, request, accept)
        self._take(answer)
        if answer.external_ip is None:
            raise PortMappingError(Reason.MALFORMED, "no external address")
        self._external_ip = answer.external_ip
        return answer.external_ip

    async def _map(self, port: Port, external_port: int, lifetime: int) -> natpmp.MapAnswer:
        def accept(data: bytes) -> natpmp.MapAnswer | natpmp.AddressAnswer | None:
            answer = natpmp.decode(data)
            if isinstance(answer, natpmp.AddressAnswer):
                is_other = answer.result == natpmp.Result.UNSUPPORTED_VERSION
                return answer if is_other else None
            # A refusal need not say which port it is about.
            same = answer.transport is port.transport and answer.internal_port == port.number
            return answer if same or answer.result else None

        request = natpmp.encode_map(
            port.transport, port.number, external_port=external_port, lifetime=lifetime
        )
        answer: natpmp.MapAnswer | natpmp.AddressAnswer = await exchange(
            self._gateway, natpmp.PORT, request, accept
        )
        self._take(answer)
        if isinstance(answer, natpmp.AddressAnswer):
            raise PortMappingError(Reason.UNSUPPORTED_VERSION)
        return answer

    def _take(self, answer: natpmp.AddressAnswer | natpmp.MapAnswer) -> None:
        if answer.result == natpmp.Result.UNSUPPORTED_VERSION:
            raise PortMappingError(Reason.UNSUPPORTED_VERSION)
        self._state_lost |= self._epoch.update(trio.current_time(), answer.epoch)
        if answer.result != natpmp.Result.SUCCESS:
            raise PortMappingError(
                natpmp.reason_of(answer.result), name_of(natpmp.Result, answer.result)
            )
