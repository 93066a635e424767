"""What the kernel knows of a TCP connection: whether the machine at the other end is still there.

And whether what is sent arrives at it.

It acknowledges what arrives whatever its programs do, so a process that does not run can be told
from a machine that is gone. Linux's `struct tcp_info` (linux/tcp.h; tcp(7), TCP_INFO).

TCP_USER_TIMEOUT would not do: it also ends connections whose other end acknowledges every probe and
has no room for data, which is just what a busy process looks like in the middle of a transfer.
"""

from __future__ import annotations

import socket
import struct
import sys

from lattica.nat.mux.delivery import Delivery

_TCP_INFO = struct.Struct("=8B24I3Q")
"""Its beginning, up to tcpi_bytes_acked, which Linux has had since 4.2."""
_RETRANSMITS, _BYTES_ACKED = 2, 34
"""Indices: timeouts in a row without an acknowledgement, and bytes that were acknowledged, ever."""
_FIRST_DOUBT = 2
"""Timeouts in a row before anything is thought of it."""
_PROBES, _UNACKED, _LAST_ACK_RECEIVED = 3, 12, 20
"""Indices: unanswered probes of a closed window, segments that were not acknowledged, and when the
last acknowledgement came, milliseconds ago."""
_PROBES_UNANSWERED = 2
"""One may be on its way."""


def unanswered(sock: socket.socket) -> float | None:
    """Seconds for which what was sent is not acknowledged; 0: all is. None: nobody can tell.

    More than the truth where nothing had been sent before for a while.
    """
    info = _read(sock)
    if info is None:
        return None
    if not info[_UNACKED] and info[_PROBES] < _PROBES_UNANSWERED:
        return 0.0
    return float(info[_LAST_ACK_RECEIVED]) / 1000


def delivery(sock: socket.socket) -> Delivery | None:
    """Whether what was sent arrives; None: nobody can tell.

    What waits for a receiver without room (its kernel answers, its program does not read) is not
    under way.
    """
    info = _read(sock)
    if info is None:
        return None
    lost = info[_RETRANSMITS] >= _FIRST_DOUBT and info[_UNACKED] and not info[_PROBES]
    return Delivery(bool(lost), info[_BYTES_ACKED])


def _read(sock: socket.socket) -> tuple[int, ...] | None:
    if sys.platform != "linux":
        return None
    try:
        return _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except (OSError, struct.error):  # closed, or no kernel that has all of it
        return None
