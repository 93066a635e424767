"""Answering STUN binding requests on the sockets that QUIC listens on (RFC 8489, RFC 5780).

A request of 20 bytes from a forged address makes an answer go to whoever has that address. So
an answer is at most three times as long as its request, and requests are answered at a limited
rate for each source network. Requests of ICE, which have a USERNAME, belong to somebody else.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from lattica.nat.base.checks import require, require_types
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.net.network_groups import NetworkRates
from lattica.nat.swarm.events import EventsLost, ListeningOn
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.udp_socket import Address
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.codec import Endpoint

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)

AMPLIFICATION: Final = 3
"""Bytes that one byte of a request is answered with at most (as RFC 9000, section 8)."""
_FIRST_FREE_PORT: Final = 1024
"""Nobody is made to receive what somebody else has asked for on a port of a service."""
_ELSEWHERE_COST: Final = 4.0
"""Answers that an answer to another port than the request's counts for."""
_UNKNOWN_NAMED: Final = 8


@dataclass(frozen=True, slots=True)
class StunResponderLimits:
    """What strangers may ask of the responder.

    A node that looks for its NAT's behaviour asks some twenty times within seconds, and then
    three times a minute.
    """

    requests_per_second_per_network: float = 20.0
    """From one IPv4 /24 or IPv6 /48, over time."""
    burst_per_network: float = 200.0
    """From one network at once."""
    requests_per_second: float = 2000.0
    """From all together; this many keep a processor busy for an eighth of the time."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "requests_per_second_per_network",
            "burst_per_network",
            "requests_per_second",
        ):
            value = getattr(self, name)
            require(1 <= value < float("inf"), name, "a number of at least 1", value)


class Answer(NamedTuple):
    """A datagram to send from one of the sockets, by its number."""

    data: bytes
    destination: Address
    socket: int


class StunResponderCore:
    """What is answered, and from which socket.

    Args:
        sockets: what the sockets are bound to; at least one. Those bound to any address count as
            one address of its own.
        clock: seconds, never decreasing.
    """

    def __init__(
        self, sockets: Sequence[Address], limits: StunResponderLimits, clock: Callable[[], float]
    ) -> None:
        self._sockets = [stun.endpoint_of(address) for address in sockets]
        self._rates = NetworkRates(
            clock,
            per_second=limits.requests_per_second_per_network,
            burst=limits.burst_per_network,
            total_per_second=limits.requests_per_second,
        )

    def receive(self, data: bytes, source: Address, socket: int) -> Answer | None:
        """The answer to a datagram that arrived at a socket; None if it gets none."""
        if not stun.is_request_for_responder(data) or not source[1]:
            return None
        if not self._rates.take(source[0]):
            return None
        try:
            request = stun.decode(data)
        except RemoteProtocolError:
            return None
        if not isinstance(request, stun.BindingRequest):
            return None
        return self._answer(request, len(data), source, socket)

    def _answer(
        self, request: stun.BindingRequest, size: int, source: Address, socket: int
    ) -> Answer | None:
        sender = self._sender(socket, ip=request.change_ip, port=request.change_port)
        unknown = request.unknown[:_UNKNOWN_NAMED]
        if sender is None:
            unknown = (stun.CHANGE_REQUEST, *unknown)
        if unknown or sender is None:
            refusal = stun.BindingError(
                request.transaction,
                stun.UNKNOWN_ATTRIBUTE,
                unknown=unknown,
                fingerprint=request.fingerprint,
            )
            data = stun.encode(refusal)
            return Answer(data, source, socket) if len(data) <= AMPLIFICATION * size else None
        destination = source
        if request.response_port is not None and request.response_port != source[1]:
            if request.response_port < _FIRST_FREE_PORT:
                return None
            if not self._rates.take(source[0], _ELSEWHERE_COST - 1):
                return None
            destination = (source[0], request.response_port)
            if len(source) == 4:
                destination = (*destination, source[2], source[3])
        other = self._sender(socket, ip=True, port=True)
        response = self._response(request, size, source, sender, other)
        return None if response is None else Answer(response, destination, sender)

    def _response(
        self,
        request: stun.BindingRequest,
        size: int,
        source: Address,
        sender: int,
        other: int | None,
    ) -> bytes | None:
        """The response, without what would make it too long for its request."""
        mapped = stun.endpoint_of(source)
        origin = self._sockets[sender] if not _is_any(self._sockets[sender]) else None
        alternate = None if other is None else self._sockets[other]
        for optional in ((origin, alternate), (None, alternate), (None, None)):
            response = stun.BindingResponse(
                request.transaction, mapped, *optional, fingerprint=request.fingerprint
            )
            data = stun.encode(response)
            if len(data) <= AMPLIFICATION * size:
                return data
        return None

    def _sender(self, asked: int, *, ip: bool, port: bool) -> int | None:
        """The socket that differs from the asked one in just this; None if there is none."""
        if not (ip or port):
            return asked
        here = self._sockets[asked]
        for number, there in enumerate(self._sockets):
            if (
                (there[0] != here[0]) is ip
                and (there[1] != here[1]) is port
                and _version(there) == _version(here)
                # Which address a socket bound to any sends from is not known.
                and not (ip and (_is_any(there) or _is_any(here)))
            ):
                return number
        return None


def _version(endpoint: Endpoint) -> int:
    return ipaddress.ip_address(endpoint[0]).version


def _is_any(endpoint: Endpoint) -> bool:
    return ipaddress.ip_address(endpoint[0]).is_unspecified


class StunResponder:
    """Answers on all listening QUIC sockets of a swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def run(self) -> None:
        """Answer until cancelled, or until the swarm ends; sockets that come later count, too."""
        with self._swarm.events.subscribe() as events:
            more = True
            while more:
                endpoints = tuple(self._swarm.udp_endpoints)
                async with trio.open_nursery() as nursery:
                    core = StunResponderCore(
                        [endpoint.local for endpoint in endpoints],
                        StunResponderLimits(),
                        trio.current_time,
                    )
                    for number in range(len(endpoints)):
                        nursery.start_soon(_serve, core, endpoints, number)
                    more = False
                    async for event in events:
                        if not isinstance(event, ListeningOn | EventsLost):
                            continue
                        if tuple(self._swarm.udp_endpoints) != endpoints:
                            more = True
                            break
                    nursery.cancel_scope.cancel()


async def _serve(core: StunResponderCore, endpoints: Sequence[QuicEndpoint], number: int) -> None:
    """Answer what arrives at one socket."""
    with endpoints[number].foreign() as arrivals:
        async for data, source in arrivals:
            answer = core.receive(data, source, number)
            if answer is not None:
                endpoints[answer.socket].send_probe(answer.data, answer.destination)
