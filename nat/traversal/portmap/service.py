"""Has the router open the ports that a swarm listens on, and tells the swarm where they are.

The decisions are those of :mod:`port_mapper`, one for each family; here are the sockets, the
timers and the words. Nothing is sent where there is no default gateway, by a swarm that listens
on loopback addresses only, or, in IPv4, by a machine that has a public address itself.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import logging
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

import trio

from lattica.nat.base.concurrency.watched import Watched
from lattica.nat.base.net.addresses import (
    DIRECT_KINDS,
    ip_of,
    kind_of,
    parse_multiaddr,
    split_endpoint,
)
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.own_sockets import own
from lattica.nat.swarm.events import ListeningOn, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.portmap import pcp
from lattica.nat.traversal.portmap.clients import Client, NatPmpClient, PcpClient
from lattica.nat.traversal.portmap.commands import (
    Check,
    Command,
    Mapped,
    MethodState,
    MethodStatus,
    Remove,
    Request,
    Search,
    Unmapped,
)
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.portmap.core import PortMappingCore
from lattica.nat.traversal.portmap.gateway import Gateway, default_gateway
from lattica.nat.traversal.portmap.mapping import (
    Mapping,
    Method,
    Port,
    PortMappingError,
    Reason,
    Transport,
)
from lattica.nat.traversal.portmap.upnp_client import UpnpClient

logger = logging.getLogger(__name__)

REMOVAL_TIMEOUT = 2.0
"""Seconds that the end of the service may take, however it ends."""
SOURCE = "mapped"
_NONCE_CONTEXT = b"lattica-port-mapping-nonce\0"
_TRANSPORTS = {"tcp": Transport.TCP, "udp": Transport.UDP}
_FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True)
class FamilyStatus:
    """Of port mapping in one address family, 4 or 6."""

    family: int
    idle: str | None
    """Why nothing is asked at all, or None."""
    gateway: IpAddress | None
    """The default gateway, if there is one."""
    methods: tuple[MethodStatus, ...]
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class PortMappingStatus:
    """What has become of port mapping; `families` is empty before the service has looked around."""

    enabled: bool
    families: tuple[FamilyStatus, ...] = ()

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        return tuple(mapping for family in self.families for mapping in family.mappings)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a family's clients are made for; others are made when it changes."""

    gateway: Gateway
    network: ipaddress.IPv4Network | None


async def find_surroundings(family: int) -> Surroundings | None:
    """The default gateway and its network; None without a gateway."""
    gateway = await trio.to_thread.run_sync(default_gateway, family, abandon_on_cancel=True)
    if gateway is None:
        return None
    for interface in local_interfaces():
        if interface.ip == gateway.local_ip and isinstance(interface, ipaddress.IPv4Interface):
            return Surroundings(gateway, interface.network)
    return Surroundings(gateway, None)


def ports_of(addrs: Iterable[Multiaddr], family: int, local_ip: IpAddress) -> tuple[Port, ...]:
    """What listens on an address of the family that the gateway can forward to."""
    found = []
    for addr in addrs:
        ip = ip_of(addr)
        if ip is None or ip.version != family or kind_of(addr) not in DIRECT_KINDS:
            continue
        if ip.is_unspecified or ip == local_ip:
            (*_, (transport, number)), _ = split_endpoint(addr)
            found.append(Port(_TRANSPORTS[transport], int(number)))
    return tuple(dict.fromkeys(found))


def mapped_addrs(
    addrs: Iterable[Multiaddr], family: int, local_ip: IpAddress, mappings: Iterable[Mapping]
) -> list[Multiaddr]:
    """Where what listens can be reached from outside: useful mappings only."""
    useful = {mapping.port: mapping for mapping in mappings if mapping.useless is None}
    found = []
    for addr in addrs:
        ports = ports_of([addr], family, local_ip)
        mapping = useful.get(ports[0]) if ports else None
        if mapping is None:
            continue
        (*_, (transport, _)), rest = split_endpoint(addr)
        family_name = "ip4" if mapping.external_ip.version == 4 else "ip6"
        text = f"/{family_name}/{mapping.external_ip}/{transport}/{mapping.external_port}"
        text += "".join(f"/{name}/{value}" if value else f"/{name}" for name, value in rest)
        found.append(parse_multiaddr(text))
    return list(dict.fromkeys(found))


class _Family:
    """One family's mapper and clients."""

    def __init__(self, family: int, config: PortMappingConfig, rng: random.Random) -> None:
        self.family = family
        chosen = {Method.PCP: config.pcp}
        if family == 4:
            chosen |= {Method.NAT_PMP: config.natpmp, Method.UPNP: config.upnp}
        self.disabled = tuple(method for method, wanted in chosen.items() if not wanted)
        methods = [method for method, wanted in chosen.items() if wanted]
        self.mapper = PortMappingCore(
            methods,
            lifetime_s=config.lifetime_s,
            check_s=config.check_s,
            rng=rng,
        )
        self.idle: str | None = None
        self.surroundings: Surroundings | None = None
        self.clients: dict[Method, Client] = {}

    def status(self) -> FamilyStatus:
        disabled = tuple(MethodStatus(one, MethodState.DISABLED) for one in self.disabled)
        return FamilyStatus(
            self.family,
            self.idle,
            None if self.surroundings is None else self.surroundings.gateway.address,
            self.mapper.statuses + disabled,
            self.mapper.mappings,
        )


class PortMappingService:
    """Runs port mapping for a swarm that runs.

    Args:
        find: the surroundings of a family, 4 or 6; the default asks the system.
        make_clients: the clients for a family's methods; the default makes the real ones.
    """

    def __init__(
        self,
        swarm: Swarm,
        config: PortMappingConfig | None = None,
        *,
        find: Callable[[int], Awaitable[Surroundings | None]] = find_surroundings,
        make_clients: Callable[[Surroundings], dict[Method, Client]] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._swarm = swarm
        self._config = config or PortMappingConfig()
        self._find = find
        self._rng = rng or random.Random()
        self._make_clients = make_clients or self._real_clients
        self._families = [_Family(family, self._config, self._rng) for family in _FAMILIES]
        self._changed = trio.Event()
        self._has_looked = False
        self.settled = Watched(not self._config.enabled)
        """Whether no port may be mapped soon that is not."""
        self._secret: bytes | None = None

    def status(self) -> PortMappingStatus:
        """What has happened so far, and why."""
        if not self._has_looked:
            return PortMappingStatus(self._config.enabled)
        families = tuple(family.status() for family in self._families)
        return PortMappingStatus(self._config.enabled, families)

    def network_changed(self) -> None:
        """Begin anew; the swarm's event :class:`NetworkChanged` does the same."""
        for family in self._families:
            family.surroundings = None
            family.clients = {}
            family.mapper.network_changed()
            self._emit(family)
        self._wake()

    async def run(self) -> None:
        """Map until cancelled; then remove all mappings, within two seconds.

        When it is run again after an error, nothing is left of the time before.
        """
        if not self._config.enabled:
            return
        self._families = [_Family(family, self._config, self._rng) for family in _FAMILIES]
        self._has_looked = False
        self.settled.set(False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_swarm)
                for group in ((4, "224.0.0.1"), (6, "ff02::1")):
                    nursery.start_soon(self._hear_announcements, *group)
                nursery.start_soon(self._map)
        finally:
            with trio.move_on_after(REMOVAL_TIMEOUT, shield=True):
                await self._remove_all()
            self._swarm.own_addresses.set(SOURCE, ())
            self.settled.set(True)

    # --- the swarm ---

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _follow_swarm(self) -> None:
        with self._swarm.events.subscribe() as events:
            async for event in events:
                if isinstance(event, NetworkChanged):
                    self.network_changed()
                elif isinstance(event, ListeningOn):
                    self._wake()

    def _emit(self, family: _Family) -> None:
        """Log what is new, and tell the swarm its addresses."""
        events = family.mapper.take_events()
        for one in events:
            match one:
                case Mapped(mapping):
                    _log_mapped(mapping)
                case Unmapped(mapping, why):
                    logger.info("port mapping lost: %s %s", why, _words(mapping))
        if events:
            found = [
                addr
                for each in self._families
                if each.surroundings is not None
                for addr in mapped_addrs(
                    self._swarm.listen_addrs,
                    each.family,
                    each.surroundings.gateway.local_ip,
                    each.mapper.mappings,
                )
            ]
            self._swarm.own_addresses.set(SOURCE, found)

    # --- the loop ---

    async def _map(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                for family in self._families:
                    await self._look_around(nursery, family)
                    # At once: while another family is looked at, the network may change, and then
                    # this one's clients are gone.
                    self._give_orders(nursery, family)
                self._has_looked = True
                now = trio.current_time()
                self.settled.set(
                    all(
                        family.idle is not None or family.mapper.is_settled(now)
                        for family in self._families
                    )
                )
                timers = [family.mapper.next_timer for family in self._families]
                # Once in a while also to see whether there is a gateway by now.
                due = min(
                    [now + self._config.check_s, *(timer for timer in timers if timer is not None)]
                )
                with trio.move_on_at(due):
                    await changed.wait()

    async def _look_around(self, nursery: trio.Nursery, family: _Family) -> None:
        """Take note of what listens and of the gateway, which may be another one now."""
        listening = [ip_of(addr) for addr in self._swarm.listen_addrs]
        if not any(
            ip is not None and ip.version == family.family and not ip.is_loopback
            for ip in listening
        ):
            self._set_idle(nursery, family, "the node listens on no address that others can reach")
            return
        try:
            found = await self._find(family.family)
        except OSError as error:
            # No answer is not the answer that there is no gateway: mappings stay.
            logger.debug("cannot look for the gateway of IPv%d: %s", family.family, error)
            return
        if found is None:
            self._set_idle(nursery, family, Reason.NO_GATEWAY.value)
            return
        local_ip = found.gateway.local_ip
        if family.family == 4 and is_public_host(local_ip):
            self._set_idle(nursery, family, Reason.NOT_NEEDED.value)
            return
        if family.family == 6 and not is_public_host(local_ip):
            self._set_idle(nursery, family, "this machine has no public IPv6 address")
            return
        if found != family.surroundings:
            if family.surroundings is not None:
                family.mapper.network_changed()
                self._emit(family)
            family.surroundings = found
            family.clients = self._make_clients(found)
        ports = ports_of(self._swarm.listen_addrs, family.family, local_ip)
        family.idle = None if ports else "the node listens on no address of this network"
        for removal in family.mapper.set_ports(ports):
            nursery.start_soon(self._remove, family, removal)

    def _give_orders(self, nursery: trio.Nursery, family: _Family) -> None:
        """Have done what the mapper wants now."""
        now = trio.current_time()
        for command in family.mapper.poll(now):
            client = family.clients.get(command.method)
            if client is None:  # it is asked again later
                family.mapper.failed(now, command, PortMappingError(Reason.NO_GATEWAY))
            else:
                nursery.start_soon(self._do, family, client, command)
        self._emit(family)

    def _set_idle(self, nursery: trio.Nursery, family: _Family, why: str) -> None:
        if family.idle != why:
            logger.debug("no port mapping in IPv%d: %s", family.family, why)
        family.idle = why
        for removal in family.mapper.set_ports(()):
            nursery.start_soon(self._remove, family, removal)

    async def _do(self, family: _Family, client: Client, command: Command) -> None:
        mapper = family.mapper
        removals: Sequence[Remove] = ()
        try:
            match command:
                case Search():
                    await client.search()
                    logger.debug("port mapping: %s found", command.method.value)
                    mapper.found(trio.current_time(), command)
                case Request(_, _, port, wished_port, wished_ip, lifetime_s):
                    grant = await client.request(port, wished_port, wished_ip, lifetime_s)
                    removals = mapper.granted(trio.current_time(), command, grant)
                case Check(_, _, mappings):
                    checked = await client.check(mappings)
                    mapper.checked(
                        trio.current_time(),
                        command,
                        state_lost=checked.state_lost,
                        external_ip=checked.external_ip,
                    )
                case _:
                    assert_never(command)
        except PortMappingError as error:
            logger.debug("port mapping by %s: %s", command.method.value, error)
            mapper.failed(trio.current_time(), command, error)
        for removal in removals:
            await self._remove(family, removal)
        self._wake()

    async def _remove(self, family: _Family, removal: Remove) -> None:
        client = family.clients.get(removal.method)
        if client is None:
            return
        try:
            await client.remove(removal.port, removal.external_port)
        except PortMappingError as error:
            logger.debug("port mapping not removed: %s", error)

    async def _remove_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for family in self._families:
                for removal in family.mapper.shut_down():
                    nursery.start_soon(self._remove, family, removal)

    # --- the gateway's announcements ---

    async def _hear_announcements(self, family: int, group: str) -> None:
        """What gateways tell all hosts when they have restarted or have another address.

        A hint only, since anybody could send it: the mapper then looks. Where the port is
        taken by another program that does not share it, the regular checks have to do.
        """
        try:
            sock = _announcement_socket(family, group)
        except OSError as error:
            logger.debug("not hearing a gateway's announcements: %s", error)
            return
        chosen = next(one for one in self._families if one.family == family)
        with sock:
            while True:
                try:
                    _, (host, *_) = await sock.recvfrom(pcp.MAX_SIZE)
                except OSError as error:
                    if error.errno in (errno.EBADF, errno.ENOTSOCK):
                        return
                    await trio.sleep(1)
                    continue
                surroundings = chosen.surroundings
                if surroundings is None or chosen.idle is not None:
                    continue
                if host.partition("%")[0] == str(surroundings.gateway.address):
                    chosen.mapper.state_lost(trio.current_time())
                    self._wake()
                    await trio.sleep(1)

    # --- clients ---

    def _nonce(self, port: Port) -> bytes:
        """The same after a restart for an identity that is kept, so that mappings stay ours."""
        if self._secret is None:
            self._secret = self._swarm.identity.sign(_NONCE_CONTEXT)
        key = self._secret + struct.pack("!BH", port.transport, port.number)
        return hashlib.sha256(key).digest()[: pcp.NONCE_SIZE]

    def _real_clients(self, surroundings: Surroundings) -> dict[Method, Client]:
        gateway = surroundings.gateway
        clients: dict[Method, Client] = {Method.PCP: PcpClient(gateway, self._nonce)}
        if gateway.address.version == 4:
            only_gateway = ipaddress.IPv4Network(f"{gateway.address}/32")
            network = surroundings.network or only_gateway
            clients[Method.NAT_PMP] = NatPmpClient(gateway)
            clients[Method.UPNP] = UpnpClient(gateway, network, self._rng)
        return clients


def _announcement_socket(family: int, group: str) -> trio.socket.SocketType:
    which = socket.AF_INET if family == 4 else socket.AF_INET6
    sock = own(socket.socket(which, socket.SOCK_DGRAM))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Every host is a member of these groups; on Linux, binding to one keeps all else out.
        sock.bind((group, pcp.ANNOUNCE_PORT))
        return trio.socket.from_stdlib_socket(sock)
    except BaseException:
        sock.close()
        raise


def _words(mapping: Mapping) -> str:
    host = mapping.external_ip
    outside = f"[{host}]" if host.version == 6 else str(host)
    return (
        f"method={mapping.method.value} transport={mapping.port.transport.name.lower()} "
        f"port={mapping.port.number} outside={outside}:{mapping.external_port}"
    )


def _log_mapped(mapping: Mapping) -> None:
    if mapping.useless is None:
        logger.info("port mapped %s", _words(mapping))
    else:
        logger.info("port mapped, but of no use: %s %s", mapping.useless, _words(mapping))
