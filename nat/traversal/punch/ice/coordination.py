"""Who says what, and when both begin: the course of "/lattica/ice/1". Pure.

As in libp2p's DCUtR, the opener measures the round trip between its offer and the answer, says
"start", and waits for half of it: both sides' first checks then leave at the same time and have
opened their own NATs before the other's arrive. (Linux, to name one, gives a mapping another
port if a packet of the peer's has come to the first one before it was open.)

The caller sends what `data_to_send` returns and feeds what arrives; the opener's stream ends
when it has no more use for the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lattica.nat.base.errors import IncompleteReadError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.traversal.punch.ice.messages import (
    MAX_MESSAGE,
    Answer,
    Description,
    IceMessage,
    Offer,
    Refusal,
    Start,
    decode,
    encode,
)

LONGEST_WAIT = 1.0
"""Seconds before the first check, whatever round trip was measured."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """The opener knows all it needs."""

    peer: Description
    start_at: float
    """Seconds on its clock when its checks begin."""
    round_trip: float
    """Seconds."""


class _Side:
    """What both have in common: messages in, bytes out."""

    def __init__(self) -> None:
        self._decoder = LengthPrefixed(MAX_MESSAGE)
        self._output = bytearray()

    def data_to_send(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        return data

    def _say(self, message: IceMessage) -> None:
        self._output += encode(message)

    def _decode(self, data: bytes) -> IceMessage | None:
        """The message that `data` completes; there is never a reason to send two at once."""
        if not data:
            self._decoder.finish()
            raise IncompleteReadError("the peer ended the coordination of ICE")
        messages = self._decoder.feed(data)
        if len(messages) > 1:
            raise RemoteProtocolError("ICE messages out of turn")
        return decode(messages[0]) if messages else None


class Opener(_Side):
    """The controlling side. `clock` is in seconds."""

    def __init__(self, own: Description, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._say(Offer(own))
        self._offered_at = clock()
        self._answered = False

    def receive(self, data: bytes) -> Agreed | Refusal | None:
        """Take what the peer sent; None until its answer is complete.

        Raises:
            RemoteProtocolError: what comes is no answer, or the stream has ended.
        """
        message = self._decode(data)
        if message is None:
            return None
        if self._answered or not isinstance(message, Answer | Refusal):
            raise RemoteProtocolError("ICE messages out of turn")
        self._answered = True
        if isinstance(message, Refusal):
            return message
        now = self._clock()
        round_trip = now - self._offered_at
        self._say(Start())
        wait = min(max(round_trip, 0.0) / 2, LONGEST_WAIT)
        return Agreed(message.description, now + wait, round_trip)


class Responder(_Side):
    """The controlled side: gets an offer, is told what to answer, gets the start."""

    def __init__(self) -> None:
        super().__init__()
        self._offered = False
        self._answered = False
        self._started = False

    def receive(self, data: bytes) -> Offer | Start | None:
        """Take what the peer sent; None until a message is complete.

        Raises:
            RemoteProtocolError: something else than an offer and, once it has been answered,
                a start; or the stream has ended.
        """
        message = self._decode(data)
        if isinstance(message, Offer) and not self._offered:
            self._offered = True
        elif isinstance(message, Start) and self._answered and not self._started:
            self._started = True
        elif message is not None:
            raise RemoteProtocolError("ICE messages out of turn")
        return message if isinstance(message, Offer | Start) else None

    def answer(self, own: Description) -> None:
        """Accept the offer."""
        self._reply(Answer(own))
        self._answered = True

    def refuse(self, reason: str) -> None:
        """Decline the offer; nothing follows."""
        self._reply(Refusal(reason))

    def _reply(self, message: Answer | Refusal) -> None:
        if not self._offered or self._answered:
            raise LocalProtocolError("an offer is answered once")
        self._say(message)
