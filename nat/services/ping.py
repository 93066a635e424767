"""libp2p ping: 32 bytes come, and go back.

Source: https://github.com/libp2p/specs/blob/master/ping/ping.md.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import trio

from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream

PING = "/ipfs/ping/1.0.0"
MAX_STREAMS = 4
"""Of one connection; the specification has two for a peer."""
_SIZE = 32
_IDLE = 60.0
"""Seconds that a stream is kept for the next ping."""


class PingService:
    """Answers pings; of a connection's streams the latest :data:`MAX_STREAMS`."""

    def __init__(self) -> None:
        self._streams: WeakKeyDictionary[Connection, list[Stream]] = WeakKeyDictionary()

    async def answer(self, stream: Stream) -> None:
        """Serve a stream until the peer ends it, is idle for a minute, or has opened too many."""
        streams = self._streams.setdefault(stream.connection, [])
        streams.append(stream)
        if len(streams) > MAX_STREAMS:
            streams.pop(0).reset("too many streams for pings")
        try:
            await _echo(stream)
        finally:
            if stream in streams:
                streams.remove(stream)


async def _echo(stream: Stream) -> None:
    while True:
        with trio.move_on_after(_IDLE):
            payload = await stream.receive_some(_SIZE)
            if not payload:
                return
            if len(payload) < _SIZE:
                payload += await stream.receive_exactly(_SIZE - len(payload))
            await stream.send_all(payload)
            continue
        stream.reset()
        return
