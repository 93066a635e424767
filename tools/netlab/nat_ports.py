"""Which external port a new mapping gets (RFC 4787 section 4.2). Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

from tools.netlab.nat_spec import NatSpec

# How often chance may hit a port in use before a linear search takes over.
RANDOM_TRIES = 16


class PortAllocator:
    """The ports of one external address and protocol (for ICMP: the echo identifiers)."""

    __slots__ = ("_next", "_ranged", "_rng", "_spec", "_used")

    def __init__(self, spec: NatSpec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._next = spec.port_low
        # Port -> number of mappings that have it (more than one only with `overload`).
        self._used: dict[int, int] = {}
        self._ranged = 0  # how many of them are in the range of the spec

    def allocate(self, wanted: int, is_free: Callable[[int], bool]) -> int | None:
        """A port for an inside endpoint with port `wanted`; None when all are taken.

        `is_free` says whether a port may be used for the mapping at hand. The caller then owns
        the port until :meth:`release`.
        """
        port = self._choose(wanted, is_free)
        if port is not None:
            self.take(port)
        return port

    def take(self, port: int) -> None:
        """Make a port the caller's that was chosen by hand; it may lie outside of the range."""
        users = self._used.get(port, 0)
        self._used[port] = users + 1
        self._ranged += not users and self._spec.port_low <= port <= self._spec.port_high

    def release(self, port: int) -> None:
        """Give back a port of :meth:`allocate` or :meth:`take`."""
        left = self._used[port] - 1
        if left:
            self._used[port] = left
        else:
            del self._used[port]
            self._ranged -= self._spec.port_low <= port <= self._spec.port_high

    def is_unused(self, port: int) -> bool:
        """Whether no mapping has `port`."""
        return port not in self._used

    def _choose(self, wanted: int, is_free: Callable[[int], bool]) -> int | None:
        spec = self._spec
        size = spec.port_high - spec.port_low + 1
        if spec.port == "preserving":
            return wanted if is_free(wanted) else self._search(wanted + 1, 1, is_free)
        if not spec.overload and self._ranged >= size:
            return None  # without a search: that would let a flood cost us a scan per packet
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
        """The first free port from `start` on; a step that misses it falls back to one by one."""
        size = self._spec.port_high - self._spec.port_low + 1
        for stride in (step, 1) if step > 1 else (1,):
            port = self._wrap(start)
            for _ in range(size):
                if is_free(port):
                    return port
                port = self._wrap(port + stride)
        return None

    def _wrap(self, port: int) -> int:
        low, high = self._spec.port_low, self._spec.port_high
        return port if low <= port <= high else low + (port - low) % (high - low + 1)
