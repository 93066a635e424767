"""TUN devices in given network namespaces, with segmentation offload.

With offload a device hands out and takes trains: TCP (and UDP_SEGMENT) packets of up to 64 KiB
that the kernel would cut up for the wire. Each packet then has a `virtio_net_hdr` in front; see
`trains.py`. A device vanishes with its file descriptor, so nothing is left of a process that dies.

Sources: Linux Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
# Checksum; TCP over IPv4, over IPv6, with ECN.
OFFLOAD_TCP: Final = 0x01 | 0x02 | 0x04 | 0x08
OFFLOAD_UDP: Final = 0x20 | 0x40  # UDP_SEGMENT over IPv4 and IPv6; Linux 6.2

NETLINK_ROUTE: Final = 0
RTM_NEWLINK: Final = 16
NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
IFLA_MTU: Final = 4
IFLA_TXQLEN: Final = 13
IFF_UP: Final = 1

CLONE_NEWNET: Final = 0x40000000
# Packets that may wait for the reader: 5,000 full ones are 100 ms at 560 Mbit/s.
QUEUE_PACKETS: Final = 5000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


@contextlib.contextmanager
def inside_netns(path: str | None) -> Iterator[None]:
    """Be in the network namespace at `path` (as /proc/PID/ns/net); None is the present one.

    For this thread only, and only for what is opened meanwhile: sockets and devices stay in the
    namespace they were made in. Raises OSError if it does not exist or we may not enter.
    """
    if path is None:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as home, open(path, "rb") as target:
        _checked(_libc.setns(target.fileno(), CLONE_NEWNET), path)
        try:
            yield
        finally:
            _checked(_libc.setns(home.fileno(), CLONE_NEWNET), "the namespace we came from")


def open_tun(name: str, netns: str | None = None, mtu: int = 1500) -> int:
    """Make the TUN device `name` in a namespace and bring it up; its nonblocking descriptor.

    Addresses and routes are the caller's matter. Closing the descriptor removes the device.
    Raises OSError: no /dev/net/tun, no permission, the name is taken or longer than 15 bytes.
    """
    if not 0 < len(name.encode()) < 16:
        raise OSError(f"{name!r} is no device name: 1 to 15 bytes")
    with inside_netns(netns):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOAD_TCP | OFFLOAD_UDP)
            except OSError:
                fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOAD_TCP)  # an older kernel
            _configure(name, mtu)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _configure(name: str, mtu: int) -> None:
    """Set the MTU and the length of the queue, and bring the device up.

    By netlink, since the ioctl for the queue's length is refused in user namespaces. Source:
    rtnetlink(7): a header, `ifinfomsg` and attributes; the answer is a header and an errno.
    """
    attributes = struct.pack("=HHIHHI", 8, IFLA_MTU, mtu, 8, IFLA_TXQLEN, QUEUE_PACKETS)
    index = socket.if_nametoindex(name)
    link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP) + attributes
    flags = NLM_F_REQUEST | NLM_F_ACK
    message = struct.pack("=IHHII", 16 + len(link), RTM_NEWLINK, flags, 1, 0) + link
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as netlink:
        netlink.send(message)
        (result,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if result:
        raise OSError(-result, os.strerror(-result), name)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerFd:
    """A timer that an epoll can wait for, precise to microseconds (epoll's own is to 1 ms).

    Python has timerfd from 3.13 on only.
    """

    _MONOTONIC: Final = 1
    _NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
    _ABSOLUTE: Final = 1

    def __init__(self) -> None:
        self.fd = _checked(
            _libc.timerfd_create(self._MONOTONIC, self._NONBLOCK_CLOEXEC), "timerfd_create"
        )
        self._spec = _Itimerspec()
        self._value = self._spec.value
        self._pointer = ctypes.byref(self._spec)

    def set(self, when: float) -> None:
        """Fire once at `when` on the clock of `time.monotonic`."""
        # A value of zero would disarm it.
        nanoseconds = max(1, int(when * 1e9))
        self._value.seconds, self._value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        _libc.timerfd_settime(self.fd, self._ABSOLUTE, self._pointer, None)

    def clear(self) -> None:
        """Take note that it has fired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)
