"""One UDP socket as QUIC needs it: many datagrams a system call, and no fragmentation.

On Linux a send passes a run of equal datagrams in one call, which the kernel or the network
card segments (UDP_SEGMENT, "GSO"); a receive gets such a run back whole (UDP_GRO). Per
byte that is about a fifteenth of the work of a call for each datagram. Where the
kernel or the route has neither, the same interface sends and receives one at a time.

Errors of the network come late, by ICMP, and about one destination of many. None of them
ends the socket: see :meth:`UdpSocket.take_unreachable`. Manual pages: udp(7), ip(7), ipv6(7);
Documentation/networking/segmentation-offloads.rst of the kernel.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

import trio

from lattica.nat.base.net.addresses import SocketName
from lattica.nat.base.net.own_sockets import own

Address = SocketName

_LINUX = sys.platform == "linux"

# Of the kernel's headers: Python has no names for these before 3.14.
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IP_RECVERR, _IP_PMTUDISC_PROBE = 10, 11, 3
_IPV6_MTU_DISCOVER, _IPV6_RECVERR, _IPV6_PMTUDISC_PROBE = 23, 25, 3
_ERROR_LEVELS = {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}
_EXTENDED_ERROR = struct.Struct("=IB")  # the start of struct sock_extended_err: errno, origin
_ORIGIN_ICMP = {2, 3}  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; 1 is this machine itself
_DONT_FRAGMENT = {"darwin": (28, 62), "win32": (14, 14)}  # IP_DONTFRAG, IPV6_DONTFRAG

# 64 segments are the bound of Linux before 6.9. The length field of the IP header bounds the
# bytes, headers included.
_SEGMENTS = 64
_RUN_BYTES = 65_000
_LARGEST = 65_536
_CONTROL_ROOM = 64
_ERROR_ROOM = 512
# A batch of receive(): then others have their turn.
_BATCH_CALLS = 64
_BATCH_BYTES = 1 << 20
_LEAST_COUNTED = 1024
"""Bytes that a datagram counts for at least in a batch: small ones are work, too, and the kernel
gives 64 of them in one call."""
_ERRORS_AT_ONCE = 64
_UNREACHABLE_KEPT = 256
# At 1 GB/s a receiver that is away for 5 ms finds its datagrams still there. What is sent is
# paced by QUIC and needs less.
WANTED_RECEIVE_BUFFER = 8 << 20
_SEND_BUFFER = 4 << 20

_FULL = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM}
# What a route without checksum offload or with IPsec, or a network card's driver, answers to
# UDP_SEGMENT. No ICMP message is translated into these.
_NO_SEGMENTATION = {errno.EIO, errno.EINVAL}
# The kernel tells nobody when a queue below the socket has room again.
_QUEUE_PAUSE = 0.001


class Received(NamedTuple):
    """One or more datagrams of one source, in the order of their arrival.

    `data` is not empty. Each datagram has `segment_size` bytes, only the last may have fewer.
    The source has flow and scope only where there is a zone.
    """

    data: bytes
    segment_size: int
    source: Address


class Unreachable(NamedTuple):
    """The network or the kernel refused a datagram to `destination`."""

    destination: Address
    errno: int


class UdpSocket:
    """A bound UDP socket. Not thread-safe; one task receives, any may send.

    IPv6 destinations may be given without flow and scope. Hosts must be numeric: looking up
    a name would stop all tasks of the thread for that time.

    After :meth:`close` every method but :meth:`close` and :meth:`aclose` raises
    :class:`trio.ClosedResourceError`.
    """

    __slots__ = (
        "_gro",
        "_queue_full",
        "_sock",
        "_unreachable",
        "family",
        "local",
        "lost",
        "max_datagrams_per_send",
        "oversized",
        "receive_buffer",
        "send_buffer",
    )

    def __init__(self, sock: socket.socket, *, offload: bool) -> None:
        """Use :meth:`bind` or :meth:`adopt`."""
        _keep_freed_memory()
        sock.setblocking(False)
        self._sock = own(sock)
        self.family = socket.AddressFamily(sock.family)
        self.local: Address = _shortest(sock.getsockname())
        """The bound host and port."""
        self.lost = 0
        """Datagrams that the kernel refused to send, for whatever reason but their size."""
        self.oversized = 0
        """Datagrams that were dropped for being larger than the path or the protocol allows."""
        self.receive_buffer = _enlarge_receiving(sock)
        """What the kernel granted, in bytes of its own memory: a datagram counts for more."""
        self.send_buffer = _enlarge(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, _SEND_BUFFER)
        self._unreachable: dict[Address, int] = {}
        self._queue_full = False
        _forbid_fragments(sock)
        if _LINUX:
            _set(sock, socket.IPPROTO_IP, _IP_RECVERR, 1)
            if self.family == socket.AF_INET6:
                _set(sock, socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._gro = _LINUX and offload and _set(sock, _SOL_UDP, _UDP_GRO, 1)
        # Size 0 is "no segmentation unless a call says so", and tells whether it exists.
        gso = _LINUX and offload and _set(sock, _SOL_UDP, _UDP_SEGMENT, 0)
        self.max_datagrams_per_send = _SEGMENTS if gso else 1
        """How many equal datagrams one system call sends. Falls to 1 when a route refuses."""

    @classmethod
    def bind(
        cls,
        host: str,
        port: int,
        family: socket.AddressFamily,
        *,
        scope: int = 0,
        offload: bool = True,
    ) -> UdpSocket:
        """Bind a new socket; an IPv6 one is for IPv6 only, and a link-local one has a scope.

        Without `offload` each datagram has a system call of its own.

        Raises:
            OSError: the system refuses; as it says it.
        """
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port, 0, scope) if scope else (host, port))
            return cls(sock, offload=offload)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def adopt(cls, sock: socket.socket, *, offload: bool = True) -> UdpSocket:
        """Take over a socket that is bound, and may have talked already."""
        return cls(sock, offload=offload)

    async def receive(self) -> list[Received]:
        """Wait for datagrams, and return those that are there, in order.

        One call returns at most about 1 MB, in about 1,000 datagrams, and at most 64 times what
        one system call gives, so that a flood leaves time to others. The list is empty when there
        is only news for :meth:`take_unreachable`. Empty datagrams are not delivered. If cancelled,
        nothing is lost.
        """
        while True:
            await trio.lowlevel.wait_readable(self._open())
            batch = self._drain()
            if batch or self._unreachable:
                return batch

    def send(self, datagrams: Sequence[bytes], destination: Address) -> int:
        """Send datagrams without waiting. Returns how many were dealt with, in order.

        If fewer than given, the socket's buffer or the queue below it is full: call again
        with the rest after :meth:`wait_writable`. Like datagrams that the network loses, those
        that cannot be sent at all count as sent: too large ones (which is how the largest
        that the path takes is found) and ones that the kernel refuses to send there, now
        or because of an earlier ICMP message (counted in :attr:`lost`; see
        :meth:`take_unreachable`).

        Fastest for long runs of datagrams of equal size, the last of which may be shorter.
        """
        sock = self._open()
        taken, total = 0, len(datagrams)
        while taken < total:
            end = _end_of_run(datagrams, taken, self.max_datagrams_per_send)
            if end == taken + 1:
                if not self._send_one(sock, datagrams[taken], destination):
                    return taken
                taken = end
                continue
            run = datagrams[taken:end]
            number = self._transmit(sock, run, len(run[0]), destination)
            if number in _FULL:
                return taken
            if number in _NO_SEGMENTATION or number == errno.EMSGSIZE:
                # Is it segmentation, the size or the destination? One at a time tells.
                lost = self.lost + self.oversized
                if not self._send_one(sock, run[0], destination):
                    return taken
                if number != errno.EMSGSIZE and lost == self.lost + self.oversized:
                    self.max_datagrams_per_send = 1
                for index in range(1, len(run)):
                    if not self._send_one(sock, run[index], destination):
                        return taken + index
            elif number:
                self._refused(destination, number, len(run))
            taken = end
        return taken

    def take_unreachable(self) -> list[Unreachable]:
        """Return, and forget, which destinations were refused since the last call.

        Ask after :meth:`receive` and after :meth:`send`, and only to end a dial early: anyone
        on the path, and many off it, can forge the ICMP messages this comes from. So it says
        nothing about a connection whose peer has proved its identity. Each destination is
        there once, with its latest error; at most 256 are kept, the latest ones.
        """
        if not self._unreachable:
            return []
        news = [Unreachable(*item) for item in self._unreachable.items()]
        self._unreachable.clear()
        return news

    async def wait_writable(self) -> None:
        """Wait until :meth:`send` may take more."""
        if self._queue_full:
            self._queue_full = False
            await trio.sleep(_QUEUE_PAUSE)
        await trio.lowlevel.wait_writable(self._open())
        # Errors that are not read make the socket look writable.
        self._read_errors()

    def close(self) -> None:
        """Close at once, and wake those who wait. Idempotent."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        """Do as :meth:`close`, with a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _open(self) -> socket.socket:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("this UDP socket was closed")
        return self._sock

    def _drain(self) -> list[Received]:
        batch: list[Received] = []
        room = _BATCH_BYTES
        for call in range(_BATCH_CALLS):
            try:
                received = self._receive_one()
            except BlockingIOError:
                if call == 0:  # nothing to receive, but woken: there are errors
                    self._read_errors()
                break
            except OSError:  # what was sent earlier did not arrive
                self._read_errors()
                continue
            if received.data:
                batch.append(received)
                count = -(-len(received.data) // received.segment_size)
                room -= max(len(received.data), count * _LEAST_COUNTED)
                if room <= 0:
                    break
        return batch

    def _receive_one(self) -> Received:
        # The kernel writes into the bytes object itself, which then shrinks in place: a tenth
        # or two less work than a shared buffer and a copy, for large runs and for small
        # datagrams alike.
        if not self._gro:
            data, source = self._sock.recvfrom(_LARGEST)
            return Received(data, len(data), _shortest(source))
        data, control, _, source = self._sock.recvmsg(_LARGEST, _CONTROL_ROOM)
        source = _shortest(source)
        for level, kind, value in control:
            if kind == _UDP_GRO and level == _SOL_UDP:
                return Received(data, int.from_bytes(value, sys.byteorder), source)
        return Received(data, len(data), source)

    def _send_one(self, sock: socket.socket, datagram: bytes, destination: Address) -> bool:
        number = self._transmit(sock, (datagram,), 0, destination)
        if number in _FULL:
            return False
        if number == errno.EMSGSIZE:
            self.oversized += 1
        elif number:
            self._refused(destination, number, 1)
        return True

    def _transmit(
        self, sock: socket.socket, run: Sequence[bytes], segment: int, destination: Address
    ) -> int:
        """Make the call; return 0 or the error's number."""
        number = 0
        # The first error may be about a datagram that went elsewhere earlier. It has then
        # prevented this one, and reading it makes way.
        for _ in range(2):
            try:
                if segment:
                    control = [(_SOL_UDP, _UDP_SEGMENT, segment.to_bytes(2, sys.byteorder))]
                    sock.sendmsg(run, control, 0, destination)
                else:
                    sock.sendto(run[0], destination)
                return 0
            except socket.gaierror:  # not an address of this family: the caller's mistake
                raise
            except OSError as error:
                number = error.errno or errno.EIO
                if number in _FULL:
                    self._queue_full = number not in (errno.EAGAIN, errno.EWOULDBLOCK)
                    return number
                self._read_errors()
        return number

    def _read_errors(self) -> None:
        """Note what the socket's error queue holds. It would fill the receive buffer."""
        if sys.platform != "linux":  # spelled out for type checkers on other systems
            return
        for _ in range(_ERRORS_AT_ONCE):
            try:
                _, control, _, destination = self._sock.recvmsg(0, _ERROR_ROOM, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, value in control:
                if (level, kind) in _ERROR_LEVELS and len(value) >= _EXTENDED_ERROR.size:
                    number, origin = _EXTENDED_ERROR.unpack_from(value)
                    # Too large for a link of the path says nothing against the destination.
                    if origin in _ORIGIN_ICMP and number != errno.EMSGSIZE and destination:
                        self._note(destination, number)

    def _refused(self, destination: Address, number: int, datagrams: int) -> None:
        self.lost += datagrams
        self._note(destination, number)

    def _note(self, destination: Address, number: int) -> None:
        destination = _shortest(destination)
        self._unreachable.pop(destination, None)
        self._unreachable[destination] = number
        if len(self._unreachable) > _UNREACHABLE_KEPT:
            del self._unreachable[next(iter(self._unreachable))]


@functools.cache
def _keep_freed_memory() -> None:
    """Make the C library keep the memory of a batch for the next one.

    The GNU C library returns what is free at the end of its heap to the kernel when that
    exceeds 128 kB, and takes it back page by page: eight times the work of receiving the
    data. Freeing one larger block raises that limit for good, to twice the block's size
    (mallopt(3), on M_MMAP_THRESHOLD).
    """
    bytes(2 * _BATCH_BYTES)


def _shortest(address: Address) -> Address:
    """One spelling for each address."""
    return address[:2] if len(address) == 4 and not address[3] else address


def _end_of_run(datagrams: Sequence[bytes], start: int, limit: int) -> int:
    """Return the end of the datagrams from `start` that one call can send."""
    size = len(datagrams[start])
    room = min(limit, _RUN_BYTES // size) if size else 1
    stop = min(start + room, len(datagrams))
    end = start + 1
    while end < stop:
        following = len(datagrams[end])
        if following != size:
            return end + 1 if 0 < following < size else end
        end += 1
    return end


def _set(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that may not exist here; return whether it does."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def granted_receive_buffer() -> int:
    """What the kernel grants a socket of this process's that asks for `WANTED_RECEIVE_BUFFER`; 0:
    there is none to ask with."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return _enlarge_receiving(sock)
    except OSError:
        return 0


def _enlarge_receiving(sock: socket.socket) -> int:
    return _enlarge(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, WANTED_RECEIVE_BUFFER)


def _enlarge(sock: socket.socket, option: int, forced: int, size: int) -> int:
    """Ask for a buffer of `size` bytes, and return what the kernel grants."""
    present = sock.getsockopt(socket.SOL_SOCKET, option)
    # Linux: the first is for CAP_NET_ADMIN; the second gives what is allowed. Elsewhere it is
    # an error to ask for more than that.
    if size > present and not (_LINUX and _set(sock, socket.SOL_SOCKET, forced, size)):
        while size > present and not _set(sock, socket.SOL_SOCKET, option, size):
            size //= 2
    return sock.getsockopt(socket.SOL_SOCKET, option)


def _forbid_fragments(sock: socket.socket) -> None:
    """Send datagrams whole or not at all, whatever the kernel believes about the path.

    QUIC finds the largest size itself (RFC 9000, section 14), and ICMP can be forged.
    """
    if _LINUX:
        _set(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        if sock.family == socket.AF_INET6:
            _set(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE)
    elif sys.platform in _DONT_FRAGMENT:
        ipv4, ipv6 = _DONT_FRAGMENT[sys.platform]
        if sock.family == socket.AF_INET6:
            _set(sock, socket.IPPROTO_IPV6, ipv6, 1)
        else:
            _set(sock, socket.IPPROTO_IP, ipv4, 1)
