"""What the system says about this machine's network: addresses, default routes, clocks.

Nothing is sent to anybody. On Linux the kernel also tells when something changes (rtnetlink(7)),
which spares most of the looking.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final

import trio

from lattica.nat.base.limits.shortages import raise_shortage
from lattica.nat.base.net.interfaces import (
    LocalAddress,
    Use,
    default_routes,
    local_interfaces,
    read_local_addresses,
)
from lattica.nat.base.net.own_sockets import own

logger = logging.getLogger(__name__)

_LINUX: Final = sys.platform == "linux"
# From linux/rtnetlink.h.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, IPv4 and IPv6 addresses and routes
# A route is looked up for these, which are for documentation: nothing is sent there.
_ELSEWHERE: Final = ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8::1"))
_MAX_ROUTES: Final = 64
_LARGEST_NEWS: Final = 65536
_MOST_NEWS: Final = 1000
_GATHERING: Final = 0.1
"""Seconds in which news are gathered before anybody looks."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What matters of a machine's network."""

    addresses: frozenset[str] = frozenset()
    """`INTERFACE ADDRESS/PREFIX` of those that are up, without loopback and link-local ones."""
    routes: frozenset[str] = frozenset()
    """What is known of the default routes, as text."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The same moment on two clocks, in seconds: one that stands still while the machine sleeps,
    and one that does not."""

    awake: float
    all_along: float


def read_network() -> NetworkState:
    """The state now. What the system does not tell is left out.

    Raises:
        OSError: nobody can look now, as when there are no file descriptors left.
    """
    return NetworkState(frozenset(_addresses()), frozenset(_routes()))


def local_hosts() -> frozenset[str]:
    """The addresses of this machine, loopback and link-local ones too, without zones."""
    found = {"127.0.0.1", "::1"}
    try:
        found.update(str(address.ip) for address in read_local_addresses())
    except OSError as error:
        logger.debug("cannot list network interfaces: %s", error)
        found.update(str(interface.ip) for interface in local_interfaces())
    return frozenset(found)


def read_clocks() -> Clocks:
    """Linux has a clock that counts sleep; elsewhere it is the one on the wall."""
    if sys.platform != "linux":  # spelled out for type checkers on other systems
        return Clocks(time.monotonic(), time.time())
    return Clocks(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))


def _interface_addresses() -> tuple[LocalAddress, ...]:
    try:
        return read_local_addresses()
    except OSError as error:
        raise_shortage(error)
        logger.debug("cannot list network interfaces: %s", error)
        return ()


def _addresses() -> list[str]:
    """An interface that is down keeps its IPv4 addresses, which do not count then."""
    return [
        f"{address.name} {address.interface}"
        for address in _interface_addresses()
        if address.use is not Use.DOWN and not (address.ip.is_loopback or address.ip.is_link_local)
    ]


def _routes() -> list[str]:
    """From which address the world is written to, and on Linux by way of whom."""
    found = []
    for family, host in _ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((host, 9))
                found.append(f"from {sock.getsockname()[0]}")
        except OSError as error:
            raise_shortage(error)
            continue  # there is no route, or no such family
    found += [f"via {route.via} {route.name}" for route in default_routes()]
    return found[:_MAX_ROUTES]


class ChangeNotices:
    """Tells that addresses, links or routes may have changed. Only on Linux it ever does.

    Use as a context manager.
    """

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        if sys.platform != "linux":
            return
        try:
            self._sock = own(
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            )
            self._sock.setblocking(False)
            self._sock.bind((0, _GROUPS))
        except OSError as error:  # some sandboxes
            logger.debug("the kernel does not tell of network changes: %s", error)
            self.close()

    @property
    def works(self) -> bool:
        return self._sock is not None

    async def wait(self) -> None:
        """Wait for news; what it is does not matter, since the state is read anew.

        Returns at most ten times a second, whatever happens on this machine.
        """
        if self._sock is None:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._sock)
        await trio.sleep(_GATHERING)
        for _ in range(_MOST_NEWS):
            try:
                self._sock.recv(_LARGEST_NEWS)
            except BlockingIOError:
                return
            except OSError:  # more news than fitted: they are news, too
                continue

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> ChangeNotices:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
