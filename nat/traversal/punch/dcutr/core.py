"""The two sides of `/libp2p/dcutr` as pure machines: bytes and a clock in, bytes and a time out.

Source: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md. The side that the relayed
connection came in to is the initiator:

    initiator                                   responder
        CONNECT, its addresses        ->
                                      <-        CONNECT, its addresses
        SYNC                          ->
        half a round trip later: dial           on SYNC: dial

Up to three rounds, each with a round trip measured anew, as the first may have been a bad one.
The specification has them all on one stream; rust and go end the stream after the SYNC and
open another one, so an initiator must be able to do the same.

Who takes which part in what follows is not in the specification. In rust and go the initiator
here becomes the *server* of Noise and yamux over the punched connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.traversal.punch.dcutr.messages import (
    MAX_ADDRS,
    MAX_MESSAGE,
    Connect,
    DcutrMessage,
    Sync,
    decode,
    encode,
)

MAX_ROUNDS = 3
ANSWER_TIMEOUT = 10.0
"""Seconds within which the other side must have said what is due."""

Clock = Callable[[], float]


class _Due(Enum):
    """What may come next."""

    NOTHING = "nothing"
    CONNECT = "CONNECT"
    SYNC = "SYNC"


class Initiator:
    """:meth:`begin`, then send what :meth:`data_to_send` returns and feed what arrives to
    :meth:`receive`, until :attr:`punch_at` is there; after a failed round, begin again.
    """

    def __init__(self, clock: Clock) -> None:
        self.rounds = 0
        """Begun so far."""
        self.punch_at: float | None = None
        """When to dial, by the clock; None before that is known."""
        self.round_trip = 0.0
        """Seconds, of this round."""
        self.peer_addrs: tuple[Multiaddr, ...] = ()
        """What the responder said in this round; not to be believed."""
        self.deadline = 0.0
        """The responder's answer is too late after this."""
        self._clock = clock
        self._frames = LengthPrefixed(MAX_MESSAGE)
        self._due = _Due.NOTHING
        self._sent_at = 0.0
        self._out = b""

    def begin(self, addrs: Sequence[Multiaddr], *, fresh_stream: bool = True) -> None:
        """Begin the next round with our addresses, the first :data:`MAX_ADDRS` of them.

        Raises:
            LocalProtocolError: all rounds are used up, one is going on, or there is no address.
        """
        if self.rounds >= MAX_ROUNDS:
            raise LocalProtocolError(f"{MAX_ROUNDS} rounds are enough")
        if not fresh_stream and self._due is not _Due.NOTHING:
            raise LocalProtocolError("a round is going on on this stream")
        if not addrs:
            raise LocalProtocolError("a CONNECT needs an address")
        if fresh_stream:
            self._frames = LengthPrefixed(MAX_MESSAGE)
        self.rounds += 1
        self.punch_at = None
        self.peer_addrs = ()
        self._due = _Due.CONNECT
        self._out = encode(Connect(tuple(addrs[:MAX_ADDRS])))
        self._sent_at = self._clock()
        self.deadline = self._sent_at + ANSWER_TIMEOUT

    def data_to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the responder.

        Raises:
            RemoteProtocolError: for what it must not say, or not so late.
        """
        for frame in self._frames.feed(data):
            self._on_message(decode(frame))

    def _on_message(self, message: DcutrMessage) -> None:
        if self._due is not _Due.CONNECT:
            raise RemoteProtocolError("a hole punching message that nobody waits for")
        if not isinstance(message, Connect):
            raise RemoteProtocolError("a SYNC from the side that must wait for one")
        now = self._clock()
        if now > self.deadline:
            raise RemoteProtocolError("the answer to CONNECT came too late")
        self._due = _Due.NOTHING
        self.peer_addrs = message.addrs
        self.round_trip = max(0.0, now - self._sent_at)
        self._out = encode(Sync())
        self.punch_at = now + self.round_trip / 2


class Responder:
    """Feed what arrives to :meth:`receive`, and send what :meth:`data_to_send` returns.

    `answer` says what to tell a peer that has named its addresses: some of ours, or none, which
    ends the exchange.
    """

    def __init__(
        self, clock: Clock, answer: Callable[[Sequence[Multiaddr]], Sequence[Multiaddr]]
    ) -> None:
        self.rounds = 0
        """CONNECTs answered so far."""
        self.deadline = clock() + ANSWER_TIMEOUT
        """The next message is too late after this; while we dial, any time is right."""
        self._clock = clock
        self._answer = answer
        self._frames = LengthPrefixed(MAX_MESSAGE)
        self._due = _Due.CONNECT
        self._peer_addrs: tuple[Multiaddr, ...] = ()
        self._out = b""

    @property
    def is_between_rounds(self) -> bool:
        """The initiator may try again, or end the stream."""
        return self._due is _Due.CONNECT

    def data_to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def receive(self, data: bytes | bytearray | memoryview) -> tuple[Multiaddr, ...] | None:
        """Take bytes from the initiator; return its addresses when it is time to dial them.

        They are what it said, and not to be believed.

        Raises:
            RemoteProtocolError: for what it must not say, or not so often or so late.
            LocalProtocolError: `answer` had no address to give.
        """
        punch = None
        for frame in self._frames.feed(data):
            if self._out or punch is not None:
                raise RemoteProtocolError("the initiator does not wait for the answer")
            punch = self._on_message(decode(frame))
        return punch

    def _on_message(self, message: DcutrMessage) -> tuple[Multiaddr, ...] | None:
        now = self._clock()
        if isinstance(message, Connect):
            if self._due is not _Due.CONNECT:
                raise RemoteProtocolError("CONNECT where SYNC was due")
            if self.rounds >= MAX_ROUNDS:
                raise RemoteProtocolError(f"more than {MAX_ROUNDS} rounds")
            if not self.rounds and now > self.deadline:
                raise RemoteProtocolError("CONNECT came too late")
            addrs = tuple(self._answer(message.addrs)[:MAX_ADDRS])
            if not addrs:
                raise LocalProtocolError("no address of ours to tell the peer")
            self.rounds += 1
            self._peer_addrs = message.addrs
            self._out = encode(Connect(addrs))
            self._due = _Due.SYNC
            self.deadline = now + ANSWER_TIMEOUT
            return None
        if self._due is not _Due.SYNC:
            raise RemoteProtocolError("SYNC where CONNECT was due")
        if now > self.deadline:
            # The initiator has long dialed, and given up.
            raise RemoteProtocolError("SYNC came too late")
        self._due = _Due.CONNECT
        return self._peer_addrs
