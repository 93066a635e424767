"""Which external port a new mapping gets (RFC 4787 section 4.2). Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

from tools.netlab.spec.nat import NatSpec

# How often chance may hit a port in use before a search takes over.
RANDOM_TRIES = 16
# Ports that are tried one after the other, where only the caller knows which are free, or with a
# step. (Linux, too, gives up after so many.)
MOST_TRIES = 128


class PortAllocator:
    """The ports of one external address and protocol (for ICMP: the echo identifiers).

    Choosing takes some microseconds at most, also when nearly all ports are in use: else a flood
    would cost a scan for each packet.
    """

    __slots__ = ("_next", "_rng", "_spec", "_taken", "_used")

    def __init__(self, spec: NatSpec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._next = spec.port_low
        # Port -> number of mappings that have it (more than one only with `overload`).
        self._used: dict[int, int] = {}
        # The same for the range of the spec, as a map that can be searched at once.
        self._taken = bytearray(spec.port_high - spec.port_low + 1)

    def allocate(self, wanted: int, is_free: Callable[[int], bool]) -> int | None:
        """A port for an inside endpoint with port `wanted`; None when all are taken.

        `is_free` says whether a port may be used for the mapping at hand; one that nobody has is
        free. The caller then owns the port until :meth:`release`.
        """
        port = self._choose(wanted, is_free)
        if port is not None:
            self._used[port] = self._used.get(port, 0) + 1
            if self._in_range(port):
                self._taken[port - self._spec.port_low] = 1
        return port

    def release(self, port: int) -> None:
        """Give back a port of :meth:`allocate`."""
        left = self._used[port] - 1
        if left:
            self._used[port] = left
            return
        del self._used[port]
        if self._in_range(port):
            self._taken[port - self._spec.port_low] = 0

    def is_unused(self, port: int) -> bool:
        """Whether no mapping has `port`."""
        return port not in self._used

    def _choose(self, wanted: int, is_free: Callable[[int], bool]) -> int | None:
        spec = self._spec
        if spec.port == "preserving":
            return wanted if is_free(wanted) else self._search(wanted + 1, 1, is_free)
        if spec.port == "sequential":
            port = self._search(self._next, spec.port_step, is_free)
            if port is not None:
                self._next = self._wrap(port + spec.port_step)
            return port
        for _ in range(RANDOM_TRIES):
            port = self._rng.randrange(spec.port_low, spec.port_high + 1)
            if is_free(port):
                return port
        return self._search(self._rng.randrange(spec.port_low, spec.port_high + 1), 1, is_free)

    def _search(self, start: int, step: int, is_free: Callable[[int], bool]) -> int | None:
        """A free port from `start` on, `step` by `step`; else the next that nobody has."""
        if step > 1 or self._spec.overload:
            port = self._wrap(start)
            for _ in range(min(len(self._taken), MOST_TRIES)):
                if is_free(port):
                    return port
                port = self._wrap(port + step)
        low = self._spec.port_low
        first = self._wrap(start) - low
        at = self._taken.find(0, first)
        if at < 0:
            at = self._taken.find(0, 0, first)
        return None if at < 0 else low + at

    def _in_range(self, port: int) -> bool:
        return self._spec.port_low <= port <= self._spec.port_high

    def _wrap(self, port: int) -> int:
        low, high = self._spec.port_low, self._spec.port_high
        return port if low <= port <= high else low + (port - low) % (high - low + 1)
