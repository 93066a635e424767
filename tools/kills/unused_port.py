"""A port for a program that is to listen at the same one each time that it is started."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress


def unused_port() -> int:
    """A port of 127.0.0.1 that nobody has.

    It is below those that the kernel gives to sockets by itself, so that nobody gets it meanwhile,
    and that a connection to it does not meet itself.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
