"""The IP addresses of this machine, and of how much use each is to other machines.

Source: ifaddr for the addresses; on Linux rtnetlink(7) tells what kind of interface each is on.
Nothing is sent to anybody.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, TypeAlias

import ifaddr

from lattica.nat.base.limits.shortages import explain_shortage, raise_shortage
from lattica.nat.base.net.ip import IpAddress

logger = logging.getLogger(__name__)

Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_AGE: Final = 2.0
"""Seconds for which a list is good; asking the system took a tenth of the time of a dial."""
_LOOPBACK: Final = (ipaddress.IPv4Interface("127.0.0.1/8"), ipaddress.IPv6Interface("::1/128"))

# From linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h and linux/if.h.
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_GET_LINK, _GET_ADDRESS = 18, 22
_REQUEST_DUMP: Final = 0x301
_ERROR, _DONE = 2, 3
_NAME, _MASTER, _LINK_INFO, _INFO_KIND = 3, 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_UP_AND_RUNNING: Final = 0x41
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_LARGEST: Final = 256 * 1024
_GUESTS: Final = frozenset({"veth", "tun", "macvtap", "ipvtap", "netkit"})
"""Kinds of interface by which containers and virtual machines hang on a bridge of their host."""


class Use(IntEnum):
    """How likely it is that another machine comes in by an address, the likeliest first."""

    OPEN = 0
    CONFINED = 1
    """On a bridge that has nobody on it but this machine's own containers or guests."""
    PASSING = 2
    """IPv6, temporary (RFC 8981), deprecated or not yet usable: soon it will be another one."""
    DOWN = 3
    """The interface is down or without a carrier."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An IP address of this machine."""

    name: str
    """Of its interface."""
    interface: Interface
    use: Use = Use.OPEN
    is_default: bool = False
    """Of an interface by which the rest of the world is reached."""

    @property
    def ip(self) -> IpAddress:
        return self.interface.ip


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A route to everywhere in IP version 4 or 6, over a router as the kernel writes it."""

    version: int
    via: str
    name: str
    """Of its interface."""


def read_local_addresses() -> tuple[LocalAddress, ...]:
    """What the system says now, in its order, loopback and link-local ones too.

    Raises:
        OSError: nobody can look now, as when there are no file descriptors left.
    """
    adapters = list(ifaddr.get_adapters())
    uses = _uses()
    defaults = {(route.version, route.name) for route in default_routes()}
    found = []
    for adapter in adapters:
        for each in adapter.ips:
            host = each.ip if isinstance(each.ip, str) else each.ip[0]
            interface = ipaddress.ip_interface(f"{host}/{each.network_prefix}")
            # An alias such as "eth0:1" is a name of addresses only.
            name = adapter.name.partition(":")[0]
            use = uses.get((name, interface.ip), Use.OPEN)
            is_default = (interface.version, name) in defaults
            found.append(LocalAddress(name, interface, use, is_default))
    return tuple(dict.fromkeys(found))


def default_routes() -> list[DefaultRoute]:
    """By which routers and interfaces the rest of the world is reached; only Linux tells.

    Raises:
        OSError: nobody can look now.
    """
    found = []
    if sys.platform == "linux":
        # Columns as in the kernel's net/ipv4/fib_trie.c and net/ipv6/route.c.
        for line in _lines("/proc/net/route"):
            fields = line.split()
            if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
                found.append(DefaultRoute(4, fields[2], fields[0]))
        for line in _lines("/proc/net/ipv6_route"):
            fields = line.split()
            if len(fields) > 9 and fields[1] == "00" and fields[9] != "lo":
                found.append(DefaultRoute(6, fields[4], fields[9]))
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError as error:
        raise_shortage(error)
        return []


# --- the list that is kept ---


class _Kept:
    """The last list, and whether the last look failed."""

    def __init__(self) -> None:
        self.addresses: tuple[LocalAddress, ...] = ()
        self.read_at: float | None = None
        self.is_blind = False


_kept = _Kept()


def local_addresses() -> tuple[LocalAddress, ...]:
    """The addresses of this machine, those that are of most use to others first, loopback last.

    Link-local IPv6 addresses are left out: they mean nothing without a zone, and a zone means
    nothing on another machine. The list may be two seconds old. While the system does not let
    anybody look (there are no file descriptors left), it is the last that was seen.
    """
    now = time.monotonic()
    if _kept.read_at is None or now - _kept.read_at > _AGE:
        try:
            found = read_local_addresses()
        except OSError as error:
            _note_blind(error)
            if not _kept.addresses:
                return tuple(LocalAddress("lo", interface) for interface in _LOOPBACK)
        else:
            _kept.is_blind = False
            told = [a for a in found if not (a.ip.version == 6 and a.ip.is_link_local)]
            _kept.addresses = tuple(sorted(told, key=_rank))
        _kept.read_at = now
    return _kept.addresses


def local_interfaces() -> tuple[Interface, ...]:
    """The IP addresses of this machine with their networks, as :func:`local_addresses`."""
    return tuple(dict.fromkeys(address.interface for address in local_addresses()))


def forget_interfaces() -> None:
    """Ask the system again: something has changed."""
    _kept.read_at = None


def _rank(address: LocalAddress) -> tuple[bool, Use, bool]:
    return address.ip.is_loopback, address.use, not address.is_default


def _note_blind(error: OSError) -> None:
    if _kept.is_blind:
        return
    _kept.is_blind = True
    instead = "the last known ones are used" if _kept.addresses else "loopback only is used"
    logger.warning("cannot list network interfaces, %s: %s", instead, explain_shortage(error))


# --- what Linux knows besides ---


def _uses() -> dict[tuple[str, IpAddress], Use]:
    """Of addresses that are not simply :attr:`Use.OPEN`. Raises OSError for want of a socket."""
    if sys.platform != "linux":
        return {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(1.0)
            links = list(_dump(sock, _GET_LINK, _LINK.pack(0, 0, 0, 0, 0)))
            addresses = list(_dump(sock, _GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)))
    except OSError as error:  # some sandboxes
        raise_shortage(error)
        logger.debug("the kernel does not tell of interfaces: %s", error)
        return {}
    return _uses_from(links, addresses)


def _uses_from(links: list[bytes], addresses: list[bytes]) -> dict[tuple[str, IpAddress], Use]:
    names: dict[int, str] = {}
    of_link: dict[int, Use] = {}
    kinds: dict[int, str] = {}
    ports: dict[int, set[int]] = {}
    for body in links:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        attributes = dict(_attributes(body[_LINK.size :]))
        names[index] = attributes.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
        info = dict(_attributes(attributes.get(_LINK_INFO, b"")))
        kinds[index] = info.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
        if flags & _UP_AND_RUNNING != _UP_AND_RUNNING:
            of_link[index] = Use.DOWN
        if len(master := attributes.get(_MASTER, b"")) == 4:
            ports.setdefault(int.from_bytes(master, sys.byteorder), set()).add(index)
    for index, kind in kinds.items():
        if kind == "bridge" and all(kinds[port] in _GUESTS for port in ports.get(index, ())):
            of_link.setdefault(index, Use.CONFINED)
    found: dict[tuple[str, IpAddress], Use] = {}
    for body in addresses:
        family, _, short_flags, _, index = _ADDRESS.unpack_from(body)
        attributes = dict(_attributes(body[_ADDRESS.size :]))
        packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
        if len(packed) not in (4, 16) or index not in names:
            continue
        flags = int.from_bytes(attributes.get(_IFA_FLAGS, bytes([short_flags])), sys.byteorder)
        passing = _TEMPORARY | _DAD_FAILED | _DEPRECATED | _TENTATIVE
        use = of_link.get(index, Use.OPEN)
        if family == socket.AF_INET6 and flags & passing:
            use = max(use, Use.PASSING)
        if use is not Use.OPEN:
            found[names[index], ipaddress.ip_address(packed)] = use
    return found


def _dump(sock: socket.socket, request: int, body: bytes) -> Iterator[bytes]:
    """The bodies of what the kernel answers to a request for everything."""
    sock.send(_HEADER.pack(_HEADER.size + len(body), request, _REQUEST_DUMP, request, 0) + body)
    while True:
        data = sock.recv(_LARGEST)
        if not data:
            return
        while len(data) >= _HEADER.size:
            size, kind, _, _, _ = _HEADER.unpack_from(data)
            if kind in (_DONE, _ERROR) or not _HEADER.size <= size <= len(data):
                return
            yield data[_HEADER.size : size]
            data = data[_aligned(size) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= size <= len(data):
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : size]
        data = data[_aligned(size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3
