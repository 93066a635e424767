"""A forked child has no sockets of its parent's nodes."""

from __future__ import annotations

import errno
import os
import socket

import trio

from lattica.nat.base.net.own_sockets import own


def _child_has(*descriptors: int) -> list[bool]:
    """Which descriptors are open in a child that is forked now."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        for descriptor in descriptors:
            try:
                os.fstat(descriptor)
                os.write(writer, b"+")
            except OSError as error:
                os.write(writer, b"-" if error.errno == errno.EBADF else b"?")
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as said:
        return [each == ord("+") for each in said.read()]


def test_a_child_closes_its_descriptors_and_the_parent_keeps_its() -> None:
    near, far = socket.socketpair()
    other, plain = socket.socketpair()
    wrapped = own(trio.socket.from_stdlib_socket(plain))
    closed = own(socket.socket(socket.AF_UNIX))
    closed.close()
    with near, far, other, wrapped:
        own(near)
        assert _child_has(near.fileno(), wrapped.fileno(), other.fileno()) == [False, False, True]
        near.send(b"here")
        assert far.recv(4) == b"here"
        far.setblocking(False)
        near.close()
        assert far.recv(4) == b""
