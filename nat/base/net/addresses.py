"""What is done with addresses: what kind they are, what a wildcard stands for, which to dial first.

Source: the libp2p specification "Addressing". Addresses from users go through
:func:`parse_multiaddr`, those from peers through :func:`decode_multiaddr`.

Everything here is pure but the numbers of interfaces, for which the kernel is asked, as it is for
the interfaces of this machine where they are not given. Names are looked up in
:mod:`lattica.nat.base.net.names`.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import islice, zip_longest
from typing import TypeAlias

from lattica.nat.base.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.interfaces import Interface, local_interfaces
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr, count_components

logger = logging.getLogger(__name__)

MAX_ADDRESS_BYTES = 384
"""Longest binary address taken from a peer: a DNS name may have 253, and two peer IDs 80."""
MAX_ADDRESS_COMPONENTS = 10
"""Most parts of one; a relayed address over WebTransport has nine."""
_MAX_TEXT = 2048
"""Longest address taken from a user, characters."""
MAX_CANDIDATES = 32
"""Addresses of one peer that are dialed; a peer may claim to have any number."""

SocketName: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""Numeric host, port and, for IPv6, flow and scope, which only an address with a zone needs."""

NAME_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
"""What stands for a name in an address, and the family of its IP addresses."""
_EXAMPLE = "an address looks like /ip4/192.0.2.1/tcp/4001 or /dns4/example.org/tcp/443/wss"


class Kind(Enum):
    """How a peer is reached at an address."""

    TCP = "tcp"
    WEBSOCKET = "ws"
    SECURE_WEBSOCKET = "wss"
    QUIC = "quic"
    """Lattica's: QUIC whose peers prove who they are by Noise, `/udp/PORT/quic-v1/noise`.

    libp2p's own QUIC, `/quic-v1`, proves it by TLS certificates of both sides, and is another
    protocol; the suffix keeps either from dialing the other.
    """
    CIRCUIT = "p2p-circuit"
    OTHER = "other"


DIRECT_KINDS = (Kind.QUIC, Kind.TCP, Kind.WEBSOCKET, Kind.SECURE_WEBSOCKET)
"""What leads to a peer without another one between, the best first."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the first hop of an address is: an IP address or a name, and a port."""

    family: socket.AddressFamily
    """AF_UNSPEC for a name that may have addresses of both families."""
    host: str
    port: int
    zone: str = ""
    """The interface of a link-local IPv6 address."""

    @property
    def is_name(self) -> bool:
        return not _is_ip(self.host)

    @property
    def socket_name(self) -> SocketName:
        """As a socket takes it.

        Raises:
            OSError: there is no such interface, or a link-local address says none.
        """
        if self.zone:
            return self.host, self.port, 0, _scope_of(self.zone)
        if self.family == socket.AF_INET6 and is_link_local_ip(self.host):
            raise OSError(
                errno.EINVAL,
                f"{self.host} is in every network: say by which interface, "
                f"/ip6zone/eth0/ip6/{self.host}/…",
            )
        return self.host, self.port


# --- parsing ---


def parse_multiaddr(text: str) -> Multiaddr:
    """Parse what a person wrote.

    Raises:
        AddressError: with a hint at what an address looks like.
    """
    text = text.strip()
    try:
        if not text.startswith("/") or len(text) > _MAX_TEXT:
            raise AddressError(_EXAMPLE)
        addr = Multiaddr(text)
    except AddressError as error:
        raise AddressError(f"{text[:200]!r} is not a multiaddr: {_hint(text) or error}") from None
    if not addr.to_bytes():
        raise AddressError(f"{text[:200]!r} is not a multiaddr: {_EXAMPLE}")
    return addr


def _hint(text: str) -> str | None:
    """What somebody who wrote `host:port` probably means."""
    match = re.fullmatch(r"(?:\w+://)?\[?([\w.:-]+?)(?:%([\w.-]+))?\]?:(\d{1,5})/?", text)
    if match is None:
        match = re.match(r"/ip6/([\w:.]+)%([\w.-]+)(/.*)", text)
        return match and f"write it as /ip6zone/{match[2]}/ip6/{match[1]}{match[3]}"
    host, zone, port = match.groups()
    family = ("ip6" if ":" in host else "ip4") if _is_ip(host) else "dns"
    interface = f"/ip6zone/{zone}" if zone else ""
    return f"write it as {interface}/{family}/{host}/tcp/{port}"


def decode_multiaddr(data: bytes) -> Multiaddr:
    """Check a binary address from a peer.

    Raises:
        RemoteProtocolError: too long, of too many parts, cut short, of an unknown protocol, or
            with a value that its protocol does not allow.
    """
    if not 0 < len(data) <= MAX_ADDRESS_BYTES:
        raise RemoteProtocolError(f"address of {len(data)} bytes")
    try:
        # To write out keys and hashes takes long, so first it is seen how many there are.
        if count_components(data, MAX_ADDRESS_COMPONENTS) > MAX_ADDRESS_COMPONENTS:
            raise RemoteProtocolError(f"address of more than {MAX_ADDRESS_COMPONENTS} parts")
        return Multiaddr(data)
    except AddressError as error:
        raise RemoteProtocolError(f"invalid address: {error}") from None


def join_parts(parts: Iterable[tuple[str, str]]) -> Multiaddr:
    """The address that has these parts (protocol, value).

    Raises:
        AddressError: there is none.
    """
    return Multiaddr("".join(f"/{name}/{value}" if value else f"/{name}" for name, value in parts))


# --- the peer at an address ---


def split_peer(addr: Multiaddr) -> tuple[Multiaddr, PeerId | None]:
    """Take a final `/p2p/ID` off; of a relayed address that is the target, not the relay."""
    if not addr.components or addr.components[-1][0] != "p2p":
        return addr, None
    return addr.without_last(), PeerId.from_base58(addr.components[-1][1])


def with_peer(addr: Multiaddr, peer_id: PeerId) -> Multiaddr:
    """The address with the peer that is to be found there; replaces one named already."""
    base, _ = split_peer(addr)
    return base.encapsulate(Multiaddr(f"/p2p/{peer_id}"))


# --- what kind of address ---


def kind_of(addr: Multiaddr) -> Kind:
    """Classify an address; a final `/p2p/ID` does not matter."""
    names = [name for name, _ in addr.components]
    if "p2p-circuit" in names:
        return Kind.CIRCUIT
    if names and names[-1] == "p2p":
        del names[-1]
    if names[:2] == ["ip6zone", "ip6"]:
        del names[0]
    if not names or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        return Kind.OTHER
    if names[-1] == "http-path" and names[-2] in ("ws", "wss"):
        del names[-1]
    match names[1:]:
        case ["tcp"]:
            return Kind.TCP
        case ["tcp", "ws"] | ["tcp", "sni", "ws"]:
            return Kind.WEBSOCKET
        case ["tcp", "wss"] | ["tcp", "tls", "ws"] | ["tcp", "tls", "sni", "ws"]:
            return Kind.SECURE_WEBSOCKET
        case ["udp", "quic-v1", "noise"]:
            return Kind.QUIC
        case _:
            return Kind.OTHER


def to_endpoint(addr: Multiaddr) -> Endpoint:
    """Host and port of the first hop.

    Raises:
        AddressError: the address does not begin with a host and a TCP or UDP port.
    """
    zone, parts = _split_zone(addr)
    if len(parts) < 2 or parts[1][0] not in ("tcp", "udp"):
        raise AddressError(f"{addr} does not begin with a host and a port; {_EXAMPLE}")
    (family, host), (_, port) = parts[:2]
    if family == "ip4":
        return Endpoint(socket.AF_INET, host, int(port))
    if family == "ip6":
        return Endpoint(socket.AF_INET6, host, int(port), zone)
    if family in NAME_FAMILIES:
        return Endpoint(NAME_FAMILIES[family], host, int(port))
    raise AddressError(f"{addr} does not begin with an IP address or a name; {_EXAMPLE}")


Parts: TypeAlias = tuple[tuple[str, str], ...]
"""Of a multiaddr: (protocol, value)."""


def split_endpoint(addr: Multiaddr) -> tuple[Parts, Parts]:
    """The parts of the first hop, the last of which is its port, and those that follow.

    Raises:
        AddressError: as :func:`to_endpoint`.
    """
    to_endpoint(addr)
    zone, _ = _split_zone(addr)
    count = 3 if zone else 2
    return addr.components[:count], addr.components[count:]


def _split_zone(addr: Multiaddr) -> tuple[str, Parts]:
    """The zone of an IPv6 address, and the parts behind it."""
    parts = addr.components
    if len(parts) > 1 and parts[0][0] == "ip6zone" and parts[1][0] == "ip6":
        return parts[0][1], parts[1:]
    return "", parts


def _scope_of(zone: str) -> int:
    """The number of an interface, of which the zone is the name or the number."""
    if zone.isdecimal() and len(zone) < 10:
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise OSError(errno.ENODEV, f"this machine has no interface {zone}") from None


def zone_of(scope: int) -> str:
    """The name of an interface, or its number."""
    try:
        return socket.if_indextoname(scope)
    except OSError:  # it is gone
        return str(scope)


def socket_multiaddr(name: SocketName, rest: str) -> Multiaddr:
    """The multiaddr of a socket's name; `rest` follows the host, with `{}` for the port."""
    host, port = name[0].partition("%")[0], name[1]
    family = "ip6" if ":" in host else "ip4"
    zone = f"/ip6zone/{zone_of(name[3])}" if len(name) == 4 and name[3] else ""
    return Multiaddr(f"{zone}/{family}/{host}/{rest.format(port)}")


def ip_of(addr: Multiaddr) -> IpAddress | None:
    """The IP address of the first hop, without its zone; None where there is a name or something
    else.
    """
    _, parts = _split_zone(addr)
    (name, value), *_ = parts or [("", "")]
    return ipaddress.ip_address(value) if name in ("ip4", "ip6") else None


def is_link_local_ip(host: str) -> bool:
    """Whether it is an IP address that is another host's in each network."""
    return _is_ip(host) and ipaddress.ip_address(host).is_link_local


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def direct_ip(addr: Multiaddr) -> IpAddress | None:
    """The IP address at which a peer can be dialed directly.

    None for relayed addresses, those of other protocols, without an IP address or with port 0, and
    damaged ones.
    """
    try:
        if kind_of(addr) not in DIRECT_KINDS or not to_endpoint(addr).port:
            return None
        return ip_of(addr)
    except AddressError:
        return None


# --- our own addresses ---


def interface_addresses(
    addrs: Iterable[Multiaddr], *, interfaces: Sequence[Interface] | None = None
) -> list[Multiaddr]:
    """Put the addresses of this machine in the place of `0.0.0.0` and `::`.

    Others stay as they are; duplicates go. `interfaces` is what :func:`local_interfaces`
    says, unless given.
    """
    result: list[Multiaddr] = []
    for addr in addrs:
        ip = ip_of(addr)
        if ip is None or not ip.is_unspecified or addr.components[0][0] == "ip6zone":
            result.append(addr)
            continue
        if interfaces is None:
            interfaces = local_interfaces()
        (family, _), *rest = addr.components
        result += [
            join_parts([(family, str(interface.ip)), *rest])
            for interface in interfaces
            if interface.version == ip.version
        ]
    return list(dict.fromkeys(result))


# --- which address first ---


class _Reach(IntEnum):
    """How promising an address is, best first."""

    ON_LINK = 0
    """In a network that this machine is part of."""
    PUBLIC = 1
    PRIVATE = 2
    """In some private network, perhaps another one that uses the same numbers."""
    LOOPBACK = 3
    """This machine, which is the right one only if the peer is here too."""
    RELAYED = 4


_KIND_ORDER = (*DIRECT_KINDS, Kind.OTHER, Kind.CIRCUIT)
_BEFORE_RELAYED = 2
_FAST_PATHS = (_Reach.ON_LINK, _Reach.PRIVATE, _Reach.LOOPBACK)
"""Where little is lost, so that TCP's four times higher throughput counts for more than what
QUIC has over it: it survives loss, changes of address, and most NATs."""


def _reach(addr: Multiaddr, interfaces: Sequence[Interface]) -> _Reach:
    if kind_of(addr) is Kind.CIRCUIT:
        return _Reach.RELAYED
    ip = ip_of(addr)
    if ip is None:
        return _Reach.PUBLIC
    if ip.is_loopback or ip.is_unspecified:
        return _Reach.LOOPBACK
    if addr.components[0][0] == "ip6zone":
        return _Reach.ON_LINK
    for interface in interfaces:
        if ip == interface.ip:
            # The peer is on this machine, or its private network has our numbers by chance.
            return _Reach.PRIVATE
        if ip in interface.network:
            return _Reach.ON_LINK
    return _Reach.PUBLIC if is_public_host(ip) else _Reach.PRIVATE


def path_rank(addr: Multiaddr) -> int:
    """How good a path to a peer is, the best highest; equal for both of its ends.

    As :func:`order_addresses` has it: QUIC before TCP before WebSocket on the internet, TCP
    before QUIC in private networks, relayed last.
    """
    kind = kind_of(addr)
    if kind is Kind.CIRCUIT:
        return 0
    ip = ip_of(addr)
    far = ip is None or is_public_host(ip)
    return {Kind.QUIC: 4 if far else 2, Kind.TCP: 3}.get(kind, 1)


def relay_of(addr: Multiaddr) -> PeerId | None:
    """The relay that a relayed address leads through; None for any other."""
    relay: PeerId | None = None
    for name, value in addr.components:
        if name == "p2p-circuit":
            return relay
        if name == "p2p":
            relay = PeerId.from_base58(value)
    return None


def order_addresses(
    addrs: Iterable[Multiaddr],
    *,
    interfaces: Sequence[Interface] | None = None,
    limit: int = MAX_CANDIDATES,
) -> list[Multiaddr]:
    """Order a peer's addresses for dialing, without duplicates, and at most `limit` of them.

    Best first: addresses in a network of ours, public ones, other private ones, loopback.
    Relayed ones take turns with them from the third place on: a peer that cannot be reached
    otherwise need not wait for that to be certain. Among equals IPv6 and IPv4 take turns
    (RFC 8305, section 4), so that a broken family costs one stagger; within a family QUIC goes
    before TCP before WebSocket (on local networks TCP before QUIC), and what came first stays
    first. When there are too many, relayed addresses keep a quarter of the places. Of a peer
    that claims to have very many, only the first `8 * limit` are looked at.
    """
    unique = list(islice(dict.fromkeys(addrs), 8 * limit))
    if len(unique) <= 1:
        return unique
    if interfaces is None:
        interfaces = local_interfaces()
    groups: dict[_Reach, list[Multiaddr]] = {reach: [] for reach in _Reach}
    for addr in sorted(unique, key=lambda addr: _KIND_ORDER.index(kind_of(addr))):
        groups[_reach(addr, interfaces)].append(addr)
    for reach in _FAST_PATHS:
        groups[reach].sort(key=lambda addr: kind_of(addr) is Kind.QUIC)
    relayed = _interleave(groups.pop(_Reach.RELAYED))
    direct = [addr for group in groups.values() for addr in _interleave(group)]
    reserved = min(len(relayed), limit // 4)
    kept = direct[: limit - reserved]
    relayed = relayed[: limit - len(kept)]
    turns = zip_longest(relayed, kept[_BEFORE_RELAYED:])
    return kept[:_BEFORE_RELAYED] + [addr for turn in turns for addr in turn if addr is not None]


def _interleave(addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Let the families take turns, IPv6 first; names count as IPv6, as they may be either."""
    v4: list[Multiaddr] = []
    v6: list[Multiaddr] = []
    for addr in addrs:
        ip = ip_of(addr)
        (v4 if ip is not None and ip.version == 4 else v6).append(addr)
    return [addr for pair in zip_longest(v6, v4) for addr in pair if addr is not None]
