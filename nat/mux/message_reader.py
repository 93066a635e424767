"""Reads the length-prefixed messages of a stream one at a time."""

from __future__ import annotations

from collections import deque

from lattica.nat.base.errors import IncompleteReadError
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.mux.stream import Stream

_PIECE = 16 * 1024


class MessageReader:
    """Of one stream, with messages of at most `limit` bytes.

    Holds what one receive brings at most: a peer that sends faster waits for its window.
    """

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._decoder = LengthPrefixed(limit)
        self._ready: deque[bytes] = deque()

    async def next(self) -> bytes:
        """Wait for the next message, without its length.

        Raises :class:`~lattica.errors.RemoteProtocolError` for a length over the limit,
        :class:`~lattica.errors.IncompleteReadError` at the end of the stream, and what the
        stream raises. After cancellation nothing is lost.
        """
        while not self._ready:
            data = await self._stream.receive_some(_PIECE)
            if not data:
                raise IncompleteReadError("the stream ended where a message was expected")
            self._ready.extend(self._decoder.feed(data))
        return self._ready.popleft()
