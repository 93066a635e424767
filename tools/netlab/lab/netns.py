"""Devices, addresses and routes in a network namespace, by netlink (pyroute2).

All calls but :func:`wait_for_ipv6` are short and synchronous. A namespace is entered by the calling
thread, and only while a socket is opened or a file in /proc is written or read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from tools.netlab.errors import LabError, MissingToolError
from tools.netlab.lab.processes import Namespace

CLONE_NEWNET = 0x4000_0000
NTF_PROXY = 8
IFA_F_NODAD = 2
RTF_LOCAL = 0x8000_0000
IPV6_START_TIMEOUT = 120.0
"""Seconds that a kernel which is busy may take to make devices ready for IPv6."""
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Be in the namespace, with this thread alone. Nothing may be awaited inside."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace.fd)
        try:
            yield
        finally:
            _setns(here)
    finally:
        os.close(here)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"cannot enter a network namespace: {os.strerror(number)}")


def require_pyroute2() -> None:
    """Raises :class:`MissingToolError` where pyroute2 is not installed."""
    try:
        import pyroute2  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        raise MissingToolError(
            "the network lab needs pyroute2: .venv/bin/python -m pip install -e '.[dev]'"
        ) from None


def groups_can_be_set() -> bool:
    """Whether a process here may change its groups: not in a user namespace made without root."""
    return Path("/proc/self/setgroups").read_text().strip() != "deny"


def without_ipv6() -> set[str]:
    """Devices of this thread's namespace that hear nothing over IPv6 yet.

    The kernel tells a new device at its leisure, up to a second later, that it is connected, and
    gives it an address of its own then. And what comes for an address is lost until there is a
    route to it, which the kernel makes when it gets round to it, even if it need not make sure
    that nobody else has the address.
    """
    net = Path("/proc/thread-self/net")
    # Of an address: itself, index, length of the prefix, scope, flags, device.
    addresses = [line.split() for line in (net / "if_inet6").read_text().splitlines()]
    # Of a route: to where and how long that is, six more, flags, device.
    routes = [line.split() for line in (net / "ipv6_route").read_text().splitlines()]
    local = {route[0] for route in routes if int(route[8], 16) & RTF_LOCAL}
    ready = {address[5] for address in addresses if address[0].startswith("fe80")}
    unreachable = {address[5] for address in addresses if address[0] not in local}
    return ({name for _, name in socket.if_nameindex()} - ready | unreachable) - {"lo"}


async def wait_for_ipv6(looks: Iterable[Callable[[], set[str]]]) -> None:
    """Wait until each of these looks, as :func:`without_ipv6`, finds no device.

    Raises:
        LabError: that takes longer than :data:`IPV6_START_TIMEOUT`.
    """
    end = trio.current_time() + IPV6_START_TIMEOUT
    for look in looks:
        # There is nothing to wait for: the kernel does not tell.
        while deaf := look():
            if trio.current_time() > end:
                names = ", ".join(sorted(deaf))
                raise LabError(f"no IPv6 on {names} after {IPV6_START_TIMEOUT:g} s")
            await trio.sleep(0.02)


class Net:
    """The configuration of one namespace. Use as a context manager.

    Methods raise :class:`LabError`, which names the device or address.
    """

    def __init__(self, namespace: Namespace) -> None:
        from pyroute2 import IPRoute

        self._namespace = namespace
        with inside(namespace):
            # No groups: nobody here reads broadcasts, which would pile up.
            self._route: Any = IPRoute(groups=0)
        self._indexes: dict[str, int] = {"lo": 1}

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._route.close()

    def sysctl(self, path: str, value: str) -> None:
        """Write a setting below /proc/sys, e.g. `net/ipv4/ip_forward`."""
        with inside(self._namespace):
            try:
                Path("/proc/sys", path).write_text(value)
            except OSError as error:
                raise LabError(f"cannot set {path} to {value}: {error.strerror}") from None

    def veth(self, device: str, peer: Namespace, peer_device: str) -> None:
        """A pair of connected devices, one here and one in `peer`."""
        end = {"ifname": peer_device, "net_ns_fd": peer.fd}
        self._do("link", "add", device, ifname=device, kind="veth", peer=end)

    def bridge(self, device: str) -> None:
        """A bridge without ports, which passes multicast to all of them."""
        self._do("link", "add", device, ifname=device, kind="bridge", br_mcast_snooping=0)

    def enslave(self, device: str, bridge: str) -> None:
        """Make the device a port of a bridge."""
        index, master = self._index(device), self._index(bridge)
        self._do("link", "set", device, index=index, master=master)

    def up(self, device: str) -> None:
        self._do("link", "set", device, index=self._index(device), state="up")

    def add_address(self, device: str, address: str) -> None:
        """`address` with its prefix length; it may be there already."""
        ip, _, length = address.partition("/")
        # IPv6 would make sure for a second that nobody else has it.
        flags = {"flags": IFA_F_NODAD} if ":" in ip else {}
        index = self._index(device)
        self._do(
            "addr", "replace", address, index=index, address=ip, prefixlen=int(length), **flags
        )

    def remove_address(self, device: str, address: str) -> None:
        ip, _, length = address.partition("/")
        index = self._index(device)
        self._do("addr", "del", address, index=index, address=ip, prefixlen=int(length))

    def add_route(self, to: str, via: str | None, device: str) -> None:
        """A route to the network `to`, through the gateway `via` or directly."""
        gateway = {} if via is None else {"gateway": via}
        what = f"route to {to}"
        self._do("route", "replace", what, dst=to, oif=self._index(device), **gateway)

    def remove_route(self, to: str, via: str | None, device: str) -> None:
        gateway = {} if via is None else {"gateway": via}
        self._do("route", "del", f"to {to}", dst=to, oif=self._index(device), **gateway)

    def blackhole(self, to: str) -> None:
        """Packets to the network `to` vanish without a word; other routes come first."""
        self._do("route", "add", to, dst=to, type="blackhole", priority=1 << 20)

    def proxy_neighbour(self, device: str, address: str) -> None:
        """Answer IPv6 neighbour solicitations for an address."""
        index = self._index(device)
        self._do("neigh", "add", address, dst=address, ifindex=index, flags=NTF_PROXY)

    def without_ipv6(self) -> set[str]:
        """Devices that hear nothing over IPv6 yet."""
        with inside(self._namespace):
            return without_ipv6()

    def _index(self, device: str) -> int:
        if device not in self._indexes:
            found = self._route.link_lookup(ifname=device)
            if not found:
                raise LabError(f"there is no device {device}")
            self._indexes[device] = found[0]
        return self._indexes[device]

    def _do(self, what: str, command: str, about: str, **arguments: Any) -> None:
        from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

        try:
            getattr(self._route, what)(command, **arguments)
        except NetlinkError as error:
            reason = os.strerror(error.code)
            raise LabError(f"cannot {command} {what} {about}: {reason}") from None


def forget_connections(namespace: Namespace) -> None:
    """Empty the kernel's connection tracking table of a namespace: all its NAT mappings.

    Raises :class:`LabError`.
    """
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import (  # type: ignore[import-untyped]
        NFCTSocket,
    )

    # All of it inside: pyroute2 opens this kind of socket when it is first used.
    with inside(namespace):
        tracking = NFCTSocket()
        try:
            tracking.flush()
        except NetlinkError as error:
            reason = os.strerror(error.code)
            raise LabError(f"cannot forget connections: {reason}") from None
        finally:
            tracking.close()


def enter_for_good(path: str) -> None:
    """Move this process to the namespace at `path`, before it becomes another program.

    Raises OSError or :class:`LabError`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
    finally:
        os.close(fd)
