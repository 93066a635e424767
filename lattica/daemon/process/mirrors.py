"""The node's side of streams: for each connection that the program has to do with, a second one."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from lattica.daemon.process.mirror import Mirror, Shown, pass_on
from lattica.daemon.process.values import HandedSocket, Values
from lattica.nat.base.errors import LatticaError, ResourceLimitError
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.session import RESOURCE_LIMIT
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import Turnstile
from lattica.node import Node

_LOOK: Final = 1.0
"""Seconds between looks at what has become of the connections."""


class Mirrors:
    """The second connections, by the first. They end with these."""

    def __init__(
        self,
        node: Node,
        nursery: trio.Nursery,
        post: Callable[[bytes, list[int]], None],
        values: Values,
    ) -> None:
        self._node = node
        self._nursery = nursery
        self._post = post
        self._values = values
        self._numbers = itertools.count(1)
        self._of: dict[Connection, Mirror] = {}
        self._told: dict[Mirror, tuple[bool, float | None]] = {}
        limits = node.config.swarm.limits
        self._budget = MemoryBudget(limits.receive_memory_total)
        self._turnstile = Turnstile()

    def of(self, connection: Connection) -> Mirror:
        """That of a connection; the program is told of it before anything else."""
        found = self._of.get(connection)
        if found is not None:
            return found
        ours, theirs = socket.socketpair()
        shown = Shown.of(connection)
        mirror = Mirror(
            ours,
            next(self._numbers),
            shown,
            self._node.config.swarm,
            is_program=False,
            budget=self._budget,
            turnstile=self._turnstile,
            on_stream=partial(self._accepted, connection),
        )
        self._of[connection] = mirror
        self._say("mirror", mirror.number, shown, HandedSocket(theirs))
        theirs.close()
        self._nursery.start_soon(self._run, connection, mirror)
        return mirror

    async def _run(self, connection: Connection, mirror: Mirror) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirror.run)
                await connection.closed.wait()
                reason = connection.closed_reason or ""
                self._say("gone", mirror.number, reason)
                mirror.abort(reason)
        finally:
            self._of.pop(connection, None)
            self._told.pop(mirror, None)

    def _say(self, *message: object) -> None:
        self._post(*self._values.encode(message))

    async def watch(self) -> None:
        """Tell what becomes of the connections."""
        while True:
            await trio.sleep(_LOOK)
            self.look()

    def look(self) -> None:
        """Tell what has become of them since the last look."""
        for connection, mirror in self._of.items():
            mirror.tick()
            news = connection.retired_at is not None, connection.rtt
            if self._told.get(mirror, (False, mirror.shown.rtt)) != news:
                self._told[mirror] = news
                self._say("connection", mirror.number, *news)

    # --- the program's streams to peers ---

    def _accepted(self, connection: Connection, inner: Stream) -> None:
        self._nursery.start_soon(self._carry, connection, inner)

    async def _carry(self, connection: Connection, inner: Stream) -> None:
        try:
            outer = connection.open_stream()
        except LatticaError as error:
            is_full = isinstance(error, ResourceLimitError)
            inner.reset(str(error), RESOURCE_LIMIT if is_full else 0)
            return
        await pass_on(inner, outer)

    # --- peers' streams to the program ---

    def serve(self, protocol: str, owner: str, replace: bool) -> None:
        """Have streams of a protocol passed on to the program."""
        self._node.handle(protocol, self._serve, owner=("program", owner), replace=replace)

    def unserve(self, protocol: str, owner: str) -> None:
        """No more."""
        self._node.unhandle(protocol, owner=("program", owner))

    async def _serve(self, outer: Stream) -> None:
        mirror = self.of(outer.connection)
        inner = await mirror.open(outer.protocol, optimistic=True)
        await pass_on(inner, outer)
