"""Closing what others have handed over, or may have put into a socket.

Whoever sends to a Unix socket may put descriptors beside the bytes, whether they are wanted or not
(SCM_RIGHTS), and who closes the last descriptor of something may have to wait: for a TCP socket as
long as its maker has said (SO_LINGER) while its other end takes nothing, for a file of a file
system that is a program (FUSE) as long as that program likes. The kernel closes them when a message
is taken without them, and when a socket is closed in which they lie. So here a message is looked at
before it is taken, and everything else is closed in a thread of its own.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Final

import trio

from lattica.nat.base.errors import RemoteProtocolError

_MOST: Final = 16
"""Descriptors that may be waited for at a time before no more is shared."""


class Closer:
    """Closes descriptors without waiting for that. For the trio thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits = 0

    @property
    def is_full(self) -> bool:
        """So many are being closed that something must hold them up: take no others."""
        return self._waits >= _MOST

    def close(self, descriptor: int) -> None:
        """Close a descriptor in a thread, which nobody waits for, not even at the program's end."""
        self._count(1)
        threading.Thread(target=self._close, args=(descriptor,), daemon=True).start()

    def close_socket(self, sock: trio.socket.SocketType) -> None:
        """The same for a socket. Idempotent."""
        if sock.fileno() >= 0:
            trio.lowlevel.notify_closing(sock)
            self.close(sock.detach())

    def _close(self, descriptor: int) -> None:
        with suppress(OSError):
            os.close(descriptor)
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._waits += more


async def take_message(sock: trio.socket.SocketType, most_bytes: int) -> bytes:
    """The next message; empty at the end.

    Raises:
        RemoteProtocolError: there are descriptors with it. It stays where it is.
    """
    _, _, flags, _ = await sock.recvmsg(most_bytes, 0, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        raise RemoteProtocolError("RPC: descriptors where none belong, beside shared memory")
    return os.read(sock.fileno(), most_bytes)  # it is there: no more than this is waited for
