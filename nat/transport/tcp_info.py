"""What the kernel knows of a TCP connection: whether the machine at the other end is still there.

It acknowledges what arrives whatever its programs do, so a process that does not run can be told
from a machine that is gone. Linux's `struct tcp_info` (linux/tcp.h; tcp(7), TCP_INFO).

TCP_USER_TIMEOUT would not do: it also ends connections whose other end acknowledges every probe and
has no room for data, which is just what a busy process looks like in the middle of a transfer.
"""

from __future__ import annotations

import socket
import struct
import sys

_TCP_INFO = struct.Struct("=8B13I")
"""Its beginning, up to tcpi_last_ack_recv."""
_PROBES, _UNACKED, _LAST_ACK_RECEIVED = 3, 12, 20
"""Indices: unanswered probes of a closed window, segments that were not acknowledged, and when the
last acknowledgement came, milliseconds ago."""
_PROBES_UNANSWERED = 2
"""One may be on its way."""


def unanswered(sock: socket.socket) -> float | None:
    """Seconds for which what was sent is not acknowledged; 0: all is. None: nobody can tell.

    More than the truth where nothing had been sent before for a while.
    """
    if sys.platform != "linux":
        return None
    try:
        info = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except (OSError, struct.error):  # closed, or no kernel that has all of it
        return None
    if not info[_UNACKED] and info[_PROBES] < _PROBES_UNANSWERED:
        return 0.0
    return float(info[_LAST_ACK_RECEIVED]) / 1000
