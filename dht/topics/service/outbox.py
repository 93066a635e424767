"""What waits to be sent to a peer: bounded, control messages first. Pure."""

from __future__ import annotations

from collections import deque

from lattica.dht.topics.messages import MAX_JOINED
from lattica.nat.base.wire import encode_uvarint

MAX_CONTROL = 4 * 1024 * 1024
"""Bytes of control messages that wait for a peer at most; one that lets more pile up is given
up."""
BATCH = 64 * 1024
"""Bytes that are handed to the stream at once."""


class Outbox:
    """RPCs for one peer.

    Args:
        limit: bytes of messages from which on it is full. One's own messages are taken all the
            same: their publishers wait, so that there are not many.
    """

    __slots__ = ("_control", "_control_size", "_limit", "_messages", "dropped", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._control: deque[bytes] = deque()
        self._control_size = 0
        self._messages: deque[bytes] = deque()
        self.size = 0
        """Bytes of messages that wait."""
        self.dropped = 0
        """Messages of others that found no room."""

    def __bool__(self) -> bool:
        return bool(self._control or self._messages)

    @property
    def is_full(self) -> bool:
        return self.size >= self._limit

    @property
    def is_hopeless(self) -> bool:
        """More control messages wait than an honest peer lets pile up."""
        return self._control_size > MAX_CONTROL

    def control(self, rpc: bytes) -> None:
        self._control.append(rpc)
        self._control_size += len(rpc)

    def offer(self, rpc: bytes, *, own: bool) -> bool:
        """Take an RPC with one message, if there is room or it is our own."""
        if self.size >= self._limit and not own:
            self.dropped += 1
            return False
        self._messages.append(rpc)
        self.size += len(rpc)
        return True

    def clear(self) -> None:
        """Nothing waits any more."""
        self._control.clear()
        self._messages.clear()
        self._control_size = self.size = 0

    def take(self) -> bytes:
        """What to send next, each RPC with its length in front; empty when there is nothing.

        Messages that are small go into one RPC. Control messages do not: in an RPC of two, some
        implementations read the last.
        """
        parts: list[bytes] = []
        room = BATCH
        while self._control and room > 0:
            rpc = self._control.popleft()
            self._control_size -= len(rpc)
            room -= len(rpc)
            parts += encode_uvarint(len(rpc)), rpc
        messages = self._messages
        while messages and room > 0:
            joined = [messages.popleft()]
            size = len(joined[0])
            while messages and size + len(messages[0]) <= MAX_JOINED:
                size += len(messages[0])
                joined.append(messages.popleft())
            self.size -= size
            room -= size
            parts.append(encode_uvarint(size))
            parts += joined
        return b"".join(parts)
