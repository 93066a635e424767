"""The default gateway of this machine, per family.

Linux: `net/route` and `net/ipv6_route` of this thread in /proc. macOS and the BSDs: what `route`
says. Windows is not supported: there, and where all that fails, there is none, and ports are
not mapped.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lattica.nat.base.limits.shortages import raise_shortage
from lattica.nat.base.net.ip import IpAddress

_LINUX = sys.platform == "linux"
_WINDOWS = sys.platform == "win32"
_MAX_BYTES = 1 << 20
_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200
_ROUTE_TIMEOUT = 2.0
"""Seconds that the system's command may take."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router that this machine sends through."""

    address: IpAddress
    """Of the router."""
    interface: str
    """The device's name."""
    local_ip: IpAddress
    """The address of this machine that packets which go through it have."""

    @property
    def scoped(self) -> str:
        """The address as sockets take it: link-local IPv6 with its interface."""
        if self.address.version == 6 and self.address.is_link_local:
            return f"{self.address}%{self.interface}"
        return str(self.address)


def parse_route(text: str) -> tuple[IpAddress, str] | None:
    """The IPv4 default gateway and its interface in a `/proc/net/route`: lowest metric."""
    best: tuple[int, IpAddress, str] | None = None
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            interface, destination, gateway, flags, _, _, metric, mask = fields[:8]
            if int(destination, 16) or int(mask, 16):
                continue
            if int(flags, 16) & (_RTF_UP | _RTF_GATEWAY) != _RTF_UP | _RTF_GATEWAY:
                continue
            # The kernel prints a 32-bit number that lies in memory in network order.
            raw = int(gateway, 16).to_bytes(4, sys.byteorder)
            found = int(metric), ipaddress.IPv4Address(raw), interface
        except (ValueError, OverflowError):
            continue
        if best is None or found[0] < best[0]:
            best = found
    return None if best is None else best[1:]


def parse_ipv6_route(text: str) -> tuple[IpAddress, str] | None:
    """The IPv6 default gateway and its interface in a `/proc/net/ipv6_route`."""
    best: tuple[int, IpAddress, str] | None = None
    for line in text.splitlines():
        fields = line.split()
        try:
            destination, bits, _, _, hop, metric, _, _, flags, interface = fields
            if int(destination, 16) or int(bits, 16):
                continue
            up_through = _RTF_UP | _RTF_GATEWAY
            if int(flags, 16) & (up_through | _RTF_REJECT) != up_through:
                continue
            found = int(metric, 16), ipaddress.IPv6Address(bytes.fromhex(hop)), interface
        except ValueError:
            continue
        if best is None or found[0] < best[0]:
            best = found
    return None if best is None else best[1:]


def parse_bsd_route(text: str) -> tuple[IpAddress, str] | None:
    """The gateway and its interface in what `route -n get default` prints."""
    fields = {
        key.strip(): value.strip()
        for key, separator, value in (line.partition(":") for line in text.splitlines())
        if separator
    }
    try:
        address = ipaddress.ip_address(fields["gateway"].partition("%")[0])
        return address, fields["interface"]
    except (KeyError, ValueError):
        return None


def default_gateway(family: int) -> Gateway | None:
    """The gateway of family 4 or 6, or None. Quick on Linux; may take 2 s elsewhere.

    Raises:
        OSError: nobody can look now, as when there are no file descriptors left.
    """
    found = _find(family)
    if found is None:
        return None
    address, interface = found
    local = _local_ip(address)
    return None if local is None else Gateway(address, interface, local)


def _find(family: int) -> tuple[IpAddress, str] | None:
    if _LINUX:
        name = "route" if family == 4 else "ipv6_route"
        try:
            with Path("/proc/thread-self/net", name).open() as file:
                text = file.read(_MAX_BYTES)
        except OSError as error:
            raise_shortage(error)
            return None
        return parse_route(text) if family == 4 else parse_ipv6_route(text)
    if _WINDOWS:
        return None
    which = "-inet" if family == 4 else "-inet6"
    try:
        done = subprocess.run(
            ["/sbin/route", "-n", "get", which, "default"],
            capture_output=True,
            text=True,
            timeout=_ROUTE_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise_shortage(error)
        return None
    except subprocess.SubprocessError:
        return None
    return parse_bsd_route(done.stdout[:_MAX_BYTES])


def _local_ip(address: IpAddress) -> IpAddress | None:
    """Which source address the kernel takes; nothing is sent."""
    if address.version == 4:
        family, target = socket.AF_INET, str(address)
    else:
        # Towards a link-local router it would be a link-local one, so what lies behind it
        # is asked for: an address of the range for documentation, RFC 3849.
        family, target = socket.AF_INET6, "2001:db8::1"
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((target, 9))
            found = ipaddress.ip_address(str(sock.getsockname()[0]).partition("%")[0])
    except OSError as error:
        raise_shortage(error)
        return None
    return None if found.is_unspecified or found.is_loopback else found
