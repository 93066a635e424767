"""Two real :class:`Connection` s joined in memory, and a peer that speaks yamux by hand."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from lattica.errors import ConnectionClosedError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import Turnstile
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.upgrade import Upgrade, Upgraded
from lattica.nat.swarm.serving.protocols import ProtocolTable
from lattica.nat.swarm.yamux_connection import YamuxConnection
from tests.support.pairs.raw_pipe import PipeEnd

ALICE, BOB = Identity.generate(), Identity.generate()
TOO_LONG = 3600.0
"""Virtual seconds after which a test hangs for good."""

KIB = 1024
MIB = 1024 * KIB
PATTERN = random.Random(7).randbytes(4 * MIB)

any_pipe = pytest.mark.parametrize(
    "pipe",
    [{}, {"capacity": 1000}, {"tiny": 1}],
    ids=["wide", "narrow", "tiny"],
)
"""Arguments for :func:`connected`."""


async def quiet() -> None:
    """Let what is under way come to rest, on the same second of a virtual clock."""
    for _ in range(200):
        await trio.lowlevel.checkpoint()


class Pipe(PipeEnd):
    """A pipe that may hand out pieces of random sizes, and knows whether it is misused."""

    rng: random.Random | None = None
    rate: float | None = None
    """Bytes a second that arrive at this end; None: at once."""
    cut = False
    """Nothing that is sent arrives any more, and the sender cannot know."""
    sending = False
    sent = 0
    """Bytes this end has begun to send."""
    sends = 0
    """Calls of :meth:`send`."""

    async def receive(self) -> memoryview:
        if self.rng is not None:
            self.chunk = self.rng.choice([1, 2, 10, 100, 3000])
        piece = await super().receive()
        if self.rate is not None:
            await trio.sleep(len(piece) / self.rate)
        return piece

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.sending, "two tasks send on one socket"
        self.sending = True
        self.sent += len(data)
        self.sends += 1
        left = memoryview(data)
        await trio.lowlevel.checkpoint()
        try:
            while True:
                if self.closed or self.peer.closed:
                    raise ConnectionClosedError("the other end is gone")
                room = 0 if self.cut else self.capacity - len(self.peer._inbox)
                if room > 0:
                    self.peer._inbox += left[:room]
                    left = left[room:]
                    self._notify()
                if not left:
                    return
                await self._changed.wait()
        finally:
            self.sending = False

    def send_nowait(self, data: bytes) -> int:
        assert not self.sending, "two tasks send on one socket"
        taken = 0 if self.cut else super().send_nowait(data)
        self.sent += taken
        return taken


def pipe_pair(*, capacity: int = 1 << 20, tiny: int | None = None) -> tuple[Pipe, Pipe]:
    """Two ends; with `tiny`, a seed, they hand out pieces of 1 to 3,000 bytes."""
    addrs = Multiaddr("/ip4/127.0.0.2/tcp/50000"), Multiaddr("/ip4/127.0.0.1/tcp/4001")
    a, b = Pipe(addrs[0], addrs[1]), Pipe(addrs[1], addrs[0])
    a.peer, b.peer = b, a
    for end in (a, b):
        end.capacity = capacity
        if tiny is not None:
            end.rng = random.Random(tiny)
    return a, b


def upgraded_pair(alice: Identity = ALICE, bob: Identity = BOB) -> tuple[Upgraded, Upgraded]:
    """What a set-up between Alice (initiator) and Bob gives."""
    a, b = Upgrade(alice, initiator=True), Upgrade(bob, initiator=False)
    while a.result is None or b.result is None:
        b.receive(a.data_to_send())
        a.receive(b.data_to_send())
    return a.result, b.result


@dataclass
class End:
    """One side: its connection, and the streams that the other side opened."""

    connection: Connection
    raw: Pipe
    budget: MemoryBudget
    accepted: list[Stream] = field(default_factory=list)
    arrival: trio.Event = field(default_factory=trio.Event)

    def on_stream(self, stream: Stream) -> None:
        self.accepted.append(stream)
        self.arrival.set()
        self.arrival = trio.Event()

    async def accept(self) -> Stream:
        while not self.accepted:
            await self.arrival.wait()
        return self.accepted.pop(0)

    def open(self) -> Stream:
        return self.connection.open_stream()


def make_end(
    raw: Pipe,
    upgraded: Upgraded,
    *,
    limits: Limits | None = None,
    windows: Windows | None = None,
    timeouts: Timeouts | None = None,
    budget: MemoryBudget | None = None,
    on_stream: Callable[[Stream], None] | None = None,
) -> End:
    """A connection as the swarm makes it; running it is left to the caller."""
    budget = budget or MemoryBudget((limits or Limits()).receive_memory_total)
    windows = windows or Windows()
    ends: list[End] = []
    connection = YamuxConnection(
        raw,
        upgraded,
        Session(
            initiator=upgraded.initiator,
            clock=trio.current_time,
            windows=windows,
            limits=limits,
            timeouts=timeouts,
            budget=budget,
        ),
        turnstile=Turnstile(),
        direction=Direction.OUTBOUND if upgraded.initiator else Direction.INBOUND,
        send_buffer=windows.send_buffer,
        on_stream=on_stream or (lambda stream: ends[0].on_stream(stream)),
    )
    ends.append(End(connection, raw, budget))
    return ends[0]


async def tick(connection: Connection) -> None:
    """What the swarm does for a connection while it lives."""
    while connection.closed_reason is None:
        await trio.sleep(1)
        connection.tick()


@asynccontextmanager
async def connected(
    *,
    capacity: int = 1 << 20,
    tiny: int | None = None,
    ticking: bool = False,
    limits: Limits | None = None,
    windows: Windows | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[tuple[End, End]]:
    """Alice's end and Bob's end of a running connection."""
    raws = pipe_pair(capacity=capacity, tiny=tiny)
    a, b = (
        make_end(raw, upgraded, limits=limits, windows=windows, timeouts=timeouts)
        for raw, upgraded in zip(raws, upgraded_pair(), strict=True)
    )
    with trio.fail_after(TOO_LONG):
        async with trio.open_nursery() as nursery:
            for end in (a, b):
                nursery.start_soon(end.connection.run)
                if ticking:
                    nursery.start_soon(tick, end.connection)
            yield a, b
            for end in (a, b):
                end.connection.abort("the test is over")
                assert end.connection.session.streams == {}
                assert end.connection.session._promised == 0


class ManualPeer:
    """The other side of a connection, which may say anything at all."""

    def __init__(self, raw: Pipe, upgraded: Upgraded) -> None:
        self.raw = raw
        self.upgraded = upgraded

    async def say(self, *messages: bytes) -> None:
        """Send Noise messages with these contents, in one piece."""
        await self.raw.send(b"".join(map(self.upgraded.writer.seal, messages)))

    async def hear(self) -> bytes:
        """Receive what comes next, decrypted; empty at the end."""
        while data := await self.raw.receive():
            if messages := self.upgraded.reader.receive(data):
                return b"".join(messages)
        return b""

    async def hear_all(self) -> bytes:
        """Receive to the end."""
        parts = []
        while part := await self.hear():
            parts.append(part)
        return b"".join(parts)


@asynccontextmanager
async def against_manual_peer(
    *,
    ticking: bool = False,
    capacity: int = 1 << 20,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    budget: MemoryBudget | None = None,
    early: tuple[bytes, ...] = (),
) -> AsyncIterator[tuple[End, ManualPeer]]:
    """Bob's end of a running connection with a peer that is played by the test."""
    raws = pipe_pair(capacity=capacity)
    theirs, ours = upgraded_pair()
    if early:
        ours = replace(ours, early=early)
    end = make_end(raws[1], ours, limits=limits, timeouts=timeouts, budget=budget)
    with trio.fail_after(TOO_LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.connection.run)
            if ticking:
                nursery.start_soon(tick, end.connection)
            yield end, ManualPeer(raws[0], theirs)
            end.connection.abort("the test is over")


async def read_all(stream: Stream) -> bytes:
    """Read to the end of the stream."""
    parts = []
    while part := await stream.receive_some():
        parts.append(part)
    return b"".join(parts)


async def echo(stream: Stream) -> None:
    """Send back what comes, to its end; a lost connection is the end too."""
    try:
        async with stream:
            while data := await stream.receive_some():
                await stream.send_all(data)
            await stream.send_eof()
    except ConnectionClosedError:
        pass


async def serve_echo(end: End) -> None:
    """Echo every stream that the other side opens."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(echo, await end.accept())


async def serve(end: End, table: ProtocolTable) -> None:
    """What the swarm does with the streams that a peer opens."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(table.serve, await end.accept(), lambda: None)
