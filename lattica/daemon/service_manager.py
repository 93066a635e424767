"""What a daemon tells whoever has started it and watches it: systemd, as sd_notify(3) has it.

Datagrams go to the socket that `NOTIFY_SOCKET` names. Where nothing is named, nobody is told.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Never

import trio

logger = logging.getLogger(__name__)

_BEAT: Final = 30.0
"""Seconds between two reports where no watchdog asks for more."""
_NO_ROOM: Final = (errno.EAGAIN, errno.ENOBUFS)
"""It has not read what it was told before, and will be told again by the next report."""


class ServiceManager:
    """Nobody waits for it: a message for which it has no room is left out, and :meth:`run` repeats
    how the daemon is.

    Args:
        address: of the socket; empty: nobody is told.
        watchdog: seconds without a report after which it ends the daemon; 0: it does not.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = address
        self._watchdog = watchdog
        self._state = ""
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that has started this process. The variables are taken out: programs that this
        one starts are not the service."""
        named = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "0")
        watched = environment.pop("WATCHDOG_PID", str(os.getpid()))
        address = "\0" + named[1:] if named.startswith("@") else named
        is_here = watched == str(os.getpid()) and period.isdecimal()
        return cls(address, int(period) / 1e6 if address and is_here else 0.0)

    async def run(self, status: Callable[[], str]) -> Never:
        """Say that the daemon is ready, and from then on how it is, from the event loop: where that
        stands still, so do the reports, and the watchdog ends the process. Its last words are then
        what each thread does, on standard error.

        Args:
            status: a line for `systemctl status`.
        """
        if self._watchdog:
            faulthandler.enable(all_threads=True)  # SIGABRT is how the watchdog ends it
        self._state = "READY=1"
        while True:
            line = " ".join(status().split())
            self._send(self._state, f"STATUS={line}", "WATCHDOG=1")
            await trio.sleep(self._watchdog / 2 or _BEAT)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """A block in which the configuration is read again."""
        before, self._state = self._state, "RELOADING=1"
        self._send(self._state, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._state == "RELOADING=1":  # and not about to stop by now
                self._state = before
                self._send(before)

    def stopping(self, seconds: float = 0.0) -> None:
        """Say that the daemon is about to end, and may take so long, whatever the unit says."""
        self._state = "STOPPING=1"
        more = (f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}",) if seconds else ()
        self._send(self._state, *more)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if error.errno not in _NO_ROOM and not self._failed:
                self._failed = True
                logger.warning("the service manager cannot be told how this is: %s", error)
