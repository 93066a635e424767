"""The QUIC transport: `/ip4/…/udp/PORT/quic-v1/noise` and `/ip6/…/udp/PORT/quic-v1/noise`."""

from __future__ import annotations

import socket
from functools import partial

import trio

from lattica.nat.base.errors import AddressError, ListenError, LocalProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.limits.places import source_at
from lattica.nat.base.net.addresses import Kind, kind_of, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.turns import NetworkNuisance, Nuisance, Turnstile
from lattica.nat.quic.admission import AdmissionControl, AdmissionLimits, RetryTokens
from lattica.nat.quic.endpoint import QuicEndpoint
from lattica.nat.quic.fec.socket import FecSocket
from lattica.nat.quic.first_packet import FirstPackets, NewClient
from lattica.nat.quic.handshake import QuicHandshake
from lattica.nat.quic.link import QuicLink
from lattica.nat.quic.qh3.core import (
    Certificate,
    QuicCore,
    client_core,
    server_core,
    server_datagram_size,
)
from lattica.nat.quic.session.noise import QuicNoise
from lattica.nat.quic.session.session import QuicSession
from lattica.nat.quic.stateless_reset import ResetSender
from lattica.nat.transport.base import ServedTransport
from lattica.nat.transport.tcp import why_not
from lattica.nat.transport.udp_socket import Address, UdpSocket


class QuicTransport(ServedTransport):
    """Dials and listens on QUIC. :meth:`run` serves all its sockets."""

    def __init__(
        self,
        identity: Identity,
        config: SwarmConfig,
        budget: MemoryBudget,
        turnstile: Turnstile,
        nuisance: NetworkNuisance,
        instance: bytes = b"",
    ) -> None:
        self._identity = identity
        self._instance = instance
        self._config = config
        self._budget = budget
        self._turnstile = turnstile
        self._nuisance = nuisance
        self._certificate: Certificate | None = None
        limits = AdmissionLimits(maximum=config.limits.max_pending_inbound)
        self._first_packets = FirstPackets(AdmissionControl(limits), RetryTokens(trio.current_time))
        self._endpoints: dict[QuicEndpoint, FecSocket] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive for all sockets until cancelled; then close them."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for endpoint in tuple(self._endpoints):
                endpoint.close()

    def can_dial(self, addr: Multiaddr) -> bool:
        return kind_of(addr) is Kind.QUIC

    can_listen = can_dial

    async def dial(self, addr: Multiaddr, *, source_port: int | None = None) -> QuicHandshake:
        """Begin a connection to `addr`, from the socket that listens where there is one.

        Nothing is sent before the link is pumped. `source_port` is that of TCP, and ignored.
        """
        where = to_endpoint(addr)
        if where.is_name:
            raise AddressError(f"the name {where.host} was not resolved")
        await trio.lowlevel.checkpoint()
        return self._begin(self._endpoint_for(where.family, where.host), where.socket_name)

    def dial_alone(self, sock: UdpSocket, addr: Multiaddr) -> QuicHandshake:
        """Begin a connection from a socket that serves nothing else, and ends with it."""
        where = to_endpoint(addr)
        endpoint = self._add(sock, accept=False, sole=True)
        return self._begin(endpoint, where.socket_name)

    def _begin(self, endpoint: QuicEndpoint, destination: Address) -> QuicHandshake:
        core = client_core(timeouts=self._config.timeouts)
        core.reset_token_of = endpoint.reset_token_of
        session = self._session(core, destination, initiator=True)
        session.connect(destination)
        link = self._link(endpoint, destination, session)
        endpoint.add(link)
        return QuicHandshake(link)

    def _endpoint_for(self, family: socket.AddressFamily, host: str) -> QuicEndpoint:
        """The socket to dial `host` from; one that listens is what others see of this node."""
        for listening in (True, False):
            for endpoint in self._endpoints:
                if (
                    endpoint.listens is listening
                    and not endpoint.sole
                    and endpoint.family == family
                    and _reaches(endpoint.local[0], host)
                ):
                    return endpoint
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        return self._add(UdpSocket.bind(wildcard, 0, family), accept=False)

    async def listen(self, addr: Multiaddr) -> QuicEndpoint:
        where = to_endpoint(addr)
        await trio.lowlevel.checkpoint()
        try:
            host, port, *zone = where.socket_name
            sock = UdpSocket.bind(host, port, where.family, scope=zone[-1] if zone else 0)
        except OSError as error:
            refusal = ListenError(why_not(error, addr, where.port))
            refusal.errno = error.errno
            raise refusal from None
        return self._add(sock, accept=True)

    def adopt(self, sock: socket.socket) -> QuicEndpoint:
        """Listen and dial on a UDP socket that somebody else has bound, and perhaps punched."""
        return self._add(UdpSocket.adopt(sock), accept=True)

    def _add(self, sock: UdpSocket, *, accept: bool, sole: bool = False) -> QuicEndpoint:
        if self._nursery is None:
            sock.close()
            raise LocalProtocolError("the QUIC transport is not running")
        protected = FecSocket(sock)
        resets = ResetSender(self._identity.seed, sock.local)
        endpoint = QuicEndpoint(protected, self._first_packets, resets=resets, sole=sole)
        if accept:
            endpoint.listen(partial(self._accept, endpoint))
        self._endpoints[endpoint] = protected
        self._nursery.start_soon(self._run_endpoint, endpoint)
        return endpoint

    async def _run_endpoint(self, endpoint: QuicEndpoint) -> None:
        await endpoint.run()
        del self._endpoints[endpoint]

    def _accept(self, endpoint: QuicEndpoint, client: NewClient) -> QuicLink:
        if self._certificate is None:
            self._certificate = Certificate.generate()
        core = server_core(
            self._certificate,
            original_destination_cid=client.original_cid,
            retry_source_cid=client.retry_cid,
            timeouts=self._config.timeouts,
            max_datagram_size=server_datagram_size(client.datagram_size),
        )
        core.reset_token_of = endpoint.reset_token_of
        session = self._session(core, client.address, initiator=False)
        return self._link(endpoint, client.address, session)

    def _link(self, endpoint: QuicEndpoint, peer: Address, session: QuicSession) -> QuicLink:
        link = QuicLink(endpoint, peer, session, self._turnstile)
        if self._config.quic.fec == "auto":
            link.on_address = partial(self._endpoints[endpoint].follow, session.path_state)
        return link

    def _session(self, core: QuicCore, peer: Address, *, initiator: bool) -> QuicSession:
        source = source_at(peer[0])

        def noise(certificate_hash: bytes, expected_peer: PeerId | None) -> QuicNoise:
            return QuicNoise(
                self._identity,
                initiator=initiator,
                expected_peer=expected_peer,
                certificate_hash=certificate_hash,
                private_network_key=self._config.private_network_key,
                instance=self._instance,
            )

        return QuicSession(
            core,
            noise,
            initiator=initiator,
            clock=trio.current_time,
            windows=self._config.windows,
            limits=self._config.limits,
            timeouts=self._config.timeouts,
            budget=self._budget,
            source=source,
            nuisance=Nuisance(trio.current_time, self._nuisance.of(source.network)),
        )


def _reaches(bound: str, host: str) -> bool:
    """Whether a socket bound to `bound` can send to `host`."""
    if bound in ("0.0.0.0", "::"):
        return True
    return _is_loopback(bound) == _is_loopback(host)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
