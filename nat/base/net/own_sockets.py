"""The sockets of this process's nodes, which a forked child does not keep.

A child has every descriptor of its parent, and a port is in use, and a connection not at an end,
for as long as any process has one. In a child the parent's nodes cannot be used, so there their
sockets are closed at once. That sends nothing: the kernel ends a connection when its last
descriptor is closed, and the parent has one.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import Protocol, TypeVar


class _Socket(Protocol):
    def detach(self) -> int: ...


SocketT = TypeVar("SocketT", bound=_Socket)

_open: weakref.WeakSet[_Socket] = weakref.WeakSet()


def own(sock: SocketT) -> SocketT:
    """Have forked children close a socket, of the standard library or of trio. Returns it."""
    _open.add(sock)
    return sock


def _forget_all() -> None:
    """In the child. Trio is not told: the tasks that wait for them exist in the parent only."""
    for sock in tuple(_open):
        with suppress(OSError):
            descriptor = sock.detach()
            if descriptor >= 0:
                os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
