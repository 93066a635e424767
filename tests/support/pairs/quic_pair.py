"""Two QUIC sessions joined by a simulated network, with a clock of its own.

Nothing here waits: time jumps to the next packet or timer, so a minute of a slow and lossy
link costs as much as its packets do.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.config import Timeouts
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.qh3.core import MIN_DATAGRAM, Certificate, QuicCore, client_core, server_core
from lattica.nat.quic.session.noise import QuicNoise
from lattica.nat.quic.session.session import QuicSession
from tests.support.pairs.mux_streams import write

CLIENT_ADDRESS = ("192.0.2.1", 40000)
SERVER_ADDRESS = ("198.51.100.1", 4001)
TIMEOUTS = Timeouts()


@cache
def certificate() -> Certificate:
    return Certificate.generate()


@cache
def identity(number: int) -> Identity:
    return Identity.generate()


class Clock:
    """Seconds that pass when the network says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Link:
    """What the network does to datagrams, the same in both directions."""

    delay: float = 0.01
    jitter: float = 0.0
    """Seconds at most that a datagram takes longer, which reorders them."""
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    rate: float | None = None
    """Bytes per second."""
    queue: int = 64 * 1024
    """Bytes that wait for a link with a rate; what comes on top is lost."""
    seed: int = 0
    fate: Callable[[int, bytes], list[tuple[float, bytes]]] | None = None
    """Instead of all that: (side that sends, datagram) -> (delay, datagram) of what arrives."""


class Side:
    """A session, its address, and what happened to it."""

    def __init__(
        self,
        core: QuicCore,
        address: tuple[Any, ...],
        clock: Clock,
        *,
        number: int,
        expected_peer: PeerId | None = None,
        network_key: bytes | None = None,
        **options: Any,
    ) -> None:
        initiator = core.configuration.is_client
        self.address = address
        self.events: list[Event] = []
        self.accepted: list[MuxStream] = []
        self.error: RemoteProtocolError | None = None
        self.identity = identity(number)

        def noise(certificate_hash: bytes, expected_peer: PeerId | None) -> QuicNoise:
            return QuicNoise(
                self.identity,
                initiator=initiator,
                certificate_hash=certificate_hash,
                expected_peer=expected_peer,
                private_network_key=network_key,
            )

        self.session = QuicSession(core, noise, initiator=initiator, clock=clock, **options)
        self.session.expect(expected_peer)

    def receive(self, datagram: bytes, source: tuple[Any, ...]) -> None:
        self.take(lambda: self.session.receive(datagram, len(datagram), source))

    def take(self, call: Callable[[], list[Event]]) -> None:
        """Let the session handle something, as its driver does."""
        try:
            events = call()
        except RemoteProtocolError as error:
            self.error = self.error or error
            self.session.shut(1, str(error)[:80])
            return
        for event in events:
            if event.kind is EventKind.ACCEPTED:
                assert event.stream is not None
                self.accepted.append(event.stream)
        self.events += events


@dataclass(order=True)
class _Flight:
    time: float
    order: int
    target: int = field(compare=False)
    source: tuple[Any, ...] = field(compare=False)
    data: bytes = field(compare=False)


class Pair:
    """A client `a` and a server `b`."""

    def __init__(
        self,
        link: Link | None = None,
        *,
        datagram: int = MIN_DATAGRAM,
        a: dict[str, Any] | None = None,
        b: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.link = link or Link()
        self.random = random.Random(self.link.seed)
        self._flights: list[_Flight] = []
        self._order = itertools.count()
        self._free_at = [0.0, 0.0]
        self.sent = [0, 0]
        """Datagrams sent by each side."""
        timeouts = options.get("timeouts", TIMEOUTS)
        client = client_core(timeouts=timeouts, max_datagram_size=datagram)
        server = server_core(
            certificate(),
            original_destination_cid=client.original_destination_connection_id,
            timeouts=timeouts,
            max_datagram_size=datagram,
        )
        self.a = Side(client, CLIENT_ADDRESS, self.clock, number=1, **{**options, **(a or {})})
        self.b = Side(server, SERVER_ADDRESS, self.clock, number=2, **{**options, **(b or {})})
        self.sides = (self.a, self.b)
        self.a.session.connect(SERVER_ADDRESS)

    # --- the network ---

    def send_raw(self, side: int, data: bytes, *, source: tuple[Any, ...] | None = None) -> None:
        """Put a datagram on the way as if `side` had sent it."""
        self._launch(side, self.link.delay, data, source)

    def _launch(
        self, side: int, delay: float, data: bytes, source: tuple[Any, ...] | None = None
    ) -> None:
        heapq.heappush(
            self._flights,
            _Flight(
                self.clock.now + delay,
                next(self._order),
                1 - side,
                source or self.sides[side].address,
                data,
            ),
        )

    def _carry(self, side: int, data: bytes) -> None:
        link, chance = self.link, self.random.random
        self.sent[side] += 1
        if link.fate is not None:
            for delay, datagram in link.fate(side, data):
                self._launch(side, delay, datagram)
            return
        delay = link.delay
        if link.rate is not None:
            start = max(self._free_at[side], self.clock.now)
            if (start - self.clock.now) * link.rate > link.queue:
                return
            self._free_at[side] = start + len(data) / link.rate
            delay += self._free_at[side] - self.clock.now
        if chance() < link.loss:
            return
        if chance() < link.corruption:
            place = self.random.randrange(len(data))
            data = data[:place] + bytes((data[place] ^ 0x55,)) + data[place + 1 :]
        for _ in range(2 if chance() < link.duplication else 1):
            self._launch(side, delay + chance() * link.jitter, data)

    def transmit(self, side: int) -> None:
        """Let one side send all that it wants to send now."""
        session = self.sides[side].session
        for _ in range(100_000):
            if not session.wants_write:
                return
            for datagrams, destination in session.transmit():
                if destination == self.sides[1 - side].address:
                    for datagram in datagrams:
                        self._carry(side, datagram)
        raise AssertionError("the session wants to write without end")

    def step(self, limit: float) -> bool:
        """Send what is due and go on to the next thing that happens, until `limit`."""
        for side in (0, 1):
            self.transmit(side)
        times = [s.session.next_timer() for s in self.sides]
        due = [time for time in times if time is not None]
        if self._flights:
            due.append(self._flights[0].time)
        if not due or min(due) > limit:
            self.clock.now = max(self.clock.now, limit)
            return False
        now = self.clock.now = max(self.clock.now, min(due))
        while self._flights and self._flights[0].time <= now:
            flight = heapq.heappop(self._flights)
            self.sides[flight.target].receive(flight.data, flight.source)
        for end in self.sides:
            timer = end.session.next_timer()
            if timer is not None and timer <= now:
                end.take(end.session.on_timer)
        return True

    def run(
        self,
        until: Callable[[], bool] | None = None,
        *,
        seconds: float = 60.0,
        each: Callable[[], object] | None = None,
    ) -> bool:
        """Let time pass until `until`, or for `seconds`; return whether `until` came true."""
        limit = self.clock.now + seconds
        for _ in range(2_000_000):
            if until is not None and until():
                return True
            if not self.step(limit):
                return until is not None and until()
            if each is not None:
                each()
        raise AssertionError("the two sessions never come to rest")

    # --- shortcuts ---

    def establish(self) -> Pair:
        """Run until both know each other."""
        done = self.run(
            lambda: (
                all(side.session.remote is not None for side in self.sides)
                or any(side.error for side in self.sides)
            )
        )
        assert done, "no connection"
        for side in self.sides:
            if side.error:
                raise side.error
        return self

    def settle(self, seconds: float = 1.0) -> None:
        self.run(seconds=seconds)

    def open(self, side: int = 0, data: bytes = b"hi") -> tuple[MuxStream, MuxStream]:
        """A stream from one side, and its other end, which has `data` to read."""
        other = self.sides[1 - side]
        mine = self.sides[side].session.open()
        write(mine, data)
        count = len(other.accepted)
        assert self.run(lambda: len(other.accepted) > count), "the stream does not arrive"
        return mine, other.accepted[-1]
