"""A socket of multicast DNS: one for each version of IP, on the interfaces that take part.

Source: RFC 6762, sections 3 and 11.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from lattica.nat.base.net.interfaces import Interface, local_interfaces
from lattica.nat.base.net.ip import IpAddress

GROUPS = {4: "224.0.0.251", 6: "ff02::fb"}
"""By version of IP."""
_HOPS = 255
_SEND_TIMEOUT = 1.0
"""Seconds that a packet may wait for its interface."""


class MulticastSocket:
    """Sends to the group of multicast DNS, and hears who sends to it.

    Args:
        version: of IP, 4 or 6.
        interfaces: addresses of the interfaces to use, as they are now; those of IPv6 have the
            interface's name behind a `%`.

    Raises:
        OSError: it cannot be had, or no interface takes part in multicast.
    """

    def __init__(self, version: int, port: int, interfaces: Callable[[], Iterable[str]]) -> None:
        self._version = version
        self._port = port
        self._interfaces = interfaces
        self._joined: set[str | int] = set()
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        plain = socket.socket(family, socket.SOCK_DGRAM)
        try:
            plain.setblocking(False)
            _configure(plain, version)
            plain.bind(("" if version == 4 else "::", port))
            self._sock = trio.socket.from_stdlib_socket(plain)
            if not self.join():
                raise OSError(f"no interface takes part in multicast over IPv{version}")
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> MulticastSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def join(self) -> int:
        """Take part on interfaces that have come since the last time; on how many it does."""
        places = self._places()
        self._joined &= places.keys()
        for place in places.keys() - self._joined:
            # One may be down; and an address may be another one of an interface that has joined.
            with suppress(OSError):
                if isinstance(place, str):
                    member = socket.inet_aton(GROUPS[4]) + socket.inet_aton(place)
                    self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                else:
                    group = socket.inet_pton(socket.AF_INET6, GROUPS[6])
                    member = group + struct.pack("@I", place)
                    self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                self._joined.add(place)
        return len(self._joined)

    def _places(self) -> dict[str | int, None]:
        """Interfaces: of IPv4 by their addresses, of IPv6 by their numbers."""
        found: dict[str | int, None] = {}
        for text in self._interfaces():
            addr, _, name = text.partition("%")
            if (":" in addr) is not (self._version == 6):
                continue
            if self._version == 4:
                found[addr] = None
            else:
                with suppress(OSError):  # it has gone
                    found[socket.if_nametoindex(name)] = None
        return found

    async def send(self, packet: bytes) -> None:
        """Send on each interface that lets it; takes a second for each at most."""
        await trio.lowlevel.checkpoint()
        for place in tuple(self._joined):
            # An interface may be down, and a firewall may forbid it.
            with trio.move_on_after(_SEND_TIMEOUT), suppress(OSError):
                if isinstance(place, str):
                    through = socket.inet_aton(place)
                    self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through)
                    await self._sock.sendto(packet, (GROUPS[4], self._port))
                else:
                    await self._sock.sendto(packet, (GROUPS[6], self._port, 0, place))

    async def receive(self, most: int) -> tuple[bytes, IpAddress]:
        """The next packet, and who has sent it. Raises OSError."""
        data, sender = await self._sock.recvfrom(most)
        return data, ipaddress.ip_address(sender[0].partition("%")[0])


def _configure(sock: socket.socket, version: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)


def is_on_link(ip: IpAddress, interfaces: Iterable[Interface] | None = None) -> bool:
    """Whether a sender is on a network of this machine's: nobody else is to be believed.

    Args:
        interfaces: by default those that there are now.
    """
    if ip.is_loopback or ip.is_link_local:
        return True
    return any(ip in each.network for each in interfaces or local_interfaces())
